"""Version 1 on the real kernel, with real containers. Needs root, version 1 and a running engine."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from pbsdock.core.errors import NodeFault
from pbsdock.core.plan import Limits
from pbsdock.engine.make import connect
from pbsdock.host.cgroup.detect import choose
from pbsdock.host.cgroup.v1 import V1Cgroup
from tests.conftest import IMAGE

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not Path("/sys/fs/cgroup/memory").is_dir(), reason="this host has no cgroup version 1"),
]

MIB = 1 << 20
LIMITS = Limits(memory_bytes=64 * MIB, memory_swap_bytes=64 * MIB, cpu_millis=500, cpuset=None, pids=64, shm_bytes=MIB)
ROOT = f"pbsdock-test{os.getpid()}"

Run = Callable[..., Any]


@pytest.fixture
def cgroups() -> Iterator[V1Cgroup]:
    """The backend the engine of this host asks for, in a root of its own that is gone afterwards."""
    info = connect("/var/run/docker.sock", 20.0).info()
    backend = choose(info.cgroup_driver, info.cgroup_version, root=ROOT)
    assert isinstance(backend, V1Cgroup)
    yield backend
    for name in backend.names():
        backend.remove(name, 5)
    for place in glob.glob(f"/sys/fs/cgroup/*/{ROOT}"):
        os.rmdir(place)


@pytest.fixture
def run(images: None, cgroups: V1Cgroup) -> Iterator[Run]:
    """Start a container below a job's cgroup; all of them are removed afterwards."""
    made = []
    with closing(docker.from_env()) as client:

        def start(name: str, *command: str, **options: Any) -> Any:
            one = client.containers.create(
                IMAGE, list(command), cgroup_parent=cgroups.cgroup_parent(name), network_mode="none", **options
            )
            made.append(one)
            one.start()
            one.reload()
            return one

        yield start
        for one in made:
            with suppress(docker.errors.NotFound):
                one.remove(force=True)


def held(name: str, controller: str, file: str) -> str:
    return Path(f"/sys/fs/cgroup/{controller}/{ROOT}/{name}/{file}").read_text().strip()


def join(name: str, pid: int) -> None:
    for file in glob.glob(f"/sys/fs/cgroup/*/{ROOT}/{name}/cgroup.procs"):
        Path(file).write_text(str(pid))


def test_the_kernel_holds_every_limit(cgroups: V1Cgroup) -> None:
    """What was asked for is in the kernel's own files."""
    cgroups.create("a", LIMITS)

    assert held("a", "memory", "memory.limit_in_bytes") == str(64 * MIB)
    assert held("a", "memory", "memory.memsw.limit_in_bytes") == str(64 * MIB)
    assert held("a", "cpu", "cpu.cfs_quota_us") == "50000"
    assert held("a", "pids", "pids.max") == "64"


@pytest.mark.parametrize("then", [128 * MIB, 32 * MIB])
def test_limits_are_raised_and_lowered(cgroups: V1Cgroup, then: int) -> None:
    """Memory may never be above memory plus swap, not even between the two writes."""
    cgroups.create("a", LIMITS)

    cgroups.create("a", replace(LIMITS, memory_bytes=then, memory_swap_bytes=then))

    assert held("a", "memory", "memory.limit_in_bytes") == str(then)
    assert held("a", "memory", "memory.memsw.limit_in_bytes") == str(then)


def test_limits_are_lifted(cgroups: V1Cgroup) -> None:
    """None is no limit, also after there was one."""
    cgroups.create("a", LIMITS)

    cgroups.create("a", replace(LIMITS, memory_bytes=None, memory_swap_bytes=None, cpu_millis=None))

    assert int(held("a", "memory", "memory.limit_in_bytes")) > 1 << 62
    assert held("a", "cpu", "cpu.cfs_quota_us") == "-1"


def test_a_limit_on_the_sum_alone_holds(cgroups: V1Cgroup) -> None:
    """A job that asked only for vmem is not unlimited."""
    cgroups.create("a", replace(LIMITS, memory_bytes=None))

    assert held("a", "memory", "memory.memsw.limit_in_bytes") == str(64 * MIB)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs to write a list the kernel shortens")
def test_a_cpu_list_may_be_written_in_any_way(cgroups: V1Cgroup) -> None:
    """The kernel shows "0,1" as "0-1": the same CPUs."""
    cgroups.create("a", replace(LIMITS, cpuset="0,1"))

    assert held("a", "cpuset", "cpuset.cpus") == "0-1"


def test_a_container_starts_inside(cgroups: V1Cgroup, run: Run) -> None:
    """Its first process is bound by the job's limits from the start."""
    cgroups.create("a", LIMITS)

    container = run("a", "sleep", "60")

    pid = container.attrs["State"]["Pid"]
    assert cgroups.contains("a", pid)
    assert cgroups.pids("a") == [pid]
    assert not cgroups.contains("a", os.getpid())


def test_in_one_hierarchy_only_is_not_inside(cgroups: V1Cgroup) -> None:
    """Memory limited, but not CPU and processes: that is not the job's cgroup."""
    cgroups.create("a", LIMITS)
    with subprocess.Popen(["sleep", "60"]) as child:
        Path(f"/sys/fs/cgroup/memory/{ROOT}/a/cgroup.procs").write_text(str(child.pid))
        assert not cgroups.contains("a", child.pid)
        child.kill()


