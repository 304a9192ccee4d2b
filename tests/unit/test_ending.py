"""What a container's end means, decided from plain data: status, sentences, what comes next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pbsdock.agent.ending import (
    AWAY,
    Observed,
    ending,
    has_no_kill,
    is_clear,
    is_given_up,
    may_be_the_engines,
)
from pbsdock.agent.outage import Outage
from pbsdock.core.facts import Usage
from pbsdock.core.plan import Stage
from pbsdock.core.record import State
from pbsdock.engine.base import ContainerState
from tests.unit.test_policy import _plan

_NOW = 1000.0
_PLAN = _plan("alpine:3")
_LIMIT = 1 << 30
_OUT = Stage(store="ceph", bucket="b", key="k", path="/o", where="job.sh:2:9")


def _observed(state: ContainerState | None = None, **changes: object) -> Observed:
    plain = Observed(
        state=state or ContainerState(exit_code=0), usage=Usage(), outage=None, stream_lost_at=None, now=_NOW
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # names of its fields


def _exit(observed: Observed) -> tuple[int, bool, tuple[str, ...]]:
    limited = replace(_PLAN, limits=replace(_PLAN.limits, memory_bytes=_LIMIT))
    found = ending(observed, limited, ask_memory="MORE").exit
    assert found.at == _NOW
    return found.code, found.oom, found.sentences


@pytest.mark.parametrize("code", [0, 1, 7, 137, 143, 255])
def test_an_end_that_needs_no_word(code: int) -> None:
    """The job's own status, whatever it is, and no sentence."""
    assert _exit(_observed(ContainerState(exit_code=code))) == (code, False, ())


def test_a_container_that_somebody_removed() -> None:
    """A status stands for it, and nothing else is said of it."""
    code, oom, sentences = _exit(_removed())

    assert (code, oom) == (137, False)
    assert sentences == (
        "the container was removed by somebody else while the job ran; exit status 137 is not the job's own",
    )


def _removed() -> Observed:
    return replace(_observed(outage=Outage(_NOW), stream_lost_at=5.0), state=None)


@pytest.mark.parametrize(
    ("state", "usage", "sentence"),
    [
        (
            ContainerState(exit_code=137, out_of_memory=True),
            Usage(memory_peak_bytes=_LIMIT),
            "out of memory: a process was killed at the job's limit of 1 GiB; peak use 1 GiB; ask for more with MORE",
        ),
        (
            ContainerState(exit_code=0),  # it was not the first process, and the engine was away
            Usage(oom_at="job"),
            "out of memory: a process was killed at the job's limit of 1 GiB; ask for more with MORE",
        ),
        (
            ContainerState(exit_code=1, out_of_memory=True),
            Usage(oom_at="container"),
            "out of memory: a process was killed at a limit of the container's own, below the job's 1 GiB",
        ),
        (
            ContainerState(exit_code=137, out_of_memory=True),
            Usage(oom_at="node"),
            "a process was killed because the node's memory was exhausted",
        ),
    ],
)
def test_out_of_memory(state: ContainerState, usage: Usage, sentence: str) -> None:
    """Whose limit it was; the engine's word or the kernel's is enough."""
    assert _exit(_observed(state, usage=usage)) == (state.exit_code, True, (sentence,))


@pytest.mark.parametrize(
    ("code", "away", "part"),
    [
        (255, Outage(990.0), "255 stands for it"),
        (137, Outage(990.0, 999.0), "exit status 137 is not the job's own"),
        (143, Outage(990.0, 999.0), "exit status 143 is not the job's own"),
        (7, Outage(990.0, 999.0), ""),
        (255, None, ""),
        (137, Outage(10.0, 20.0), ""),
    ],
)
def test_the_engine_is_named_for_what_its_outage_explains(code: int, away: Outage | None, part: str) -> None:
    """A status the job can have by itself, or a moment the outage does not cover, is the job's."""
    found, _oom, sentences = _exit(_observed(ContainerState(exit_code=code, finished_at=995.0), outage=away))

    assert found == code
    assert [part in sentence for sentence in sentences] == ([True] if part else [])


