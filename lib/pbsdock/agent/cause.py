"""Why a job went as it did: the most likely cause in a sentence that says what to change. Pure.

The first rule that knows an answer gives it, so the order counts: what is certain comes before what is likely.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pbsdock.core.facts import Usage
from pbsdock.core.record import State
from pbsdock.core.sizes import human
from pbsdock.core.story import Story
from pbsdock.rm.base import Words

_SIGNALLED = 128  # plus the signal, as a shell reports it
_SESSION = 256  # the same, as resource managers record it
_KILLED, _TERMINATED = 128 + signal.SIGKILL, 128 + signal.SIGTERM
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP)
_BUS_ERROR = 128 + signal.SIGBUS
_NEAR_FULL = 0.98
_BEFORE_START_S = 1.0  # a walltime counts from the run hook's own start, which comes before its container's
_SHM = "/dev/shm"  # noqa: S108 - words

# What a user is to do about a refusal, where its sentence does not say so itself.
ADVICE: Mapping[str, str] = {
    "agent-lost": "submit it again",
    "bad-directive": "correct the #DOCKER line there; pbsdock check SCRIPT reads it without a job",
    "bad-resources": "correct what is asked for",
    "failed-again": "tell the site, and submit it again when the node is well",
    "image-access-denied": "log in where the site says, or name an image that everybody may pull",
    "image-not-allowed": "name one of the allowed images, or ask the site to allow this one",
    "image-not-found": "check the image's name in the #DOCKER line for a slip",
    "image-not-present": "let it be pulled, or have the site pull it beforehand",
    "image-tag-not-found": "name a tag that the registry has",
    "image-too-large": "use a smaller image, or ask the site",
    "image-wrong-architecture": "use an image that is built for this machine",
    "memory-too-large": "ask for less memory",
    "memory-too-small": "ask for more memory",
    "mount-not-allowed": "mount a path that the site allows, or ask the site to allow this one",
    "mount-read-only": "add :ro to the mount",
    "no-such-directory": "make the directory before the job is submitted",
    "no-such-program": "name a program that the image has",
    "pull-too-slow": "submit it again, or have the site pull the image beforehand",
    "pulls-busy": "submit it again later, or have the site pull the image beforehand",
    "registry-busy": "submit it again later",
    "registry-unreachable": "check the registry's name, and submit it again when it answers",
    "shm-too-large": "ask for less with --shm-size, or for more memory",
    "stage-failed": "correct what is to be copied, and submit it again",
    "user-not-allowed": "ask the site",
}
_ELSE = "correct it and submit the job again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """``code`` is stable and meant for machines, ``sentence`` for a person."""

    code: str
    sentence: str


# What a job's own node may tell of its end where the cause is on another one, and what explains nothing there.
_VAGUE = ("exit-status", "crashed", "killed", "memory-full", "unknown")
_HARMLESS = (
    *("well", "running", "preparing", "ready", "staging", "tasks-over", "no-task"),
    *("exit-status", "memory-full", "unknown"),
)


def cause_of(story: Story, words: Words) -> Cause:
    """The most likely cause of how it went, or of where it is; of a job on several nodes, on this one."""
    for rule in _RULES:
        if (cause := rule(story, words)) is not None:
            return cause
    return _by_exit_code(story)


def of_all(own: Cause, others: Sequence[tuple[str, Cause]]) -> Cause:
    """The cause for the whole job: what happened on another node, where this one's own explains nothing.

    *others* are the names of the other nodes that have answered, each with its cause.
    """
    if own.code not in _VAGUE:
        return own
    found = [(name, cause) for name, cause in others if cause.code not in _HARMLESS]
    if not found:
        return own
    first = found[0][1]
    names = [name for name, cause in found if cause.code == first.code]
    where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return Cause(code=first.code, sentence=f"on {where}: {first.sentence}")


# -- before its container ran -----------------------------------------------------------------------------------------


def _refused(story: Story, _words: Words) -> Cause | None:
    if story.refusal is None:
        return None
    code, sentence = story.refusal.code, _stop(story.refusal.sentence)
    return Cause(code=code, sentence=f"the job was refused: {sentence}; {ADVICE.get(code, _ELSE)}")


def _faulty(story: Story, _words: Words) -> Cause | None:
    if story.fault is None or story.started_at is not None:
        return None
    code, sentence = story.fault.code, _stop(story.fault.sentence)
    if story.fault.blame == "user":
        return Cause(code=code, sentence=f"the job was not started: {sentence}; {ADVICE.get(code, _ELSE)}")
    if not story.is_queued_again:
        said = f"the job was not started, for a fault of this node: {sentence}; submit it again and tell the site"
        return Cause(code=code, sentence=said)
    said = (
        f"this node could not prepare the job, and it was queued again: {sentence}; nothing of yours is to be changed"
    )
    return Cause(code=code, sentence=said)


def _under_way(story: Story, words: Words) -> Cause | None:
    if story.is_over:
        return None
    if story.state == State.RUNNING.value:
        limit = f" of the {duration(story.walltime_s)} it may" if story.walltime_s is not None else ""
        met = _limit_being_met(story, words)
        said = f"the job has been running for {duration(story.run_s or 0.0)}{limit}"
        return Cause(code="running", sentence=f"{said}; {met}" if met else f"{said}, and meets no limit")
    if story.mother and story.state == State.READY.value:
        return Cause(code=story.state, sentence="the node is ready, and no task of the job has come to it yet")
    said = {
        State.PREPARING.value: "the node prepares the job: its image comes, or its directories are looked up",
        State.READY.value: "the job is ready, and waits for its start or for what is staged in",
        State.STAGING.value: "the container is over, and its results are being copied to the object store",
    }[story.state]
    return Cause(code=story.state, sentence=said)


def _limit_being_met(story: Story, words: Words) -> str:
    used, limits = story.used, story.limits
    if used is not None and limits is not None:
        if used.pids_hit:
            return f"it has as many processes and threads as it may, {limits.pids}, and forks beyond that fail"
        peak, most = used.memory_peak_bytes, limits.memory_bytes
        if peak and most and peak > _NEAR_FULL * most:
            return f"its memory has been all but full; ask for more with {words.ask_memory} next time"
    return ""


# Why a record was released -> a code, and what is said.
_TAKEN: Mapping[str, tuple[str, str]] = {
    "agent-restarted": (
        "agent-restarted",
        "the agent of this node was ended while it prepared the job; nothing is to be changed: either the job was"
        " prepared again, or submit it again",
    ),
    "other-boot": (
        "node-restarted",
        "the node was restarted while the job was there; submit it again, or let it be queued again by itself with"
        " {rerun}",
    ),
    "prologue-gone": (
        "prologue-ended",
        "the job's prologue was ended before the job was ready; ask the site whether its image takes longer to come"
        " than a prologue may",
    ),
}


def _taken_away(story: Story, words: Words) -> Cause | None:
    """What ended it from outside while it was there."""
    if story.removed_for not in _TAKEN or (story.exit is not None and story.removed_for != "other-boot"):
        return None
    if story.removed_for == "other-boot" and story.over_from in (State.ENDED.value, State.STAGING.value):
        return None
    code, said = _TAKEN[story.removed_for]
    return Cause(code=code, sentence=said.format(rerun=words.rerun))


def _not_started(story: Story, words: Words) -> Cause | None:
    if story.started_at is not None:
        return None
    if story.mother:
        return Cause(code="no-task", sentence="no task of the job came to this node")
    said = (
        f"the job was prepared and never started: it was ended before that, by {words.end_command} for example; if it"
        " was not, tell the site that its run hook may not be installed"
    )
    return Cause(code="not-started", sentence=said)


# -- once it had run --------------------------------------------------------------------------------------------------


def _out_of_memory(story: Story, words: Words) -> Cause | None:
    used, limit = story.used or Usage(), story.limits.memory_bytes if story.limits is not None else None
    is_killed = story.exit.oom if story.exit is not None else bool(used.oom_kills)  # cgroup v1 does not tell where
    if not (used.oom_at or is_killed):
        return None
    peak = f" (its peak was {human(used.memory_peak_bytes)})" if used.memory_peak_bytes else ""
    if used.oom_at == "container":
        said = f"a process was killed at a memory limit of the container's own{peak}; ask the site who sets that limit"
        return Cause(code="container-out-of-memory", sentence=said)
    is_nodes = used.oom_at is None and used.limit_hit is False and story.exit is None
    if used.oom_at == "node" or limit is None or is_nodes:
        said = (
            f"a process was killed because the memory of the whole node was exhausted{peak}; ask for what the job needs"
            f" with {words.ask_memory}, so that it gets a node with room"
        )
        return Cause(code="node-out-of-memory", sentence=said)
    said = (
        f"a process was killed at the job's memory limit of {human(limit)}{peak}; ask for more with {words.ask_memory}"
    )
    return Cause(code="out-of-memory", sentence=said)


def _walltime(story: Story, words: Words) -> Cause | None:
    run, most = story.run_s, story.walltime_s
    if run is None or not most or run < most - _BEFORE_START_S or not _is_signalled(story):
        return None
    said = (
        f"the job was ended at its walltime: it ran for {duration(run)} of the {duration(most)} it asked for; ask for"
        f" more with {words.ask_walltime}"
    )
    return Cause(code="walltime", sentence=said)


def _too_many_processes(story: Story, words: Words) -> Cause | None:
    if story.limits is None or story.used is None or not story.used.pids_hit or not _failed(story):
        return None
    said = (
        f"the job had as many processes and threads as it may, {story.limits.pids}, and forks beyond that failed; let"
        " it start fewer, such as by OMP_NUM_THREADS, or ask the site for more (limits.pids)"
    )
    return Cause(code="too-many-processes", sentence=said)


def _shm_full(story: Story, _words: Words) -> Cause | None:
    if story.limits is None or (story.exit is None and not story.mother):
        return None
    size = story.limits.shm_bytes
    if (story.shm_peak_bytes or 0) >= _NEAR_FULL * size and _failed(story):
        said = f"{_SHM} was full, with {human(size)}; ask for more with --shm-size SIZE in the #DOCKER line"
        return Cause(code="shm-full", sentence=said)
    if story.exit is not None and story.exit.code == _BUS_ERROR:
        said = (
            f"a program ended by a bus error (SIGBUS), as it does when {_SHM}, here with {human(size)}, is full; ask"
            " for more with --shm-size SIZE in the #DOCKER line"
        )
        return Cause(code="bus-error", sentence=said)
    return None


def _tasks_over(story: Story, _words: Words) -> Cause | None:
    """On a sister, whose container is taken away when the job ends: how its tasks ended their launcher alone knows."""
    if not story.mother or story.exit is not None:
        return None
    said = "the job's tasks on this node are over, and none of them met a limit"
    if story.used is not None and story.used.limit_hit:
        said = (
            "the job's tasks on this node are over; their memory was full at times, be it with what was read from"
            " files, and none was killed for it"
        )
    return Cause(code="tasks-over", sentence=said)


def _told(story: Story, _words: Words) -> Cause | None:
    """What its user was told at the end, which says more than an exit status."""
    if story.exit is None or not story.exit.sentences:
        return None
    code = "results-kept" if story.kept else "told"
    return Cause(code=code, sentence=_stop(story.exit.sentences[0]))


def _ended_by_somebody(story: Story, words: Words) -> Cause | None:
    """Signals that do not come from the job: by the resource manager's word, or through the run hook."""
    number = _signal_of(story)
    told = [phase.note for phase in story.phases if phase.name == "signal"]
    by_manager = (story.exit_status or 0) >= _SESSION
    if number not in (signal.SIGTERM, signal.SIGKILL) or not (by_manager or "SIGTERM" in told):
        return None
    run = f"{duration(story.run_s or 0.0)}{', before its walltime' if story.walltime_s else ''}"
    said = (
        f"the job was ended by {signal.Signals(number).name} after {run}: by {words.end_command}, an operator or the"
        " scheduler; ask them if it was not you"
    )
    return Cause(code="ended-by-signal", sentence=said)


