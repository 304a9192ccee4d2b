"""A process id means one process, also after it has become another's. Real processes; the nodes are fakes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent import server, starting, teardown
from pbsdock.agent.runs import Run
from pbsdock.agent.watch import Watcher
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.facts import Usage
from pbsdock.core.record import State
from pbsdock.host.process import Caller, alive, end, start_time
from tests.unit.records import fake_jobs, record_in


def test_a_process_is_told_from_a_later_one() -> None:
    """By when it began; where that is not known its number has to do."""
    pid = os.getpid()
    assert start_time(pid) > 0
    assert start_time(2**22 + 1) == 0
    assert [alive(pid, one) for one in (start_time(pid), start_time(pid) + 1, 0)] == [True, False, True]


def test_a_process_is_killed_and_no_later_one() -> None:
    """Where it is not there any more, or is another by now, there is nothing to do."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        began = start_time(process.pid)
        assert end(process.pid, began + 1, 5.0)
        assert process.poll() is None
        assert end(process.pid, began, 5.0)
        assert process.wait(5.0) == -9
    assert end(process.pid, began, 5.0)


@pytest.mark.parametrize("counted_in", ["system.slice/vm_slurmstepd.scope/job_7/step_batch/user/task_0", ""])
def test_a_container_in_the_managers_cgroup_is_killed_on_a_fake_node(counted_in: str) -> None:
    """Nothing of it is in the job's own, which is found empty; what was not taken in is left to that."""
    node: Any = SimpleNamespace(
        cgroups=SimpleNamespace(kill=lambda name, deadline_s: True, usage=lambda name: Usage(oom_kills=0))
    )
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        noted: dict[str, Any] = {"pid": process.pid, "pid_start": start_time(process.pid)}
        teardown._kill(node, record_in(State.ENDED, counted_in=counted_in, **noted))
        if not counted_in:
            assert process.poll() is None
            process.kill()
        assert process.wait(5.0) == -9


@pytest.mark.parametrize(
    ("noted", "is_over"),
    [({}, False), ({"pid_start": 0}, False), ({"pid_start": 7}, True)],
    ids=["older-record", "was-gone", "reused"],
)
def test_a_job_is_over_though_its_number_is_anothers_on_a_fake_node(
    monkeypatch: pytest.MonkeyPatch, noted: dict[str, int], is_over: bool
) -> None:
    """An agent that comes back finds its jobs by what the record says of their first processes."""
    record = record_in(State.RUNNING, pid=os.getpid(), **noted)
    jobs = fake_jobs(record)
    node: Any = SimpleNamespace(
        jobs=jobs,
        children=SimpleNamespace(jobs=list),
        boot="b",
        stores=SimpleNamespace(recall=lambda *_: None),
        store_dir=lambda _: None,
        emit=lambda *_, **__: None,
    )
    server.adopt(node)
    looked_at: list[Run] = []
    watcher = Watcher(node)
    monkeypatch.setattr(watcher, "_look_at", looked_at.append)
    watcher.look()

    assert looked_at == ([jobs.job_run(record.incarnation)] if is_over else [])


def _child() -> subprocess.Popen[bytes]:
    """A process of nobody's, with limits that are not ours."""
    program = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (77, 99)); print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_limits_are_those_of_who_has_asked() -> None:
    """And of nobody who has its number since: another user, or a later process of the same one."""
    with _child() as child:
        asked = Caller(child.pid, 65534, start_time(child.pid))
        assert starting.limits_of(asked)["Max open files"] == (77, 99)
        others = (replace(asked, uid=65533), replace(asked, started=asked.started + 1), replace(asked, started=0))
        for other in others:
            with pytest.raises(
                Refusal, match="^the run hook that asked for the job's start is gone; nothing was started$"
            ):
                starting.limits_of(other)
        child.kill()
        child.wait()
        with pytest.raises(NodeFault, match="^the run hook's limits cannot be read: "):
            starting.limits_of(asked)
