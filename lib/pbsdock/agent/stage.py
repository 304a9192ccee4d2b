"""Staging as the agent sees it: begun, waited for, interrupted, undone; the copying is a worker's.

Stage-in begins when the prologue has prepared the rest and is waited for before the container is made, so no alarm of
mom's limits it. Stage-out begins when the container has ended and is over before the run hook is told so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pbsdock.agent.node import Node, ms_since
from pbsdock.agent.runs import JobRun
from pbsdock.agent.work import Work
from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Exit, Upload
from pbsdock.core.pathrules import below
from pbsdock.core.plan import Plan, Stage
from pbsdock.core.record import Record, State
from pbsdock.core.sizes import human
from pbsdock.staging.order import Access, Direction, Item, Order

NOT_UPLOADED = 74  # EX_IOERR of sysexits.h: what a job ends with whose results are not where it asked for them
_EVENT_S = 5.0
_UNDO_PATIENCE_S = 5.0
_UNDO_S = 120.0


class StageFailed(Exception):
    """A worker's order was not carried out."""

    def __init__(self, code: str, sentence: str, where: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = f"{where}: {sentence}" if where else sentence


# -- stage-in ---------------------------------------------------------------------------------------------------------


def begin_in(node: Node, record: Record, plan: Plan) -> Work:
    """Begin, in a thread of its own."""
    work = node.jobs.begin_work(record)
    threading.Thread(target=_stage_in, args=(node, record, plan, work), name="stage-in", daemon=True).start()
    return work


def _stage_in(node: Node, record: Record, plan: Plan, work: Work) -> None:
    try:
        record.note(staged_in="begun")
        record.save()
        done, seconds = _run(node, record, plan, "in", plan.stage_in, work)
        record.note(staged_in="done")
        record.save()
        there = f", {done['skipped']} of them there already" if done["skipped"] else ""
        work.said = [f"staged in {_amount(done)} in {seconds:.1f} s{there}"]
    except StageFailed as error:
        work.error = Refusal(error.code, f"{error.sentence}; nothing was started")
    except Refusal as error:
        work.error = error
    except Exception as error:  # whoever waits must be let go
        node.emit("agent.error", record, level="error", where="stage-in", reason=repr(error)[:300])
        work.error = Refusal("stage-failed", "the job's files could not be staged in; nothing was started")
    finally:
        work.over.set()


def await_in(node: Node, record: Record, tell: Callable[[], None], every_s: float = 20.0) -> list[str]:
    """Wait for a job's stage-in; returns what its user is told of it. Calls *tell* now and then. Raises Refusal."""
    plan = record.planned
    is_done = record.facts.staged_in == "done" and node.jobs.work_of(record) is None
    if not plan.stage_in or is_done:
        return []
    work = node.jobs.work_of(record) or begin_in(node, record, plan)
    pause = 0.05
    while not work.over.wait(pause):
        tell()
        pause = every_s
    if work.error is not None:
        raise work.error
    node.jobs.drop_work(record)
    return work.said


# -- stage-out --------------------------------------------------------------------------------------------------------


def due(record: Record, code: int) -> list[Stage]:
    """What is to be staged out of a job that ended with *code*."""
    stages = record.plan.stage_out if record.plan else ()
    return [stage for stage in stages if stage.always or code == 0]


def begin_out(
    node: Node, running: JobRun, conclude: Callable[[Node, JobRun], None], tidy: Callable[[Node, Record], None]
) -> None:
    """Stage out in a thread of its own, then *conclude* the job and *tidy* up. The record's exit says how the container
    ended."""
    work = node.jobs.begin_work(running.record)

    def act() -> None:
        try:
            _surely(node, running.record, lambda: _stage_out(node, running.record, work))
            _surely(node, running.record, lambda: conclude(node, running))
        finally:
            work.over.set()  # whoever waits must be let go
        tidy(node, running.record)

    threading.Thread(target=act, name="stage-out", daemon=True).start()


def _surely(node: Node, record: Record, act: Callable[[], None]) -> None:
    """Do it and tell what goes wrong: the run hook still waits for the end."""
    try:
        act()
    except Exception as error:
        node.emit("agent.error", record, level="error", where="stage-out", reason=repr(error)[:300])


def _stage_out(node: Node, record: Record, work: Work) -> None:
    end = record.exit or Exit(code=137)
    plan = record.planned
    items = due(record, end.code)
    try:
        record.note(staged_out="begun")
        record.save()
        done, seconds = _run(node, record, plan, "out", items, work)
        said = [f"staged out {_amount(done)} in {seconds:.1f} s"]
        said += [f"not staged out: {name}" for name in done["left_out"][:10]]
        code = end.code or (NOT_UPLOADED if done["left_out"] else 0)
        record.note(staged_out="done")
    except (StageFailed, Refusal) as error:
        said = [f"{error.sentence}; {_kept(node, record, plan, items)}"]
        code = end.code or NOT_UPLOADED
    except Exception as error:  # the job must come to its end
        node.emit("agent.error", record, level="error", where="stage-out", reason=repr(error)[:300])
        said = [f"the results could not be staged out; {_kept(node, record, plan, items)}"]
        code = end.code or NOT_UPLOADED
    record.exit = replace(end, code=code, sentences=(*end.sentences, *said))


def _kept(node: Node, record: Record, plan: Plan, items: Sequence[Stage]) -> str:
    """See to it that what was not uploaded outlives the job; returns where it is, for the sentence."""
    try:
        undo(node, record)
    except (Refusal, StageFailed, OSError) as error:  # the release tries again
        node.emit("release.failed", record, level="warning", reason=f"staging: {error}", phase="run")
    places = [place for one in items if (place := _place(record, plan, one)) and not _is_doomed(plan, one)]
    places = list(dict.fromkeys((*places, *record.facts.kept)))
    if not places:
        return "nothing was there to be kept"
    return f"what was not uploaded is kept on {node.name} in {', '.join(places[:5])}"


def _place(record: Record, plan: Plan, stage: Stage) -> str:
    try:
        return item_of(record, plan, stage).path
    except Refusal:
        return ""


def settle(
    node: Node, record: Record, until: float, end: Callable[[JobRun], None], tell: Callable[[str], None]
) -> None:
    """Before a record is released: let a stage-out that was not interrupted go on until *until* (monotonic).

    A job that was killed has its container ended by *end* first where it stages out in any case. What the run hook
    was not there any more to hear is told.
    """
    running = node.jobs.job_run(record.incarnation)
    if record.state is State.RUNNING and running is not None and due(record, 1):
        node.cgroups.kill(record.cgroup, 5.0)
        deadline = time.monotonic() + 10.0
        while record.state is State.RUNNING and time.monotonic() < deadline:
            end(running)
            time.sleep(0.05)
    work = node.jobs.work_of(record)
    if work is not None and record.state is State.STAGING and not work.over.wait(max(0.0, until - time.monotonic())):
        work.interrupt("the time mom grants the epilogue is over")
        work.over.wait(60.0)
    for sentence in record.facts.untold:
        tell(sentence)


def interrupt(node: Node, record: Record, why: str) -> None:
    """A signal has come for a job that stages out: what was to be uploaded in any case still is."""
    work = node.jobs.work_of(record)
    if work is not None and not due(record, 1):
        work.interrupt(why)


# -- the end ----------------------------------------------------------------------------------------------------------


def stop(node: Node, record: Record) -> None:
    """End what is under way."""
    work = node.jobs.work_of(record)
    if work is not None and not work.over.is_set():
        work.interrupt("the job is over")
        work.over.wait(60.0)


def undo(node: Node, record: Record) -> None:
    """Remove what is unfinished; where to what would be lost was moved is then in the record's facts as ``kept``.

    First what needs no store, which may be away. Raises Refusal, StageFailed when something is left.
    """
    plan = record.planned
    halves = [half for half in ("staged_in", "staged_out") if getattr(record.facts, half) == "begun"]
    items: list[Stage] = []
    if "staged_in" in halves:
        items += plan.stage_in
    if "staged_out" in halves:
        items += due(record, record.exit.code if record.exit else 1)
    if items:
        done, _ = _run(node, record, plan, "undo", items, Work())
        record.note(kept=(*record.facts.kept, *done["kept"]), **dict.fromkeys(halves, "undone"))
        record.save()
    if record.facts.uploads:
        _run(node, record, plan, "undo", (), Work())
        record.note(uploads={})
        record.save()


# -- a worker's order -------------------------------------------------------------------------------------------------


def item_of(record: Record, plan: Plan, stage: Stage) -> Item:
    """Where on the host a staging option's path is. Raises Refusal if the mount it lies in was left out."""
    fitting = [one for one in record.facts.bound if below(stage.path, one.target)]
    if not fitting:
        raise Refusal(
            "stage-path-not-mounted", f"{stage.where}: {stage.path} is in a directory that could not be mounted"
        )
    mount = max(fitting, key=lambda one: len(one.target))
    rest = stage.path.removeprefix(mount.target.rstrip("/"))
    return Item(
        store=stage.store,
        bucket=stage.bucket,
        key=stage.key,
        path=mount.source.rstrip("/") + rest or "/",
        root=mount.source,
        shown=stage.path,
        where=stage.where,
        doomed=_is_doomed(plan, stage),
    )


def _is_doomed(plan: Plan, stage: Stage) -> bool:
    """Whether the path goes with the job: mom removes TMPDIR."""
    return any(one.origin == "tmpdir" and below(stage.path, one.target) for one in plan.mounts)


def _keep_in(plan: Plan, record: Record) -> str:
    work = next((one.source for one in plan.mounts if one.origin == "workdir" and not one.read_only), plan.home)
    return f"{work}/pbsdock-kept.{record.safe}"


def _run(
    node: Node, record: Record, plan: Plan, direction: Direction, stages: Sequence[Stage], work: Work
) -> tuple[dict[str, Any], float]:
    """Have an order carried out; returns the worker's counters and seconds. Raises StageFailed, Refusal."""
    began = time.monotonic()
    # To be gone on with, or to be ended: that is an order of its own, which needs the store.
    uploads = tuple(record.facts.uploads.values()) if direction == "out" or not stages else ()
    items = tuple(item_of(record, plan, one) for one in stages)
    if direction != "undo":
        node.emit("stage.begun", record, direction=direction, items=len(items))
    try:
        wanted = {one.store for one in (uploads if direction == "undo" else items)}
        order = Order(
            direction=direction,
            uid=plan.uid,
            gid=plan.gid,
            groups=plan.groups,
            mark=record.incarnation,
            items=items,
            stores=_accesses(node, record, plan, wanted),
            uploads=uploads,
            keep=_keep_in(plan, record),
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


def _obeyed(node: Node, record: Record, plan: Plan, order: Order, work: Work) -> dict[str, Any]:
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


def _heard(node: Node, record: Record, plan: Plan, order: Order, work: Work) -> dict[str, Any]:
    """What the worker says once it is done. Raises StageFailed."""
    assert work.worker is not None
    told = time.monotonic()
    for message in work.worker.obey(order, lambda store: _fresh_keys(node, record, plan, store)):
        if "done" in message:
            return dict(message["done"])
        if "failed" in message:
            failed = message["failed"]
            raise StageFailed(str(failed["code"]), str(failed["sentence"]), str(failed["where"]))
        if "upload" in message:
            _note_upload(node, record, message["upload"])
        elif "progress" in message and time.monotonic() - told >= _EVENT_S:
            told, seen = time.monotonic(), message["progress"]
            names = ("files_done", "files", "bytes_done", "bytes")
            node.emit("stage.progress", record, direction=order.direction, **{one: seen[one] for one in names})
    if work.interrupted:
        raise StageFailed("stopped", f"staging was stopped: {work.interrupted}")
    raise StageFailed("stage-failed", "the staging worker was killed")


def _note_upload(node: Node, record: Record, upload: dict[str, Any]) -> None:
    """Durable enough: a killed agent's successor goes on with it, or ends it."""
    uploads = dict(record.facts.uploads)
    name = f"{upload['store']}:{upload['bucket']}/{upload['key']}"
    if upload["id"]:
        uploads[name] = Upload(**{part: str(upload[part]) for part in ("store", "bucket", "key", "id")})
    else:
        uploads.pop(name, None)
    record.note(uploads=uploads)
    record.save()


def _accesses(node: Node, record: Record, plan: Plan, wanted: set[str]) -> dict[str, Access]:
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


def _fresh_keys(node: Node, record: Record, plan: Plan, store: str) -> dict[str, Any]:
    try:
        return {"keys": _keys(node.stores.staging(record, plan)[store])}
    except Refusal as error:
        return {"reason": error.sentence}
    except KeyError:
        return {"reason": f"there is no store {store!r}"}


def _keys(secret: Any) -> dict[str, Any]:
    return {
        "access_key": secret.access_key,
        "secret_key": secret.secret_key,
        "token": secret.token,
        "expires": secret.expires,
    }


def _amount(done: dict[str, Any]) -> str:
    files = int(done["files"])
    return f"{files} file{'' if files == 1 else 's'}, {human(int(done['bytes']))}"
