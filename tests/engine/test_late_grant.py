"""What mom's file of a job alone tells of its grant, on a real engine with real cgroups."""

from __future__ import annotations

import os

import docker
import pytest

from pbsdock.core.plan import Limits
from pbsdock.engine.make import connect
from pbsdock.trial import spool
from tests.conftest import IMAGE, Instance

pytestmark = pytest.mark.engine
_SHOW = (
    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us; df -k /dev/shm | tail -n 1"
)


def _in_job_file(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """As mom writes it, beside what the stand-in for mom does."""
    without = spool.job_file
    version = '<request_version flags="1">1</request_version>'
    monkeypatch.setattr(spool, "job_file", lambda *told: without(*told).replace(version, text))


def test_memory_of_a_task_request(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is the limit of the container, with half of it for /dev/shm, and what goes beyond it is killed."""
    asked = "<task_count.0>2</task_count.0><lprocs.0>2</lprocs.0><memory.0>32768kb</memory.0>"
    _in_job_file(monkeypatch, f"<request_version>2</request_version><req_information>{asked}</req_information>")
    script = f"#!/bin/sh\n#DOCKER {IMAGE}\n{_SHOW}\nx=x; while :; do x=$x$x; done\n"
    done = instance.run(script, resources="walltime=00:05:00")
    memory, quota, shm = done.stdout.decode().splitlines()

    assert int(memory) == 64 << 20
    assert int(quota) == min(4, len(os.sched_getaffinity(0))) * 100_000
    assert int(shm.split()[1]) == 32 << 10
    assert b"more than its 64 MiB" in done.stderr or b"64 MiB" in done.stderr
    (changed,) = [event for event in instance.trail(done.job_id) if event["event"] == "cgroup.changed"]
    assert changed["memory_bytes"] == 64 << 20


def test_cpus_of_an_exclusive_job(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the node's."""
    _in_job_file(monkeypatch, "<node_exclusive>1</node_exclusive>")
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{_SHOW}\n")

    assert int(done.stdout.split()[1]) == len(os.sched_getaffinity(0)) * 100_000


def test_memory_no_container_may_have(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused with -L's own name, nothing is left, and the node stays in service."""
    _in_job_file(
        monkeypatch,
        "<request_version>2</request_version><req_information><memory.0>999999999999kb</memory.0></req_information>",
    )
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho no\n")

    assert (done.exit_status, done.stdout, done.node_down) == (125, b"", None)
    assert b"-L memory asks for 1023999999998976 bytes on " in done.stderr
    assert instance.left() == []


def test_a_container_that_runs_gets_other_limits(images: None) -> None:
    """More and less memory and CPU time than it was made with, by the engine's own word."""
    client, engine = docker.from_env(), connect("/var/run/docker.sock", 30.0)
    container = client.containers.run(IMAGE, ["sleep", "60"], detach=True, mem_limit="32m", cpu_quota=50_000, init=True)
    try:
        for memory, millis in ((64, 2000), (16, 1000)):
            given = Limits(
                memory_bytes=memory << 20,
                memory_swap_bytes=memory << 20,
                cpu_millis=millis,
                cpuset=None,
                pids=50,
                shm_bytes=1 << 20,
            )
            engine.limit(container.id, given)
            container.reload()
            found = container.attrs["HostConfig"]
            assert (found["Memory"], found["CpuQuota"], found["PidsLimit"]) == (memory << 20, millis * 100, 50)
            code, held = container.exec_run(["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"])
            assert (code, int(held)) == (0, memory << 20)
    finally:
        container.remove(force=True)
        client.close()
