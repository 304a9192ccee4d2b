"""Finish a job whose container is over: find out how, tell its run hook, begin to tear it down.

What it comes to is decided in :mod:`pbsdock.agent.ending`.
"""

from __future__ import annotations

import time
from dataclasses import replace

from pbsdock.agent import first_process, outage, stage
from pbsdock.agent.ending import (
    LOST,
    NOT_RUN,
    REMOVED,
    Observed,
    ending,
    has_no_kill,
    is_clear,
    is_given_up,
    may_be_the_engines,
    memory_limit,
)
from pbsdock.agent.node import Node
from pbsdock.agent.not_run import not_run
from pbsdock.agent.runs import JobRun
from pbsdock.agent.teardown import remember_usage, tear_down
from pbsdock.core.errors import HookError
from pbsdock.core.facts import Exit, Usage, uptime
from pbsdock.core.record import Record, State
from pbsdock.engine.base import ContainerState, EngineError
from pbsdock.protocol import init, wire

_LAST_BREATH_S = 0.3


class _StillThere(Exception):
    """The container runs, or nobody can tell: the next look may find out."""


def finish(node: Node, running: JobRun, said: int | None = None) -> None:
    """Tell the run hook how its job ended and begin to tear it down; idempotent, any thread.

    Results that the job wants staged out are so first. *said* is the exit code of the engine's own event.
    """
    record = running.record
    with node.job_lock(f"finish:{record.incarnation}", 60.0):
        if running.ended is not None or record.state is not State.RUNNING:
            return
        try:
            observed = _observe(node, running, said)
        except _StillThere:
            return
        over = ending(observed, record.plan, ask_memory=node.rm.words.ask_memory)
        record.exit = over.exit
        record.note(alive_at=uptime())
        if not over.results:
            # Told first: should the agent die before the record is saved, the next one asks the engine again.
            _tell(running)
        if over.exit.oom:
            node.emit(
                "container.oom",
                record,
                level="warning",
                limit_bytes=memory_limit(record.plan),
                peak_bytes=observed.usage.memory_peak_bytes,
            )
        told = {"code": over.exit.code, "oom": over.exit.oom, "phase": "run"}
        if not record.advance_from(State.RUNNING, over.state, must_be_written=False, **told):
            if over.results:
                _tell(running)
            return  # a release has begun meanwhile, and takes everything along
    if over.results:
        begin_stage_out(node, running)
    else:
        _tidy(node, record)


def begin_stage_out(node: Node, running: JobRun) -> None:
    """Stage the results out; then comes the rest of :func:`finish`."""
    stage.begin_out(node, running, _conclude, _tidy)


def _conclude(node: Node, running: JobRun) -> None:
    record = running.record
    if record.state is State.STAGING:
        try:
            _tell(running)
        finally:
            record.advance_from(State.STAGING, State.ENDED, must_be_written=False)


def _tell(running: JobRun) -> None:
    end = running.record.exit or Exit(code=REMOVED)
    message = wire.Message("ended", code=end.code, sentence=[_plain(sentence) for sentence in end.sentences])
    if not running.end(message):
        running.record.note(untold=end.sentences)


def _plain(sentence: str) -> bytes:
    """A sentence with whatever a name in it may hold, as a message can carry it."""
    return sentence.replace("\0", "").encode("utf-8", "backslashreplace")


def _tidy(node: Node, record: Record) -> None:
    """Remove what is over while mom still closes the job: the epilogue then only has to look."""
    with node.job_lock(record.job_id, 60.0):
        if record.state is State.ENDED:
            for failure in tear_down(node, record):
                node.emit("release.failed", record, level="warning", reason=failure, phase="run")
            record.save_or_tell()


def _observe(node: Node, running: JobRun, said: int | None) -> Observed:
    """What there is to be known of the end. Raises _StillThere."""
    record = running.record
    end = _leaders_end(node, running)
    state = _state(node, running, said) if end is None else _with_oom(node, running, end)
    if may_be_the_engines(state, running.outage, time.time()):
        time.sleep(_LAST_BREATH_S)
        if not node.engine.probe():
            running.outage = outage.lost(running.outage, time.time())
    return Observed(
        state=state,
        usage=Usage() if state is None else remember_usage(node, record),
        outage=running.outage,
        stream_lost_at=running.stream_lost_at,
        now=time.time(),
        shm_was_full=running.shm_was_full,
        not_run=not_run(record.planned, end) if end is not None and end.kind != init.ENDED else "",
    )


def _leaders_end(node: Node, running: JobRun) -> init.Answer | None:
    """How the job's own command ended, as the first process wrote it down; None if it did not, or that is another's.

    Raises _StillThere while what a polite end has left of the job has its time.
    """
    record = running.record
    if not record.facts.first_process:
        return None
    end = first_process.read_end(node.init_dir(record), first_process.LEADER) or running.said
    if end is not None and node.rm.polite_end_ms and first_process.is_polite(end) and running.is_alive():
        raise _StillThere
    return end


def _with_oom(node: Node, running: JobRun, end: init.Answer) -> ContainerState:
    """The engine is asked only where the kernel's count leaves a question: it answers when it has tidied up."""
    state = first_process.state_of(end, not_run=NOT_RUN)
    if has_no_kill(remember_usage(node, running.record)):
        return state
    try:
        found = node.engine.inspect(running.record.container_id or running.record.container_name)
    except (HookError, EngineError):
        found = None
    is_killed = running.out_of_memory or (found is not None and found.out_of_memory)
    return replace(state, out_of_memory=is_killed)


def _state(node: Node, running: JobRun, said: int | None) -> ContainerState | None:
    """How the container ended; None if somebody removed it. Raises _StillThere.

    After its event the engine holds the container for some milliseconds more to clean it up, and an inspection waits
    for that. An exit code that leaves no question is therefore taken from the event.
    """
    record = running.record
    if said is not None and is_clear(said, out_of_memory=running.out_of_memory):
        if has_no_kill(remember_usage(node, record)):
            return ContainerState(exit_code=said)
    try:
        found = node.engine.inspect(record.container_id or record.container_name)
    except (HookError, EngineError):
        return _given_up(node, running)
    return _given_up(node, running) if found is not None and found.is_running else found


def _given_up(node: Node, running: JobRun) -> ContainerState:
    """A lost end, if the kernel has long had no such process and the engine still errs. Raises _StillThere."""
    if running.gone_since is None:
        raise _StillThere
    if not node.engine.probe():
        running.gone_since = None
        raise _StillThere
    if not is_given_up(running.gone_since, time.monotonic()):
        raise _StillThere
    running.outage = outage.lost(running.outage, time.time())  # it is there, and knows nothing of what is over
    return ContainerState(exit_code=LOST)
