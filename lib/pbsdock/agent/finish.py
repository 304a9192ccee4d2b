"""The end of a container: its exit status, what it used, and the sentences its user should read."""

from __future__ import annotations

import time
from typing import Any

from pbsdock.agent import outage, stage
from pbsdock.agent.node import Node
from pbsdock.agent.release import remember_usage, tear_down
from pbsdock.agent.running import Running
from pbsdock.core.errors import HookError
from pbsdock.core.ledger import Record, uptime
from pbsdock.core.sizes import human
from pbsdock.engine.docker.api import EngineError
from pbsdock.protocol import wire

_BY_SIGNAL = (137, 143)
_LAST_BREATH_S = 0.3
AWAY = "the Docker engine of this node was away"
_STALE_S = 30.0
_LOST = 255  # what the engine reports for a container that ended while it was away (observed with live-restore)


def finish(node: Node, running: Running, said: int | None = None) -> None:
    """Tell the run hook how its container ended and begin to tear it down; idempotent, any thread.

    Results that the job wants staged out are so first. *said* is the exit code of the engine's own event.
    """
    record = running.record
    with node.job_lock(f"finish:{record.incarnation}", 60.0):
        if running.ended is not None or record.state in ("releasing", "staging"):
            return
        state = _state(node, running, said)
        if state is None:
            return
        code = int(state.get("ExitCode", 137))
        if code in _BY_SIGNAL and not state.get("OOMKilled") and not _by_engine(running, state):
            # An engine that shuts down ends its containers first and is gone a moment later.
            time.sleep(_LAST_BREATH_S)
            if not node.engine.probe():
                running.outage = outage.lost(running.outage, time.time())
        usage = remember_usage(node, record) if state else {}
        # The kernel's own count, where it outlives the container, also knows what the engine was away for.
        killed = bool(state.get("OOMKilled") or usage.get("oom_at"))
        sentences = _sentences(running, state, usage, killed, node.rm.words.ask_memory)
        record.exit = {"code": code, "oom": killed, "sentences": sentences, "at": time.time()}
        record.facts["alive_at"] = uptime()
        results = stage.due(record, code)
        if results:
            record.state = "staging"
        else:
            # Told first: should the agent die before the record is saved, the next one asks the engine again.
            _tell(running)
            record.state = "ended"
        _save(node, record)
        if killed:
            node.emit(
                "container.oom",
                record,
                level="warning",
                limit_bytes=_limit(record),
                peak_bytes=usage.get("memory_peak_bytes"),
            )
        node.emit("job.ended", record, code=code, oom=killed, phase="run")
    if results:
        begin_stage_out(node, running)
    else:
        _tidy(node, record)


def begin_stage_out(node: Node, running: Running) -> None:
    """Stage the results out; then comes the rest of :func:`finish`."""
    stage.begin_out(node, running, _conclude, _tidy)


def _conclude(node: Node, running: Running) -> None:
    record = running.record
    if record.state == "staging":
        try:
            _tell(running)
        finally:
            record.state = "ended"
            _save(node, record)


def _save(node: Node, record: Record) -> None:
    """Write it down if the disk takes it: what is to come next must not wait for that, nor the run hook for ever."""
    try:
        node.ledger.save(record)
    except OSError as error:
        node.emit("agent.error", record, level="error", where="ledger", reason=str(error)[:300])


def _tell(running: Running) -> None:
    end = running.record.exit or {}
    sentences = [str(one) for one in end.get("sentences", ())]
    message = wire.Message("ended", code=int(end.get("code", 137)), sentence=[_plain(one) for one in sentences])
    if not running.end(message):
        running.record.facts["untold"] = sentences


def _plain(sentence: str) -> bytes:
    """A sentence with whatever a name in it may hold, as a message can carry it."""
    return sentence.replace("\0", "").encode("utf-8", "backslashreplace")


def _tidy(node: Node, record: Record) -> None:
    """Remove what is over while mom still closes the job: the epilogue then only has to look."""
    with node.job_lock(record.job_id, 60.0):
        if record.state == "ended":
            for failure in tear_down(node, record):
                node.emit("release.failed", record, level="warning", reason=failure, phase="run")
            _save(node, record)


def _state(node: Node, running: Running, said: int | None) -> dict[str, Any] | None:
    """The container's State; {} if somebody removed it, None while it runs or the engine is away.

    After its event the engine holds the container for some milliseconds more to clean it up, and an inspection waits
    for that. An exit code that leaves no question is therefore taken from the event.
    """
    record = running.record
    if said is not None and said not in (*_BY_SIGNAL, _LOST) and not running.out_of_memory:
        usage = remember_usage(node, record)
        if usage.get("limit_hit") is False and not usage.get("oom_at"):
            return {"ExitCode": said}
    try:
        found = node.engine.inspect(record.container_id or record.container_name)
    except (HookError, EngineError):
        return _given_up(node, running)
    if found is None:
        return {}
    return _given_up(node, running) if found["State"]["Running"] else dict(found["State"])


def _given_up(node: Node, running: Running) -> dict[str, Any] | None:
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
    return {"ExitCode": _LOST}


def _by_engine(running: Running, state: dict[str, Any]) -> bool:
    return outage.explains(running.outage, outage.moment(state.get("FinishedAt")), time.time())


def _limit(record: Record) -> int | None:
    limits = (record.plan or {}).get("limits", {})
    value = limits.get("memory_bytes")
    return int(value) if value else None


def _sentences(
    running: Running, state: dict[str, Any], usage: dict[str, Any], killed: bool, ask_memory: str
) -> list[str]:
    if not state:
        return ["the container was removed by somebody else while the job ran; exit status 137 is not the job's own"]
    sentences = []
    if killed:
        limit, peak = _limit(running.record), usage.get("memory_peak_bytes")
        sentences.append(oom_sentence(limit, peak, usage.get("oom_at"), ask_memory))
    code = int(state.get("ExitCode", 0))
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
    if state.get("Error"):
        sentences.append(f"the engine says: {state['Error']}")
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
