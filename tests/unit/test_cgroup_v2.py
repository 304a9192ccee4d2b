"""Version 2 with the cgroupfs driver, on a fake tree of plain files; no kernel takes part."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Usage
from pbsdock.core.plan import Limits
from pbsdock.host.cgroup.v2 import V2Cgroup

LIMITS = Limits(memory_bytes=1 << 20, memory_swap_bytes=3 << 20, cpu_millis=1500, cpuset="0,1", pids=64, shm_bytes=0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A hierarchy as far as our directory, with every controller, and swap counted."""
    for place in (tmp_path, tmp_path / "pbsdock", tmp_path / "pbsdock" / "1.vm"):
        place.mkdir(exist_ok=True)
        (place / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (place / "cgroup.subtree_control").write_text("")
    (tmp_path / "pbsdock" / "1.vm" / "memory.swap.max").write_text("max\n")
    return tmp_path


def held(tree: Path) -> dict[str, str]:
    files = ("memory.max", "memory.swap.max", "cpu.max", "pids.max", "cpuset.cpus")
    places = {one: tree / "pbsdock" / "1.vm" / one for one in files}
    return {name: place.read_text() for name, place in places.items() if place.exists()}


def test_create_fake_tree(tree: Path) -> None:
    """Controllers are handed down, swap is the part above memory, CPU a quota of 100 ms."""
    V2Cgroup(tree, "pbsdock").create("1.vm", LIMITS)

    assert (tree / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +cpuset +io"
    assert (tree / "pbsdock" / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +cpuset +io"
    assert held(tree) == {
        "memory.max": "1048576",
        "memory.swap.max": "2097152",
        "cpu.max": "150000 100000",
        "pids.max": "64",
        "cpuset.cpus": "0,1",
    }


def test_create_again_lifts_limits_fake_tree(tree: Path) -> None:
    """None means not limited, also where there was a limit before, and swap is not forbidden by it."""
    cgroups = V2Cgroup(tree, "pbsdock")
    cgroups.create("1.vm", LIMITS)

    cgroups.create("1.vm", replace(LIMITS, memory_bytes=None, memory_swap_bytes=None, cpu_millis=None))

    wanted = {"memory.max": "max", "memory.swap.max": "max", "cpu.max": "max 100000"}
    assert {key: held(tree)[key] for key in wanted} == wanted


def test_memory_without_a_swap_limit_leaves_swap_alone_fake_tree(tree: Path) -> None:
    """The plan's None is no limit on version 1 and 2 alike."""
    V2Cgroup(tree, "pbsdock").create("1.vm", replace(LIMITS, memory_swap_bytes=None))

    assert held(tree)["memory.swap.max"] == "max"


def test_a_missing_controller_is_a_fault_of_the_node_fake_tree(tree: Path) -> None:
    """Nothing is started without limits."""
    (tree / "cgroup.controllers").write_text("cpu pids\n")

    with pytest.raises(NodeFault) as caught:
        V2Cgroup(tree, "pbsdock").create("1.vm", LIMITS)

    assert str(caught.value) == f"cgroup controller memory is not available in {tree}"


def test_a_threaded_cgroup_is_refused_fake_tree(tree: Path) -> None:
    """A process in it when a container started makes it threaded, and the memory controller is lost below."""
    (tree / "pbsdock" / "1.vm" / "cgroup.type").write_text("domain threaded\n")

    with pytest.raises(NodeFault) as caught:
        V2Cgroup(tree, "pbsdock").create("1.vm", LIMITS)

    assert str(caught.value) == "the kernel holds cgroup.type = domain threaded where domain was written"


def test_parent_has_a_leading_slash() -> None:
    """Without it the container lands below dockerd's own cgroup."""
    assert V2Cgroup(Path("/sys/fs/cgroup"), "pbsdock").cgroup_parent("1.vm") == "/pbsdock/1.vm"


@pytest.mark.parametrize(
    ("events", "local", "limit", "kills", "hit", "at"),
    [
        ("max 0\noom 0\noom_kill 0\n", 0, 1048576, 0, False, None),
        ("max 12\noom 0\noom_kill 0\n", 0, 1048576, 0, True, None),
        ("max 9\noom 1\noom_kill 1\noom_group_kill 0\n", 1, 1048576, 1, True, "job"),
        pytest.param("max 9\noom 1\noom_kill 1\n", 0, 1048576, 1, True, "job", id="the container's own equal limit"),
        pytest.param("max 9\noom 1\noom_kill 1\n", 0, 8 << 20, 1, True, "container", id="a lower one of its own"),
        pytest.param("max 9\noom 1\noom_kill 1\n", 0, "max", 1, True, "container", id="the job has no limit"),
        pytest.param("max 0\noom 0\noom_kill 1\n", 0, 1048576, 1, False, "node", id="the whole host was out of memory"),
    ],
)
def test_usage_fake_tree(
    tree: Path, events: str, local: int, limit: int | str, kills: int, hit: bool, at: str | None
) -> None:
    """Everything is read from the job's own directory, which counts all below and outlives the container."""
    job = tree / "pbsdock" / "1.vm"
    files = {
        "memory.events": f"low 0\nhigh 0\n{events}",
        "memory.events.local": f"low 0\noom {local}\noom_kill 0\n",
        "memory.max": f"{limit}\n",
        "memory.peak": "1048576\n",
        "pids.peak": "7\n",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n259:0 rbytes=1 wbytes=2 rios=0 wios=0\n",
    }
    for file, text in files.items():
        (job / file).write_text(text)

    assert V2Cgroup(tree, "pbsdock").usage("1.vm") == Usage(
        memory_peak_bytes=1048576,
        cpu_seconds=1.5,
        io_read_bytes=11,
        io_write_bytes=22,
        pids_peak=7,
        oom_kills=kills,
        limit_hit=hit,
        oom_at=at,
    )


def test_an_older_kernel_does_not_tell_fake_tree(tree: Path) -> None:
    """memory.peak is there since 5.19, pids.peak since 6.1: None is not zero."""
    assert V2Cgroup(tree, "pbsdock").usage("1.vm") == Usage()


def test_usage_of_nothing_is_a_fault_fake_tree(tree: Path) -> None:
    """A job whose cgroup is gone has not used nothing: nobody knows."""
    with pytest.raises(NodeFault) as caught:
        V2Cgroup(tree, "pbsdock").usage("2.vm")

    assert str(caught.value) == f"cgroup {tree}/pbsdock/2.vm does not exist"


def test_a_process_in_an_inner_node_is_told_fake_tree(tree: Path) -> None:
    """With one above the jobs the kernel gives them no memory limit: the job is not started, and it is said why."""
    (tree / "pbsdock" / "cgroup.procs").write_text("42\n")

    with pytest.raises(NodeFault) as caught:
        V2Cgroup(tree, "pbsdock").create("1.vm", LIMITS)

    assert caught.value.code == "cgroup-inner-process"
    assert str(caught.value) == f"process 42 is in {tree}/pbsdock, which only holds the cgroups of jobs"


@pytest.fixture
def delegated(tree: Path) -> Path:
    """The same below a unit's cgroup that was handed to us, in a tree whose root is systemd's."""
    unit = tree / "system.slice" / "mom.service"
    for place in (unit, unit / "pbsdock", unit / "pbsdock" / "1.vm"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (place / "cgroup.subtree_control").write_text("")
    return unit


def test_below_a_delegated_cgroup_nothing_above_it_is_touched_fake_tree(tree: Path, delegated: Path) -> None:
    """What is above belongs to systemd; the engine is given the whole path."""
    cgroups = V2Cgroup(tree, "pbsdock", "/system.slice/mom.service")

    cgroups.create("1.vm", LIMITS)

    assert cgroups.cgroup_parent("1.vm") == "/system.slice/mom.service/pbsdock/1.vm"
    assert cgroups.names() == ["1.vm"]
    assert (tree / "cgroup.subtree_control").read_text() == ""
    assert (delegated / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +cpuset +io"
    assert (delegated / "pbsdock" / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +cpuset +io"
    assert (delegated / "pbsdock" / "1.vm" / "memory.max").read_text() == "1048576"


def test_mom_itself_in_the_units_cgroup_is_told_fake_tree(tree: Path, delegated: Path) -> None:
    """Controllers cannot be handed down from where a process is."""
    (delegated / "cgroup.procs").write_text("42\n")

    with pytest.raises(NodeFault) as caught:
        V2Cgroup(tree, "pbsdock", "/system.slice/mom.service").create("1.vm", LIMITS)

    assert caught.value.code == "cgroup-inner-process"
    assert str(caught.value) == (
        f"process 42 is in {delegated}, above the cgroups of jobs; let its unit run in a cgroup below that"
        " (docs/cgroups.md)"
    )


@pytest.mark.parametrize("marked", ["", "system.slice/mom.service", "system.slice"])
def test_where_the_tree_is_systemds_it_must_have_delegated_fake_tree(tree: Path, delegated: Path, marked: str) -> None:
    """The unit's cgroup or one above it; else the limits would last until the next reload of systemd."""
    (tree / "init.scope").mkdir()
    cgroups = V2Cgroup(tree, "pbsdock", "/system.slice/mom.service")
    if marked:
        os.setxattr(tree / marked, "trusted.delegate", b"1")
        cgroups.create("1.vm", LIMITS)
        return

    with pytest.raises(NodeFault) as caught:
        cgroups.create("1.vm", LIMITS)

    assert caught.value.code == "cgroup-not-delegated"
    assert str(caught.value) == (
        "cgroup /system.slice/mom.service is not delegated by systemd; give its unit Delegate=yes"
    )
    assert (delegated / "cgroup.subtree_control").read_text() == ""


def test_a_delegated_cgroup_that_is_not_there_is_told_fake_tree(tree: Path) -> None:
    """Its unit is not running: nothing is made in systemd's part of the tree in its place."""
    with pytest.raises(NodeFault) as caught:
        V2Cgroup(tree, "pbsdock", "/system.slice/mom.service").create("1.vm", LIMITS)

    assert str(caught.value) == (
        "cgroup /system.slice/mom.service of [cgroup] parent does not exist; start the unit whose it is"
    )
    assert not (tree / "system.slice").exists()
