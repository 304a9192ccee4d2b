"""What mom's file of a job grants beyond its prologue's arguments; engine and cgroups are fakes."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent import late_grant
from pbsdock.agent.stand import Standing
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record, State
from pbsdock.policy.decide import decide
from pbsdock.policy.host import HostFacts
from pbsdock.rm.base import Job
from pbsdock.rm.torque.tasks import TaskRequest
from tests.support.torque import job, parse_options
from tests.unit.fakes import FakeNode, fake_node, known

_GB, _MB = 1 << 30, 1 << 20
_HOST = HostFacts(node="n1", memory_bytes=8 * _GB, cpus=8)


class FakeLive:
    """A live job as a manager finds it."""

    def __init__(self, found: Job, has_more: bool = True, wrong: str = "") -> None:
        self.found, self.has_more, self.wrong, self.id, self.uid = found, has_more, wrong, found.id, found.uid

    def job(self, _env: Any) -> Job:
        return self.found


def _tasks(**asked: Any) -> Job:
    return job("", tasks=(TaskRequest(**asked),))


def _begun(
    directory: Path, monkeypatch: pytest.MonkeyPatch, live: Job | FakeLive | None, text: str = "a", config: str = ""
) -> tuple[FakeNode, Record]:
    """A node with a job whose prologue was told of no memory and one slot."""
    node = fake_node(directory, config)
    plan: Plan = decide(job(""), parse_options(text, filename="job.sh"), node.config, _HOST)
    record = known(node, State.READY, plan=plan, job_file="7.vm.JB")
    monkeypatch.setattr(node, "host", lambda: _HOST)
    found = FakeLive(live) if isinstance(live, Job) else live
    monkeypatch.setattr(node.rm, "find", lambda _id: found)
    return node, record


def _late(*arguments: Any, **more: Any) -> tuple[FakeNode, Record]:
    node, record = _begun(*arguments, **more)
    late_grant.apply(node, record)
    return node, record


def test_memory_of_a_task_request_with_fakes_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the plan, which is written down, in the cgroup, and half of it for /dev/shm."""
    node, record = _late(tmp_path, monkeypatch, _tasks(count=2, lprocs=2, memory=200 * _MB, swap=300 * _MB))
    limits = record.planned.limits

    assert (limits.memory_bytes, limits.memory_swap_bytes, limits.cpu_millis) == (400 * _MB, 600 * _MB, 4000)
    assert limits.shm_bytes == 200 * _MB
    assert node.fake_cgroups.made[record.cgroup] == limits
    assert [kept.planned.limits for kept in node.jobs.records()] == [limits]
    assert node.events.names() == ["cgroup.changed"]


def test_an_exclusive_job_with_fakes_has_all_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same memory as before; again changes nothing."""
    node, record = _late(tmp_path, monkeypatch, job("nodes=1", exclusive=True))
    late_grant.apply(node, record)

    assert (record.planned.limits.cpu_millis, record.planned.limits.memory_bytes) == (8000, None)
    assert node.fake_cgroups.calls == ["create"]


@pytest.mark.parametrize(("asked", "calls"), [({"lprocs": 2}, ["limit c to None"]), ({"memory": 64 * _MB}, [])])
def test_a_container_with_fakes_that_waits_is_limited_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, int], calls: list[str]
) -> None:
    """After its cgroup, below which it cannot have more; or one with another /dev/shm is to take its place."""
    node, record = _begun(tmp_path, monkeypatch, _tasks(**asked))
    waiting = Standing(bound=(), container="c", pid=os.getpid())
    node.jobs.stand(record, waiting)
    threading.Timer(0.1, waiting.over.set).start()  # it is being made
    late_grant.apply(node, record)

    assert node.engine.calls == calls
    assert node.jobs.standing_of(record) is (waiting if calls else None)


@pytest.mark.parametrize(("wanted", "cpuset"), [(1, "3"), (2, "2,3"), (3, "2,3,5"), (8, "2,3,5")])
def test_cpus_of_its_own_with_fakes_are_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, cpuset: str
) -> None:
    """Its own and free ones, as many as there are; another job's stay that job's."""
    node, record = _begun(tmp_path, monkeypatch, _tasks(lprocs=wanted), config="[limits]\ncpu = 'cpuset'")
    monkeypatch.setattr(node, "free_cpus", lambda: (2, 5))
    record.plan = replace(record.planned, limits=replace(record.planned.limits, cpuset="3", cpu_millis=None))
    late_grant.apply(node, record)

    assert (record.planned.limits.cpuset, record.planned.limits.cpu_millis) == (cpuset, None)
    assert node.promised == {}


@pytest.mark.parametrize(
    ("live", "text", "code", "says"),
    [
        (_tasks(memory=9 * _GB), "a", "memory-too-large",
         "-L memory asks for 9663676416 bytes on n1; a container may have 8589934592 there"),
        (_tasks(memory=1024), "a", "memory-too-small", "-L memory asks for 1024 bytes; the engine needs at least 6mb"),
        (_tasks(memory=_GB), "--shm-size 2gb a", "shm-too-large",
         "--shm-size asks for 2147483648 bytes; this job may have 1073741824"),
        (_tasks(memory=_GB), "--tmpfs /x:size=2gb a", "tmpfs-too-large",
         "--tmpfs /x asks for 2147483648 bytes; it lives in the job's memory of 1073741824"),
        (FakeLive(job(""), wrong="mem: no"), "a", "bad-resources",
         "what the job asks for with qsub -l cannot be understood: mem: no"),
    ],
    ids=["too much", "too little", "shm", "tmpfs", "nonsense"],
)  # fmt: skip
def test_what_a_job_with_fakes_cannot_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: Any, text: str, code: str, says: str
) -> None:
    """Is refused, as in the prologue."""
    node, record = _begun(tmp_path, monkeypatch, live, text)
    before = record.plan
    with pytest.raises(Refusal) as caught:
        late_grant.apply(node, record)

    assert (caught.value.code, caught.value.sentence) == (code, says)
    assert (record.plan, node.fake_cgroups.made) == (before, {})


def test_a_job_with_fakes_whose_prologue_was_told_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stays as it was planned."""
    node, record = _late(tmp_path, monkeypatch, FakeLive(job("mem=1gb"), has_more=False))

    assert (record.planned.limits.memory_bytes, node.fake_cgroups.made) == (None, {})


def test_a_job_with_fakes_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not started: nobody knows what it may have. One whose file cannot be read is of a Torque before -L."""
    node, record = _begun(tmp_path, monkeypatch, None)
    with pytest.raises(NodeFault, match=r"^Torque has no file of job 7\.s on "):
        late_grant.apply(node, record)
    (node.paths.mom_priv / "jobs/7.vm.JB").write_bytes(b"\x01\x02")
    late_grant.apply(node, record)
