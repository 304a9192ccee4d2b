"""Staging as the agent sees it: begun, waited for, interrupted, undone; the copying is a worker's.

Stage-in begins when the prologue has prepared the rest and is waited for before the container is made, so no alarm of
mom's limits it. Stage-out begins when the container has ended and is over before the run hook is told so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pbsdock.agent.node import Node
from pbsdock.agent.runs import JobRun
from pbsdock.agent.stage_items import (
    due,
    exit_code,
    kept_places,
    kept_sentence,
    not_staged,
    staged_in,
    staged_out,
    to_undo,
    unfinished,
)
from pbsdock.agent.stage_orders import StageFailed, carry_out
from pbsdock.agent.work import Work
from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Exit
from pbsdock.core.plan import Plan, Stage
from pbsdock.core.record import Record, State
from pbsdock.staging.made import UMASK

_MODES_S = 120.0  # for the modes of what was staged in

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
        done, seconds = carry_out(node, record, plan, "in", plan.stage_in, work)
        record.note(staged_in="done")
        record.save()
        work.said = [staged_in(done, seconds), *not_staged(done, "in")]
    except StageFailed as error:
        work.error = Refusal(error.code, f"{error.sentence}; nothing was started")
    except Refusal as error:
        work.error = error
    except Exception as error:  # whoever waits must be let go
        node.emit("agent.error", record, level="error", where="stage-in", reason=repr(error)[:300])
        work.error = Refusal("stage-failed", "the job's files could not be staged in; nothing was started")
    finally:
        work.over.set()


def await_in(
    node: Node, record: Record, tell: Callable[[], None], every_s: float = 20.0, umask: int = UMASK
) -> list[str]:
    """Wait for a job's stage-in; returns what its user is told of it. Calls *tell* now and then. Raises Refusal.

    What was staged in follows *umask*, which is the run hook's: mom has it from its own configuration or the user's
    login (determine_umask of Torque's start_exec.c), and the prologue is not told.
    """
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
    work.follow(umask, _MODES_S)
    node.jobs.drop_work(record)
    return work.said


# -- stage-out --------------------------------------------------------------------------------------------------------


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
    items = due(plan, end.code)
    try:
        record.note(staged_out="begun")
        record.save()
        done, seconds = carry_out(node, record, plan, "out", items, work)
        said, is_all = staged_out(done, seconds), not done["left_out"]
        record.note(staged_out="done")
    except (StageFailed, Refusal) as error:
        said, is_all = [f"{error.sentence}; {_kept(node, record, plan, items)}"], False
    except Exception as error:  # the job must come to its end
        node.emit("agent.error", record, level="error", where="stage-out", reason=repr(error)[:300])
        said, is_all = [f"the results could not be staged out; {_kept(node, record, plan, items)}"], False
    code = exit_code(end, is_all_uploaded=is_all)
    record.exit = replace(end, code=code, sentences=(*end.sentences, *said))


def _kept(node: Node, record: Record, plan: Plan, items: Sequence[Stage]) -> str:
    """See to it that what was not uploaded outlives the job; returns where it is, for the sentence."""
    try:
        undo(node, record)
    except (Refusal, StageFailed, OSError) as error:  # the release tries again
        node.emit("release.failed", record, level="warning", reason=f"staging: {error}", phase="run")
    return kept_sentence(kept_places(record, plan, items), node.name)


def settle(
    node: Node, record: Record, until: float, end: Callable[[JobRun], None], tell: Callable[[str], None]
) -> None:
    """Before a record is released: let a stage-out that was not interrupted go on until *until* (monotonic).

    A job that was killed has its container ended by *end* first where it stages out in any case. What the run hook
    was not there any more to hear is told.
    """
    running = node.jobs.job_run(record.incarnation)
    if record.state is State.RUNNING and running is not None and due(record.plan, 1):
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
    if work is not None and not due(record.plan, 1):
        work.interrupt(why)


# -- the end ----------------------------------------------------------------------------------------------------------


def stop(node: Node, record: Record) -> None:
    """End what is under way."""
    work = node.jobs.work_of(record)
    if work is not None and not work.over.is_set():
        work.interrupt("the job is over")
        work.over.wait(60.0)
    if work is not None and work.held is not None:
        work.follow(UMASK, _MODES_S)


def undo(node: Node, record: Record) -> None:
    """Remove what is unfinished; where to what would be lost was moved is then in the record's facts as ``kept``.

    First what needs no store, which may be away. Raises Refusal, StageFailed when something is left.
    """
    plan = record.planned
    halves = unfinished(record.facts)
    items = to_undo(plan, halves, record.exit)
    if items:
        done, _ = carry_out(node, record, plan, "undo", items, Work())
        record.note(kept=(*record.facts.kept, *done["kept"]), **dict.fromkeys(halves, "undone"))
        record.save()
    if record.facts.uploads:
        carry_out(node, record, plan, "undo", (), Work())
        record.note(uploads={})
        record.save()
