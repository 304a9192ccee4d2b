"""What the end of a container means: the job's exit status, what its user is told, what comes next. Pure.

Times are seconds since the epoch, but ``gone_since`` and what it is compared with are monotonic. Sizes are bytes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pbsdock.agent import outage
from pbsdock.agent.outage import Outage
from pbsdock.agent.stage_items import due
from pbsdock.core.facts import Exit, Usage
from pbsdock.core.plan import Plan, Stage
from pbsdock.core.record import State
from pbsdock.core.sizes import human
from pbsdock.engine.base import ContainerState

AWAY = "the Docker engine of this node was away"
LOST = 255  # what the engine reports for a container that ended while it was away (observed with live-restore)
NOT_RUN = 125  # of a job whose command could not be started
REMOVED = 137  # stands for the exit status of a container that somebody else removed
_BY_SIGNAL = (137, 143)
_BUS_ERROR = 128 + 7  # as a shell reports SIGBUS
_STALE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is known of a container that is over. ``state`` None: somebody else has removed it."""

    state: ContainerState | None
    usage: Usage
    outage: Outage | None  # the engine's last one while the job ran
    stream_lost_at: float | None  # since when nobody reads the job's output
    now: float
    shm_was_full: bool = False  # /dev/shm, as far as it was looked at
    not_run: str = ""  # why the job's command was not started


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a job's end comes to."""

    exit: Exit
    results: tuple[Stage, ...]  # to be staged out before the job is told

    @property
    def state(self) -> State:
        """Where the job goes from running."""
        return State.STAGING if self.results else State.ENDED


def ending(observed: Observed, plan: Plan | None, *, ask_memory: str) -> Ending:
    """Decide how a job ended, and what is to be done with its results; *ask_memory* is how a user asks for more."""
    state, usage = observed.state, observed.usage
    code = REMOVED if state is None else state.exit_code
    # The kernel's own count, where it outlives the container, also knows what the engine was away for.
    is_killed = bool((state is not None and state.out_of_memory) or usage.oom_at)
    killed = oom_sentence(memory_limit(plan), usage.memory_peak_bytes, usage.oom_at, ask_memory) if is_killed else ""
    sentences = (*_sentences(observed, killed), *_limits_met(observed, plan, code))
    end = Exit(code=code, oom=is_killed, sentences=sentences, at=observed.now)
    return Ending(exit=end, results=tuple(due(plan, code)))


def _limits_met(observed: Observed, plan: Plan | None, code: int) -> list[str]:
    """What a program only knows as an error of fork(2), a signal or a full disk."""
    if plan is None:
        return []
    said = []
    if observed.usage.pids_hit:
        said.append(
            f"the job had {plan.limits.pids} processes and threads, as many as it may at this site; forks beyond that"
            " are refused"
        )
    if code == _BUS_ERROR or (observed.shm_was_full and code):
        size = human(plan.limits.shm_bytes)
        bus_error = "a bus error (SIGBUS) is what a full /dev/shm ends in"
        what = "/dev/shm was full" if observed.shm_was_full else bus_error  # noqa: S108 - words
        said.append(f"{what}: it has {size} in this job; ask for more with --shm-size SIZE in the #DOCKER line")
    return said


def memory_limit(plan: Plan | None) -> int | None:
    """The job's own, in bytes."""
    return plan.limits.memory_bytes if plan is not None else None


def is_clear(code: int | None, *, out_of_memory: bool) -> bool:
    """Whether the exit code of the engine's event may be all there is to be known, so that it need not be asked."""
    return code is not None and code not in (*_BY_SIGNAL, LOST) and not out_of_memory


def has_no_kill(usage: Usage) -> bool:
    """Whether the kernel is sure that memory has ended nothing of the job's."""
    return usage.limit_hit is False and not usage.oom_at


def may_be_the_engines(state: ContainerState | None, away: Outage | None, now: float) -> bool:
    """Whether a signal that nothing explains yet may come from an engine that shuts down.

    It ends its containers first and is gone a moment later.
    """
    if state is None:
        return not outage.explains(away, None, now)
    is_unexplained = state.exit_code in _BY_SIGNAL and not state.out_of_memory
    return is_unexplained and not outage.explains(away, state.finished_at, now)


def is_given_up(gone_since: float, now: float) -> bool:
    """Whether an engine that answers has had its time to learn of an end; monotonic seconds.

    An engine that was killed and came back may never learn of an end that came meanwhile; one that hung learns of it a
    moment after it answers again, so the time it was away for does not count.
    """
    return now - gone_since >= _STALE_S


def _sentences(observed: Observed, killed: str) -> list[str]:
    state = observed.state
    if observed.not_run:
        return [observed.not_run]
    if state is None:
        return ["the container was removed by somebody else while the job ran; exit status 137 is not the job's own"]
    sentences = [killed] if killed else []
    code = state.exit_code
    by_engine = outage.explains(observed.outage, state.finished_at, observed.now)
    if by_engine and code == LOST:
        sentences.append(
            "the container ended while the Docker engine of this node was away; the job's own exit status is lost,"
            " 255 stands for it"
        )
    elif by_engine and code in _BY_SIGNAL:
        sentences.append(
            f"the Docker engine of this node was restarted while the job ran and ended it; exit status {code} is not"
            " the job's own"
        )
    elif observed.stream_lost_at:
        since = time.strftime("%H:%M:%S", time.localtime(observed.stream_lost_at))
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
