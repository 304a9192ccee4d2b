"""Have a staging worker carry out an order, and write down what it tells meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pbsdock.agent.node import ms_since
from pbsdock.agent.protocols import GivesOrders
from pbsdock.agent.stage_items import item_of, keep_in, uploads_for, with_upload
from pbsdock.agent.work import Work
from pbsdock.core.errors import Refusal
from pbsdock.core.plan import Plan, Stage
from pbsdock.core.record import Record
from pbsdock.staging.order import Access, Direction, Order

if TYPE_CHECKING:
    from pbsdock.stores.secret import Secret

_EVENT_S = 5.0
_UNDO_PATIENCE_S = 5.0
_UNDO_S = 120.0


class StageFailed(Exception):
    """A worker's order was not carried out."""

    def __init__(self, code: str, sentence: str, where: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = f"{where}: {sentence}" if where else sentence


def carry_out(
    node: GivesOrders, record: Record, plan: Plan, direction: Direction, stages: Sequence[Stage], work: Work
) -> tuple[dict[str, Any], float]:
    """Have an order carried out; returns the worker's counters and seconds. Raises StageFailed, Refusal."""
    began = time.monotonic()
    uploads = uploads_for(record.facts, direction, stages)
    items = tuple(item_of(record, plan, stage) for stage in stages)
    if direction != "undo":
        node.emit("stage.begun", record, direction=direction, items=len(items))
    try:
        wanted = {use.store for use in (uploads if direction == "undo" else items)}
        order = Order(
            direction=direction,
            uid=plan.uid,
            gid=plan.gid,
            groups=plan.groups,
            mark=record.incarnation,
            items=items,
            stores=_accesses(node, record, plan, wanted),
            uploads=uploads,
            keep=keep_in(plan, record),
            patience_s=_UNDO_PATIENCE_S if direction == "undo" else node.config.staging.patience_s,
        )
        done = _obeyed(node, record, plan, order, work)
    except OSError as error:
        failed: StageFailed | Refusal = StageFailed("stage-failed", f"no staging worker can be had: {error.strerror}")
    except (StageFailed, Refusal) as error:
        failed = error
    else:
        if direction != "undo":
            node.emit(
                "stage.done",
                record,
                direction=direction,
                files=done["files"],
                bytes=done["bytes"],
                skipped=done["skipped"],
                unverified=done["unverified"],
                ms=ms_since(began),
            )
        return done, time.monotonic() - began
    node.emit(
        "stage.failed",
        record,
        level="warning",
        direction=direction,
        code=failed.code,
        reason=failed.sentence,
        ms=ms_since(began),
    )
    raise failed


def _obeyed(node: GivesOrders, record: Record, plan: Plan, order: Order, work: Work) -> dict[str, Any]:
    work.worker = node.spawner.worker()
    if work.interrupted:
        work.worker.kill()
    if order.direction != "undo":
        return _heard(node, record, plan, order, work)
    # A release waits for it, be it the reaper's, and its user can stop a process that is theirs.
    timer = threading.Timer(_UNDO_S, work.worker.kill)
    timer.daemon = True
    timer.start()
    try:
        return _heard(node, record, plan, order, work)
    finally:
        timer.cancel()


def _heard(node: GivesOrders, record: Record, plan: Plan, order: Order, work: Work) -> dict[str, Any]:
    """What the worker says once it is done. Raises StageFailed."""
    assert work.worker is not None
    told = time.monotonic()
    heard = work.worker.obey(order, lambda store: _fresh_keys(node, record, plan, store))
    for message in heard:
        if "done" in message:
            if order.direction == "in":
                work.held = heard  # the worker is ended when this is
            return dict(message["done"])
        if "failed" in message:
            failed = message["failed"]
            raise StageFailed(str(failed["code"]), str(failed["sentence"]), str(failed["where"]))
        if "upload" in message:
            _note_upload(record, message["upload"])
        elif "progress" in message and time.monotonic() - told >= _EVENT_S:
            told, seen = time.monotonic(), message["progress"]
            names = ("files_done", "files", "bytes_done", "bytes")
            node.emit("stage.progress", record, direction=order.direction, **{name: seen[name] for name in names})
    if work.interrupted:
        raise StageFailed("stopped", f"staging was stopped: {work.interrupted}")
    raise StageFailed("stage-failed", "the staging worker was killed")


def _note_upload(record: Record, upload: Mapping[str, Any]) -> None:
    """Durable enough: a killed agent's successor goes on with it, or ends it."""
    record.note(uploads=with_upload(record.facts.uploads, upload))
    record.save()


def _accesses(node: GivesOrders, record: Record, plan: Plan, wanted: set[str]) -> dict[str, Access]:
    secrets = node.stores.staging(record, plan) if wanted else {}
    made = {}
    for name in sorted(wanted):
        settings = node.config.s3.get(name)
        if settings is None or name not in secrets:
            raise Refusal("no-such-store", f"object store {name}: it is no longer in the site's configuration")
        made[name] = Access(
            endpoint=settings.endpoint,
            region=settings.region,
            path_style=settings.path_style,
            ca_bundle=settings.ca_bundle,
            parallel=settings.parallel,
            keys=_keys(secrets[name]),
        )
    return made


def _fresh_keys(node: GivesOrders, record: Record, plan: Plan, store: str) -> dict[str, Any]:
    try:
        return {"keys": _keys(node.stores.staging(record, plan)[store])}
    except Refusal as error:
        return {"reason": error.sentence}
    except KeyError:
        return {"reason": f"there is no store {store!r}"}


def _keys(secret: Secret) -> dict[str, Any]:
    return {
        "access_key": secret.access_key,
        "secret_key": secret.secret_key,
        "token": secret.token,
        "expires": secret.expires,
    }
