"""The end of a container: its exit status, what it used, and the sentences its user should read."""

from __future__ import annotations

import time

from pbsdock.agent import outage, stage
from pbsdock.agent.node import Node
from pbsdock.agent.release import remember_usage, tear_down
from pbsdock.agent.runs import JobRun
from pbsdock.core.errors import HookError
from pbsdock.core.facts import Exit, Usage, uptime
from pbsdock.core.record import Record, State
from pbsdock.core.sizes import human
from pbsdock.engine.base import ContainerState, EngineError
from pbsdock.protocol import wire

_BY_SIGNAL = (137, 143)
_LAST_BREATH_S = 0.3
AWAY = "the Docker engine of this node was away"
_STALE_S = 30.0
_REMOVED = ContainerState(exit_code=137)  # the container, by somebody else
_LOST = 255  # what the engine reports for a container that ended while it was away (observed with live-restore)


def finish(node: Node, running: JobRun, said: int | None = None) -> None:
    """Tell the run hook how its container ended and begin to tear it down; idempotent, any thread.

    Results that the job wants staged out are so first. *said* is the exit code of the engine's own event.
    """
    record = running.record
    with node.job_lock(f"finish:{record.incarnation}", 60.0):
        if running.ended is not None or record.state is not State.RUNNING:
            return
        state = _state(node, running, said)
        if state is None:
            return
        code = state.exit_code
        if code in _BY_SIGNAL and not state.out_of_memory and not _by_engine(running, state):
            # An engine that shuts down ends its containers first and is gone a moment later.
            time.sleep(_LAST_BREATH_S)
            if not node.engine.probe():
                running.outage = outage.lost(running.outage, time.time())
        usage = Usage() if state is _REMOVED else remember_usage(node, record)
        # The kernel's own count, where it outlives the container, also knows what the engine was away for.
        killed = bool(state.out_of_memory or usage.oom_at)
        sentences = _sentences(running, state, usage, killed, node.rm.words.ask_memory)
        record.exit = Exit(code=code, oom=killed, sentences=tuple(sentences), at=time.time())
        record.note(alive_at=uptime())
        results = stage.due(record, code)
        if not results:
            # Told first: should the agent die before the record is saved, the next one asks the engine again.
            _tell(running)
        if killed:
            node.emit(
                "container.oom",
                record,
                level="warning",
                limit_bytes=_limit(record),
                peak_bytes=usage.memory_peak_bytes,
            )
        over = State.STAGING if results else State.ENDED
        record.advance(over, must_be_written=False, code=code, oom=killed, phase="run")
    if results:
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
            record.advance(State.ENDED, must_be_written=False)


def _tell(running: JobRun) -> None:
    end = running.record.exit or Exit(code=137)
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


def _state(node: Node, running: JobRun, said: int | None) -> ContainerState | None:
    """How the container ended; _REMOVED if somebody removed it, None while it runs or the engine is away.

    After its event the engine holds the container for some milliseconds more to clean it up, and an inspection waits
    for that. An exit code that leaves no question is therefore taken from the event.
    """
    record = running.record
    if said is not None and said not in (*_BY_SIGNAL, _LOST) and not running.out_of_memory:
        usage = remember_usage(node, record)
        if usage.limit_hit is False and not usage.oom_at:
            return ContainerState(exit_code=said)
    try:
        found = node.engine.inspect(record.container_id or record.container_name)
    except (HookError, EngineError):
        return _given_up(node, running)
    if found is None:
        return _REMOVED
    return _given_up(node, running) if found.is_running else found


def _given_up(node: Node, running: JobRun) -> ContainerState | None:
    """None, for the next look to find out, unless the kernel has long had no such process and the engine still errs.

    An engine that was killed and came back may never learn of an end that came meanwhile; one that hung learns of it a
    moment after it answers again, so the time it was away for does not count.
    """
    if running.gone_since is None:
        return None
    if not node.engine.probe():
        running.gone_since = None
        return None
    if time.monotonic() - running.gone_since < _STALE_S:
        return None
    running.outage = outage.lost(running.outage, time.time())  # it is there, and knows nothing of what is over
    return ContainerState(exit_code=_LOST)


def _by_engine(running: JobRun, state: ContainerState) -> bool:
    return outage.explains(running.outage, state.finished_at, time.time())


def _limit(record: Record) -> int | None:
    return record.plan.limits.memory_bytes if record.plan else None


def _sentences(running: JobRun, state: ContainerState, usage: Usage, killed: bool, ask_memory: str) -> list[str]:
    if state is _REMOVED:
        return ["the container was removed by somebody else while the job ran; exit status 137 is not the job's own"]
    sentences = []
    if killed:
        limit = _limit(running.record)
        sentences.append(oom_sentence(limit, usage.memory_peak_bytes, usage.oom_at, ask_memory))
    code = state.exit_code
    by_engine = _by_engine(running, state)
    if by_engine and code == _LOST:
        sentences.append(
            "the container ended while the Docker engine of this node was away; the job's own exit status is lost,"
            " 255 stands for it"
        )
    elif by_engine and code in _BY_SIGNAL:
        sentences.append(
            f"the Docker engine of this node was restarted while the job ran and ended it; exit status {code} is not"
            " the job's own"
        )
    elif running.stream_lost_at:
        since = time.strftime("%H:%M:%S", time.localtime(running.stream_lost_at))
        sentences.append(f"{AWAY}; anything the job wrote since {since} is missing from its output")
    if state.error:
        sentences.append(f"the engine says: {state.error}")
    return sentences


def oom_sentence(limit: int | None, peak: int | None, at: str | None, ask_memory: str) -> str:
    """Whose limit it was, and by *ask_memory* how to get more; *at* is None where the kernel does not tell, and then a
    limit the job has was it."""
    used = f"; peak use {human(peak)}" if peak else ""
    if at == "container":
        own = "" if limit is None else f", below the job's {human(limit)}"
        return f"out of memory: a process was killed at a limit of the container's own{own}{used}"
    if limit is None or at == "node":
        return f"a process was killed because the node's memory was exhausted{used}"
    return (
        f"out of memory: a process was killed at the job's limit of {human(limit)}{used}; ask for more with"
        f" {ask_memory}"
    )