def _crashed(story: Story, _words: Words) -> Cause | None:
    number = _signal_of(story)
    if number in _CRASHES:
        said = (
            f"a program of the job crashed ({signal.Signals(number).name}), and no limit of the job's is known to be"
            " behind it; look at what it wrote last, and whether it suits this node's processor"
        )
        return Cause(code="crashed", sentence=said)
    if number == signal.SIGKILL:
        said = (
            "a program of the job was killed (SIGKILL), and as far as the kernel tells not for memory; look whether the"
            " job's own script or tools do that"
        )
        return Cause(code="killed", sentence=said)
    return None


def _memory_full(story: Story, words: Words) -> Cause | None:
    """A program that is refused memory, by its own limit or the job's, ends as it likes."""
    code = story.exit.code if story.exit is not None else 0
    if code in (0, 126, 127) or story.used is None or not story.used.limit_hit:
        return None
    said = (
        f"the job's own script ended with exit status {code}, and its memory was full at times, be it with what was"
        f" read from files; if its error output speaks of memory, ask for more with {words.ask_memory}"
    )
    return Cause(code="memory-full", sentence=said)


def _by_exit_code(story: Story) -> Cause:
    code = story.exit.code if story.exit is not None else story.exit_status
    if code is None:
        return Cause(code="unknown", sentence="nobody has seen how the job ended; submit it again")
    if code == 0:
        return Cause(code="well", sentence="the job ended well")
    if code == 127:
        said = (
            "a command was not found in the image (exit status 127); install it there, name an image that has it, or"
            " give its path"
        )
        return Cause(code="command-not-found", sentence=said)
    if code == 126:
        said = "a command could not be run (exit status 126): make it executable, or name an image that it is built for"
        return Cause(code="command-not-run", sentence=said)
    said = (
        f"the job's own script ended with exit status {code}, and no limit was met; look at the last lines of its error"
        " output"
    )
    return Cause(code="exit-status", sentence=said)