def test_a_container_that_is_over_is_not_an_intruder(cgroups: V1Cgroup) -> None:
    """A short job's zombie is shown in the root cgroup; "outside" would take the node out of service."""
    cgroups.create("a", LIMITS)
    with subprocess.Popen(["sleep", "60"]) as child:
        join("a", child.pid)
        child.kill()
        time.sleep(0.1)
        with pytest.raises(ProcessLookupError) as caught:
            cgroups.contains("a", child.pid)

    assert str(caught.value) == f"process {child.pid} has ended"


def test_kill_reaches_a_process_without_its_first_thread(cgroups: V1Cgroup) -> None:
    """After pthread_exit in main the process is shown as a zombie in the root cgroup, and runs on."""
    program = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print(flush=True)\n"
        "time.sleep(0.3)\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    cgroups.create("a", LIMITS)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        join("a", child.pid)
        assert child.stdout is not None
        child.stdout.readline()
        for _ in range(200):
            if Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
            time.sleep(0.02)
        try:
            assert cgroups.contains("a", child.pid)
            assert cgroups.kill("a", 3)
        finally:
            child.kill()


def test_kill_ends_a_paused_container(cgroups: V1Cgroup, run: Run) -> None:
    """Frozen by itself, it dies only when it is thawed by itself."""
    cgroups.create("a", LIMITS)
    run("a", "sleep", "60").pause()

    assert cgroups.kill("a", 3)


def test_kill_ends_a_fork_bomb(cgroups: V1Cgroup, run: Run) -> None:
    """Frozen while it is killed, it has no moment to fork away."""
    cgroups.create("a", LIMITS)
    run("a", "sh", "-c", "while :; do (sleep 5 & sleep 5 &) ; done")
    time.sleep(0.5)

    assert cgroups.kill("a", 5)
    assert cgroups.pids("a") == []


def test_kill_spares_the_neighbour(cgroups: V1Cgroup, run: Run) -> None:
    """Another job whose name begins alike lives on."""
    cgroups.create("a", LIMITS)
    cgroups.create("ab", LIMITS)
    neighbour = run("ab", "sleep", "60")
    run("a", "sleep", "60")

    cgroups.remove("a", 5)

    assert cgroups.pids("ab") == [neighbour.attrs["State"]["Pid"]]
    assert cgroups.names() == ["ab"]


@pytest.mark.parametrize("own", [None, 64 * MIB])
def test_an_oom_kill_is_seen_after_the_container_is_gone(cgroups: V1Cgroup, run: Run, own: int | None) -> None:
    """Also when the container has the same limit itself, and its counter failed instead of the job's."""
    cgroups.create("a", LIMITS)
    options = {"mem_limit": own, "memswap_limit": own} if own else {}
    container = run("a", "sh", "-c", "head -c 200m /dev/zero | tail -c 190m", **options)
    container.wait(timeout=60)
    container.remove()

    usage = cgroups.usage("a")

    assert usage.limit_hit is True
    assert usage.memory_peak_bytes == 64 * MIB


def test_a_modest_job_has_not_hit_its_limit(cgroups: V1Cgroup, run: Run) -> None:
    """Its use is told, and nothing else."""
    cgroups.create("a", LIMITS)
    run("a", "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").wait(timeout=60)

    usage = cgroups.usage("a")

    assert usage.limit_hit is False
    assert usage.oom_kills == 0
    assert usage.cpu_seconds is not None
    assert usage.cpu_seconds > 0.01


def test_remove_leaves_nothing_in_any_hierarchy(cgroups: V1Cgroup, run: Run) -> None:
    """The engine makes our path in the named and the unified hierarchy too."""
    cgroups.create("a", LIMITS)
    run("a", "sleep", "60")

    cgroups.remove("a", 5)
    cgroups.remove("a", 5)

    assert glob.glob(f"/sys/fs/cgroup/*/{ROOT}/a") == []


def test_remove_finds_a_process_in_a_single_hierarchy(cgroups: V1Cgroup) -> None:
    """Whoever is in one of them keeps the directory."""
    cgroups.create("a", LIMITS)
    with subprocess.Popen(["sleep", "60"]) as child:
        Path(f"/sys/fs/cgroup/cpu/{ROOT}/a/cgroup.procs").write_text(str(child.pid))
        try:
            cgroups.remove("a", 2)
            assert child.wait(5) == -9
        finally:
            child.kill()

    assert cgroups.names() == []


def test_signal_counts_and_excludes(cgroups: V1Cgroup, run: Run) -> None:
    """Every process but those left out gets it."""
    cgroups.create("a", LIMITS)
    container = run("a", "sh", "-c", "sleep 60 & sleep 60 & wait")
    deadline = time.monotonic() + 5
    while len(cgroups.pids("a")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)

    assert cgroups.signal("a", 0) == 3
    assert cgroups.signal("a", 0, frozenset({container.attrs["State"]["Pid"]})) == 2


def test_usage_of_nothing_is_a_fault(cgroups: V1Cgroup) -> None:
    """A cgroup that is gone does not read as a job that used nothing."""
    with pytest.raises(NodeFault) as caught:
        cgroups.usage("a")

    assert str(caught.value) == f"cgroup /{ROOT}/a does not exist"
