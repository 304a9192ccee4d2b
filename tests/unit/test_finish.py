"""How a container's end is found out when the engine itself is wrong about it; the engine here is a fake."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent import finish as ends
from pbsdock.agent import stage
from pbsdock.agent.finish import finish
from pbsdock.agent.outage import Outage, back, explains, lost
from pbsdock.agent.runs import JobRun
from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Exit, Usage
from pbsdock.core.record import State
from pbsdock.engine.base import ContainerState
from pbsdock.host.process import alive
from tests.support.torque import WORDS
from tests.unit.records import fake_jobs, record_in


def _running_for_ever(_container: str) -> ContainerState:
    return ContainerState(is_running=True)


def _no_answer(_container: str) -> ContainerState:
    raise NodeFault("engine-unreachable", "the Docker engine does not answer")


def _node(inspect: Any, *, answers: bool = True) -> Any:
    return SimpleNamespace(
        rm=SimpleNamespace(words=WORDS),
        engine=SimpleNamespace(inspect=inspect, probe=lambda: answers),
        job_lock=lambda name, wait: nullcontext(),
        cgroups=SimpleNamespace(usage=lambda name: Usage()),
        jobs=fake_jobs(),
        emit=lambda *args, **fields: None,
    )


def _job(gone_for_s: float | None) -> JobRun:
    gone_since = None if gone_for_s is None else time.monotonic() - gone_for_s
    return JobRun(record_in(State.RUNNING), gone_since=gone_since)


@pytest.mark.parametrize("inspect", [_running_for_ever, _no_answer])
def test_fake_engine_that_never_learns_of_an_end_is_given_up(inspect: Any) -> None:
    """What the kernel has long known to be over ends with the sentence, whatever the engine believes."""
    job = _job(31.0)
    finish(_node(inspect), job)

    assert job.ended is not None
    assert job.ended.number("code") == 255
    assert job.record.exit is not None
    assert "the job's own exit status is lost" in job.record.exit.sentences[0]


@pytest.mark.parametrize(
    ("gone_for_s", "answers"),
    [(None, True), (5.0, True), (31.0, False)],
    ids=["still-there", "only-just-gone", "engine-away"],
)
def test_fake_engine_that_may_still_tell_is_waited_for(gone_for_s: float | None, answers: bool) -> None:
    """A process that is there, one only just gone, and an engine that is away are no reasons to make up a status."""
    job = _job(gone_for_s)
    finish(_node(_running_for_ever, answers=answers), job)

    assert job.ended is None


def test_fake_engine_that_hung_has_time_to_learn_of_an_end() -> None:
    """However long it hung: that its first answer afterwards is out of date is no reason to make up a status."""
    job = _job(300.0)
    finish(_node(_running_for_ever, answers=False), job)
    job.gone_since = job.gone_since or time.monotonic()  # as the next look has it
    finish(_node(_running_for_ever), job)

    assert job.ended is None


def test_zombie_is_not_alive() -> None:
    """A zombie keeps its directory in /proc, but it is over."""
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert os.path.exists(f"/proc/{child.pid}")
    assert not alive(child.pid)
    child.wait()
    assert not alive(child.pid)
    assert alive(os.getpid())


# -- whose end it was -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outage", "finished_at", "is_explained"),
    [
        (None, 100.0, False),
        (Outage(100.0), 90.0, False),  # ended long before, and is only found out now
        (Outage(100.0), 98.5, True),  # an engine that shuts down
        (Outage(100.0), 500.0, True),  # away to this day
        (Outage(100.0, 110.0), 105.0, True),
        (Outage(100.0, 110.0), 112.0, True),  # ended by the one that came, whose first answer is late
        (Outage(100.0, 110.0), 40000.0, False),  # a restart in the morning and a qdel at night
        (Outage(100.0, 40000.0), None, True),  # no time of the end, and back just now
        (Outage(100.0, 110.0), None, False),
    ],
)
def test_what_an_outage_explains(outage: Outage | None, finished_at: float | None, is_explained: bool) -> None:
    """An end from just before the engine went until just after it was back; found out at 40001."""
    assert explains(outage, finished_at, 40001.0) is is_explained


def test_an_engine_that_comes_and_goes() -> None:
    """One outage while it flaps, another once it was well for a while."""
    first = lost(None, 100.0)
    assert lost(first, 105.0) == first
    assert back(first, 110.0) == Outage(100.0, 110.0)
    assert back(back(first, 110.0), 120.0) == Outage(100.0, 110.0)
    assert lost(Outage(100.0, 110.0), 111.0) == Outage(100.0)
    assert lost(Outage(100.0, 110.0), 200.0) == Outage(200.0)
    assert back(None, 1.0) is None


@pytest.mark.parametrize(
    ("ago_s", "is_blamed"), [(0.0, True), (36000.0, False)], ids=["restarted-now", "in-the-morning"]
)
@pytest.mark.parametrize("code", [137, 143, 255])
def test_fake_engine_is_blamed_for_what_its_restart_explains(code: int, ago_s: float, is_blamed: bool) -> None:
    """A qdel, or a job's own status, hours after a restart that the job has survived is not the engine's."""
    now = time.time()
    ended = ContainerState(exit_code=code, finished_at=now)
    job = _job(None)
    job.outage = Outage(now - ago_s - 3.0, now - ago_s)
    finish(_node(lambda _: ended), job)

    assert job.record.exit is not None
    assert any("Docker engine" in one for one in job.record.exit.sentences) is is_blamed


# -- a stage-out's end ------------------------------------------------------------------------------------------------


def test_a_sentence_with_bytes_of_a_name_is_told_by_a_fake_node() -> None:
    """A record's sentences go on as they are: what a message cannot carry must not keep the run hook waiting."""
    job = _job(None)
    job.record._state, job.record.exit = State.STAGING, Exit(code=74, sentences=("na\udcffme\0",))
    ends._conclude(_node(None), job)

    assert job.ended is not None
    assert job.ended.fields["sentence"] == [b"na\\udcffme"]
    assert job.over.is_set()


def _raises(*_: Any) -> None:
    raise ValueError("a slip")


@pytest.mark.parametrize("fails", ["stage-out", "conclude"])
def test_a_stage_out_of_a_fake_node_that_goes_wrong_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Nobody waits for its end in vain: neither the run hook nor a release; and what is over is tidied up."""
    done: list[str] = []
    monkeypatch.setattr(stage, "_stage_out", _raises if fails == "stage-out" else lambda *_: None)
    conclude = _raises if fails == "conclude" else lambda *_: done.append("concluded")
    job, node = _job(None), _node(None)
    events: list[tuple[str, str]] = []
    node.emit = lambda event, *_, **fields: events.append((event, fields["where"]))
    began = time.monotonic()
    stage.begin_out(node, job, conclude, lambda *_: done.append("tidied"))
    work = node.jobs.work_of(job.record)
    assert work is not None
    assert work.over.wait(5)
    while "tidied" not in done and time.monotonic() < began + 5:
        time.sleep(0.01)

    assert done == (["tidied"] if fails == "conclude" else ["concluded", "tidied"])
    assert events == [("agent.error", "stage-out")]