_RULES: tuple[Callable[[Story, Words], Cause | None], ...] = (
    _refused,
    _faulty,
    _under_way,
    _taken_away,
    _not_started,
    _out_of_memory,
    _walltime,
    _too_many_processes,
    _shm_full,
    _tasks_over,
    _told,
    _ended_by_somebody,
    _crashed,
    _memory_full,
)


def _failed(story: Story) -> bool:
    if story.mother and story.exit is None:
        return True  # nobody knows there, and a limit that was met is all there is to tell
    return bool(story.exit.code if story.exit is not None else story.exit_status)


def _signal_of(story: Story) -> int:
    """The signal that ended it, by its exit status; 0 if none did."""
    code = story.exit.code if story.exit is not None else 0
    if not code and (story.exit_status or 0) > _SESSION:
        code = (story.exit_status or 0) - _SESSION + _SIGNALLED
    number = code - _SIGNALLED
    return number if number in signal.valid_signals() else 0


def _is_signalled(story: Story) -> bool:
    return (story.exit_status or 0) >= _SESSION or bool(_signal_of(story))


def _stop(sentence: str) -> str:
    return sentence.rstrip(". ")


def duration(seconds: float) -> str:
    """Seconds for a person: "0.4 s", "12 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds != int(seconds) else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
