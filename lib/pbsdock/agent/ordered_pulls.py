"""Images that root of another node has pulled here: ``pbsdock images pull --on``.

A question of the channel like the others: what is asked is how far an order is, and the first time that begins it. So
whoever hears an order twice does it once, and after a restart of the agent it is begun anew. This node's own policy
says which images may come this way, its own login fetches them, and its own limits hold.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from pbsdock.agent import logins
from pbsdock.cluster.channel import Request
from pbsdock.config.tables import Config
from pbsdock.core.errors import HookError
from pbsdock.directive.image_ref import BadImage, ImageRef, parse_image
from pbsdock.engine.images import Images
from pbsdock.policy.decide import anybody_may_run

_AT_ONCE = 16  # orders that are not over
_MOST = 256  # remembered
_TOTAL_S = 3600.0
_ORDER = re.compile(r"[0-9a-f]{16,64}")

Row = dict[str, Any]


class HasPulls(Protocol):
    """What of the node is needed."""

    name: str
    config: Config
    images: Images

    def emit(self, event: str, **fields: Any) -> None:
        """Emit an event."""


@dataclass(slots=True)
class _Order:
    image: str
    began: float = field(default_factory=time.monotonic)
    told: Row = field(default_factory=lambda: {"state": "pulling"})


class OrderedPulls:
    """Those of a node; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: dict[str, _Order] = {}

    def answer(self, node: HasPulls, asked: Request) -> Row:
        """How far it is: ``state`` "pulling", "done" with ``fetched``, ``digest`` and ``id``, or "refused" or "failed"
        with ``code`` and ``sentence``. Raises nothing for what an order lacks."""
        number, always = str(asked.fields.get("order", "")), asked.fields.get("always") is True
        try:
            image = parse_image(str(asked.fields.get("image", "")))
        except BadImage as error:
            return _refused("bad-image", str(error))
        if not _ORDER.fullmatch(number):
            return _refused("bad-order", "an order has 16 to 64 hexadecimal digits as its number")
        if sentence := _closed(node, image):
            return _refused("image-not-allowed", sentence)
        with self._lock:
            order = self._orders.get(number)
            if order is not None:
                return order.told if order.image == image.canonical else _refused("bad-order", "it has another image")
            if sum(other.told["state"] == "pulling" for other in self._orders.values()) >= _AT_ONCE:
                return {"state": "later"}
            order = self._orders[number] = _Order(image.canonical)
            self._forget()
        node.emit("image.ordered", image=image.canonical, sender=asked.sender)
        threading.Thread(target=self._pull, args=(node, order, always), name="ordered-pull", daemon=True).start()
        return order.told

    def _forget(self) -> None:
        over = [number for number, order in self._orders.items() if order.told["state"] != "pulling"]
        for number in over[: max(0, len(self._orders) - _MOST)]:
            del self._orders[number]

    @staticmethod
    def _pull(node: HasPulls, order: _Order, always: bool) -> None:
        settings = node.config.images
        try:
            with logins.site_asker(node.config.engine.docker_config) as asker:
                found = node.images.ensure(
                    order.image,
                    pull="always" if always else "missing",
                    platform=None,
                    inactivity_s=settings.inactivity_s,
                    total_s=_TOTAL_S,
                    max_bytes=settings.max_bytes,
                    asker=asker,
                )
            told: Row = {"state": "done", "fetched": found.is_fetched, "digest": found.digest, "id": found.id}
        except HookError as error:
            told = {"state": "failed", "code": error.code, "sentence": error.sentence[:2000]}
        except Exception as error:  # whoever asks must hear of an end
            told = {"state": "failed", "code": "agent-error", "sentence": f"{node.name} could not pull it"}
            node.emit("agent.error", level="error", where="ordered pull", reason=repr(error)[:300])
        order.told = {**told, "seconds": round(time.monotonic() - order.began, 1)}


def _closed(node: HasPulls, image: ImageRef) -> str:
    """Why this node does not take it, "" if it does: what may run here for anybody may be had here."""
    if not node.config.nodes.pulls:
        return f"{node.name} takes no orders of other nodes (nodes.pulls)"
    if anybody_may_run(image, node.config):
        return ""
    return f"images.allow of {node.name} lets nobody run image {image.canonical!r} there"


def _refused(code: str, sentence: str) -> Row:
    return {"state": "refused", "code": code, "sentence": sentence}
