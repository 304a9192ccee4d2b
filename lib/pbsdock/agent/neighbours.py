"""The other nodes of the cluster: what their agents may ask this one, and what this one asks theirs.

Every question is of root of another node, by its signature; none changes anything here, but for "pull", which has an
image pulled that this node's policy allows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

from pbsdock.agent import stories
from pbsdock.agent.findings import judge
from pbsdock.agent.node import Node
from pbsdock.agent.script import has_directive
from pbsdock.agent.usage import level_of, usage_of
from pbsdock.agent.version import version
from pbsdock.cluster import client
from pbsdock.cluster.channel import ChannelError, Request, is_same_host
from pbsdock.cluster.listener import Handler, Listener
from pbsdock.cluster.signing import SigningError
from pbsdock.core.errors import BadValue, HookError
from pbsdock.core.facts import Level, Usage, uptime
from pbsdock.core.record import Record, State
from pbsdock.core.story import OVER
from pbsdock.engine.base import EngineError

_AGAIN_S = 30.0  # between two tries to listen
_ROW_S = 5.0  # for one node's row of a job
_AT_ONCE = 16
_IMAGE_S = 3.0

Found = TypeVar("Found")
NO_ANSWER = (ChannelError, SigningError)  # what a question raises that got none
Row = dict[str, Any]


def ask(node: Node, host: str, op: str, job: str, *, timeout_s: float = _ROW_S, **fields: Any) -> dict[str, Any]:
    """What the agent of *host* answers. Raises ChannelError, SigningError. Never on a thread that others wait for."""
    port = node.config.nodes.port
    if not port:
        raise ChannelError("no-channel", "nodes.port is 0: this site's agents do not ask each other")
    signer = node.signer
    if signer is None:
        sentence = f"{node.name} has neither munge nor a key of the cluster, so no other node believes it"
        raise ChannelError("no-channel", sentence)
    fields["release"] = version()
    answer = client.ask(signer, host, port, op, job, timeout_s=timeout_s, sender=node.name, **fields)
    node.known_nodes.heard(host, answer.pop("release", None))
    return answer


# -- what others ask --------------------------------------------------------------------------------------------------


def handlers(node: Node) -> dict[str, Handler]:
    """Every question there is. They raise OSError.

    Whoever asks and whoever answers tells its version along, which is kept for ``pbsdock doctor``.
    """

    def heard(answer: Callable[[Node, Request], Row]) -> Handler:
        def told(asked: Request) -> Row:
            node.known_nodes.heard(asked.sender, asked.fields.get("release"), asked.at - time.time())
            return {**answer(node, asked), "release": version()}

        return told

    def pull(node: Node, asked: Request) -> Row:
        return node.ordered_pulls.answer(node, asked)

    asked_for = {"job": job, "ticket": ticket, "image": image, "why": why, "pull": pull}
    return {op: heard(answer) for op, answer in asked_for.items()}


def job(node: Node, asked: Request) -> Row:
    """What this node knows of a job, or with an incarnation of what is over: see :func:`row`. Raises OSError."""
    found = row(node, asked.job, node.jobs.newest(asked.job))
    wanted = asked.fields.get("incarnation")
    if wanted is None or found.get("incarnation") == wanted:
        return found
    for story in node.history.of(asked.job, None):
        if story.incarnation == wanted:
            return {**found, "state": OVER, "incarnation": wanted, "usage": asdict(story.used or Usage())}
    return found


def ticket(node: Node, asked: Request) -> Row:
    """A job's ticket, "" where there is none, and ``state``: that of its record, "unknown" without one.

    Sisters are told of a job before its prologue runs here; ``bare`` then: whether it will have no container.
    """
    record = node.jobs.newest(asked.job)
    if record is None:
        return {"ticket": "", "state": "unknown", "bare": _is_bare(node, asked.job)}
    told: Row = {"ticket": record.facts.ticket, "state": record.state.value, "incarnation": record.incarnation}
    if record.refusal is not None:
        told |= {"code": record.refusal.code, "sentence": record.refusal.sentence}
    return told


def image(node: Node, asked: Request) -> Row:
    """Whether this node's engine has the image with that id; None where it cannot be asked."""
    try:
        return {"has": node.images.inspect(str(asked.fields.get("image_id"))) is not None}
    except HookError:
        return {"has": None}


def why(node: Node, asked: Request) -> Row:
    """What this node tells of an incarnation of a job, to a node that says whose it is; the owner's or nobody's."""
    uid, incarnation = asked.fields.get("uid"), asked.fields.get("incarnation")
    if isinstance(uid, bool) or not isinstance(uid, int) or not isinstance(incarnation, str):
        return {"node": node.name, "state": stories.FORGOTTEN}
    return stories.for_others(node, asked.job, incarnation, uid)


def without_image(node: Node, hosts: Sequence[str], job_id: str, image_id: str) -> list[str]:
    """Those of *hosts* that say that they do not have an image; who gives no answer is not among them."""

    def lacks(host: str) -> bool:
        try:
            return ask(node, host, "image", job_id, timeout_s=_IMAGE_S, image_id=image_id).get("has") is False
        except NO_ANSWER:
            return False

    return [host for host, found in of_others(node, hosts, lacks) if found]


