"""How a container's end is found out when the engine itself is wrong about it; the engine here is a fake."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent.finish import finish
from pbsdock.agent.running import Running
from pbsdock.core.errors import NodeFault
from pbsdock.core.ledger import Record
from pbsdock.host.cgroup.base import Usage
from pbsdock.host.process import alive


def _running_for_ever(_container: str) -> dict[str, Any]:
    return {"State": {"Running": True, "ExitCode": 0}}


def _no_answer(_container: str) -> dict[str, Any]:
    raise NodeFault("engine-unreachable", "the Docker engine does not answer")


def _node(inspect: Any, *, answers: bool = True) -> Any:
    return SimpleNamespace(
        engine=SimpleNamespace(inspect=inspect, probe=lambda: answers),
        job_lock=lambda name, wait: nullcontext(),
        cgroups=SimpleNamespace(usage=lambda name: Usage()),
        ledger=SimpleNamespace(save=lambda record: None),
        emit=lambda *args, **fields: None,
    )


def _job(gone_for_s: float | None) -> Running:
    gone_since = None if gone_for_s is None else time.monotonic() - gone_for_s
    record = Record.new(job_id="1.srv", safe="1.srv", uid=1, user="alice", node="node1", boot_id="b")
    return Running(record, gone_since=gone_since)


@pytest.mark.parametrize("inspect", [_running_for_ever, _no_answer])
def test_fake_engine_that_never_learns_of_an_end_is_given_up(inspect: Any) -> None:
    """What the kernel has long known to be over ends with the sentence, whatever the engine believes."""
    job = _job(31.0)
    finish(_node(inspect), job)

    assert job.ended is not None
    assert job.ended.number("code") == 255
    assert job.record.exit is not None
    assert "the job's own exit status is lost" in job.record.exit["sentences"][0]


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