def test_output_that_nobody_read() -> None:
    """Since when; with the engine's own error behind it."""
    _code, _oom, sentences = _exit(_observed(ContainerState(exit_code=1, error="no such thing"), stream_lost_at=5.0))

    assert sentences[0].startswith(f"{AWAY}; anything the job wrote since ")
    assert sentences[1:] == ("the engine says: no such thing",)


@pytest.mark.parametrize(
    ("code", "always", "comes_next"),
    [
        (0, False, State.STAGING),
        (1, False, State.ENDED),
        (1, True, State.STAGING),
    ],
)
def test_what_comes_next(code: int, always: bool, comes_next: State) -> None:
    """Results of a job that went well, and of another where it asked for that."""
    plan = replace(_PLAN, stage_out=(replace(_OUT, always=always),))
    found = ending(_observed(ContainerState(exit_code=code)), plan, ask_memory="")

    assert found.state is comes_next
    assert bool(found.results) is (comes_next is State.STAGING)


def test_a_job_without_a_plan_has_no_results() -> None:
    """And no limit to be named."""
    found = ending(_observed(ContainerState(exit_code=137, out_of_memory=True)), None, ask_memory="")

    assert (found.state, found.exit.oom) == (State.ENDED, True)
    assert "the node's memory" in found.exit.sentences[0]


@pytest.mark.parametrize(
    ("code", "out_of_memory", "clear"),
    [
        (0, False, True),
        (7, False, True),
        (None, False, False),
        (137, False, False),
        (143, False, False),
        (255, False, False),
        (0, True, False),
    ],
)
def test_an_event_that_leaves_no_question(code: int | None, out_of_memory: bool, clear: bool) -> None:
    """A signal, a lost status or an OOM event does."""
    assert is_clear(code, out_of_memory=out_of_memory) is clear


def test_a_kernel_that_does_not_tell_leaves_a_question() -> None:
    """Only a limit that is known not to have been reached does not."""
    assert has_no_kill(Usage(limit_hit=False))
    assert not has_no_kill(Usage(limit_hit=True))
    assert not has_no_kill(Usage())
    assert not has_no_kill(Usage(limit_hit=False, oom_at="node"))


def test_when_the_engine_may_be_shutting_down() -> None:
    """A signal nothing explains yet, or a container that is gone."""
    killed = ContainerState(exit_code=137, finished_at=_NOW)

    assert may_be_the_engines(killed, None, _NOW)
    assert may_be_the_engines(None, None, _NOW)
    assert not may_be_the_engines(killed, Outage(_NOW), _NOW)
    assert not may_be_the_engines(replace(killed, out_of_memory=True), None, _NOW)
    assert not may_be_the_engines(ContainerState(exit_code=1), None, _NOW)


def test_how_long_an_engine_may_be_wrong() -> None:
    """Half a minute."""
    assert not is_given_up(100.0, 129.9)
    assert is_given_up(100.0, 130.0)


@pytest.mark.parametrize(
    ("code", "usage", "is_full", "said"),
    [
        (1, Usage(pids_hit=True), False, "the job had 4096 processes and threads, as many as it may at this site"),
        (1, Usage(pids_hit=False), True, "/dev/shm was full: it has 512 MiB in this job"),
        (135, Usage(), False, "a bus error (SIGBUS) is what a full /dev/shm ends in: it has 512 MiB in this job"),
        (0, Usage(pids_hit=False), True, ""),
        (1, Usage(), False, ""),
    ],
)
def test_limits_that_a_program_cannot_name(code: int, usage: Usage, is_full: bool, said: str) -> None:
    """Processes and shared memory, with what to change; a full /dev/shm is nothing to a job that has succeeded."""
    observed = replace(_observed(ContainerState(exit_code=code), usage=usage), shm_was_full=is_full)
    sentences = ending(observed, _plan("alpine:3"), ask_memory="").exit.sentences

    assert (sentences[0] if sentences else "").startswith(said)
    assert bool(sentences) is bool(said)