def _is_bare(node: Node, job_id: str) -> bool:
    """Whether neither the job's script nor its request has a directive; where that cannot be told it is not bare."""
    try:
        if node.rm.prepares_at_start:  # by its first command: no task is older than that, but for one from outside
            return not has_directive(node.rm, node.rm.script_named([job_id], {}))
        live = node.rm.find(job_id, waits=False)
        if live is None or live.is_sister or live.directive:
            return False
        path = live.job({}).script_path
        return path is None or not has_directive(node.rm, path)
    except (OSError, BadValue, KeyError):
        return False


def row(node: Node, job_id: str, record: Record | None) -> Row:
    """A job on this node. Times are seconds since the epoch, sizes bytes; None for what is not known.

    ``alive``: whether it lives here by its record and the resource manager's file, None where that cannot be read.
    """
    told: Row = {
        "node": node.name,
        "state": record.state.value if record is not None else "none",
        "alive": _is_alive(node, job_id, record),
    }
    if record is None:
        return told
    usage, level = _used(node, record)
    return told | {
        "incarnation": record.incarnation,
        "user": record.user,
        "image": record.plan.image if record.plan is not None else None,
        "image_id": record.image_id,
        "image_digest": record.image_digest,
        "since": record.created,
        "started_at": record.facts.started_at,
        "hosts": list(record.facts.hosts),
        "tasks": node.tasks(record),
        "memory_limit_bytes": record.plan.limits.memory_bytes if record.plan is not None else None,
        "memory_bytes": level.memory_bytes,
        "usage": asdict(usage),
        "exit": record.exit.code if record.exit is not None else None,
    }


def _is_alive(node: Node, job_id: str, record: Record | None) -> bool | None:
    try:
        if record is None:
            return node.rm.is_live(job_id)
        grace_s = node.config.reaper.grace_s
        verdict = judge(record, boot=node.boot, job_files=node.rm.live(), up_s=uptime(), grace_s=grace_s)
        return not verdict.is_dead
    except (OSError, BadValue):
        return None


def _used(node: Node, record: Record) -> tuple[Usage, Level]:
    if record.state is State.RUNNING:
        with suppress(HookError, EngineError, OSError):
            return usage_of(node, record), level_of(node, record)
    return record.facts.usage or Usage(), Level()


# -- all nodes of a job -----------------------------------------------------------------------------------------------


def of_others(node: Node, hosts: Sequence[str], find: Callable[[str], Found]) -> list[tuple[str, Found]]:
    """Each of *hosts* but this node, with what *find* has for it; they are asked at a time."""
    others = [host for host in hosts if not is_same_host(host, node.name)]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ask") as pool:
        return list(zip(others, pool.map(find, others), strict=True))


def rows(node: Node, record: Record) -> list[Row]:
    """A job on each of its nodes, this one first. One that does not answer has ``state`` "no-answer", and ``problem``,
    a sentence."""
    mine = row(node, record.job_id, record)
    theirs = of_others(node, record.facts.hosts, lambda host: _row_of(node, host, record.job_id))
    # A host whose name is not its own may turn out to be this one.
    return [mine, *(found for _host, found in theirs if found["node"] != mine["node"])]


def _row_of(node: Node, host: str, job_id: str) -> Row:
    try:
        return {"node": host, **ask(node, host, "job", job_id)}
    except NO_ANSWER as error:
        return silent(host, error.code, error.sentence)


def silent(host: str, code: str, sentence: str) -> Row:
    """The row of a node that has told nothing, and why. Pure."""
    return {"node": host, "state": stories.NO_ANSWER, "code": code, "problem": sentence}


# -- listening --------------------------------------------------------------------------------------------------------


def listen(node: Node) -> None:
    """Listen as soon as there is something to sign with and the port is free; neither is waited for here."""
    with suppress(OSError):
        node.paths.asks_nodes.unlink(missing_ok=True)
    if node.config.nodes.port:
        threading.Thread(target=_Opening(node).run, name="neighbours", daemon=True).start()


class _Opening:
    """Tries until this node listens, and tells once of each thing that is in the way.

    Jobs of one node are not concerned, so the node stays in service.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._problem = ""

    def run(self) -> None:
        while not self.succeeds():
            time.sleep(_AGAIN_S)

    def succeeds(self) -> bool:
        node, settings = self._node, self._node.config.nodes
        try:
            signer = node.signer
            if signer is None:
                return False  # a site of jobs on one node needs none
            skew_s = settings.clock_skew_s
            listener = Listener(signer, settings.port, node.name, handlers(node), node.emit, skew_s=skew_s)
            listener.start()
        except SigningError as error:
            self._tell(error.sentence)
            return False
        except (OSError, RuntimeError) as error:
            self._tell(getattr(error, "strerror", None) or str(error))
            return False
        with suppress(OSError):
            node.paths.markers.mkdir(mode=0o711, exist_ok=True)
            node.paths.asks_nodes.touch(mode=0o644)
        node.emit("channel.listening", port=listener.port, signer=signer.name)
        return True

    def _tell(self, reason: str) -> None:
        if reason != self._problem:
            self._problem = reason
            self._node.emit("channel.failed", level="warning", port=self._node.config.nodes.port, reason=reason)
