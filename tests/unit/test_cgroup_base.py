"""What the backends share: names, the kernel's lists, and limits that depend on each other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pbsdock.core.errors import NodeFault
from pbsdock.core.plan import Limits
from pbsdock.host.cgroup import base


def limits(memory: int | None, both: int | None) -> Limits:
    return Limits(memory_bytes=memory, memory_swap_bytes=both, cpu_millis=None, cpuset=None, pids=10, shm_bytes=0)


@pytest.mark.parametrize("name", ["12.vm.a1b2c3", "16-0.vm", "_x", "-x"])
def test_a_plain_name_is_taken(name: str) -> None:
    """Letters, digits, dot, underscore and dash make a name."""
    assert base.check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "../a", "a b", "16[].vm", "a\n", "٣"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    """A name becomes a path and a unit: nothing that could lead elsewhere is taken."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole sentence is compared below
        base.check_name(name)

    assert str(caught.value) == (f"{name!r} is no name for a job's cgroup: use letters, digits, '.', '_' and '-'")


@pytest.mark.parametrize(
    ("memory", "both", "pair"),
    [
        pytest.param(None, None, (None, None), id="no limit"),
        pytest.param(5, None, (5, None), id="swap is free"),
        pytest.param(5, 8, (5, 8), id="both"),
        pytest.param(None, 8, (8, 8), id="only the sum: memory cannot be more"),
        pytest.param(9, 8, (8, 8), id="memory above the sum"),
    ],
)
def test_memory_never_exceeds_memory_plus_swap(
    memory: int | None, both: int | None, pair: tuple[int | None, int | None]
) -> None:
    """The kernel refuses more memory than memory plus swap, so the smaller one holds."""
    assert base.memory_pair(limits(memory, both)) == pair


@pytest.mark.parametrize(
    ("text", "cpus"), [("", set()), ("0", {0}), ("0-3,8\n", {0, 1, 2, 3, 8}), ("0,1", {0, 1}), ("0-1", {0, 1})]
)
def test_cpu_lists_are_compared_as_sets(text: str, cpus: set[int]) -> None:
    """The kernel writes "0,1" back as "0-1"."""
    assert base.cpu_list(text) == cpus


def test_within_compares_components() -> None:
    """A cgroup whose name begins alike is another one."""
    assert base.within("/pbsdock/1.vm", "/pbsdock/1.vm")
    assert base.within("/pbsdock/1.vm/abc", "/pbsdock/1.vm")
    assert not base.within("/pbsdock/1.vmx", "/pbsdock/1.vm")


def test_a_limit_the_kernel_changed_is_told() -> None:
    """Value written, value held, and where."""
    with pytest.raises(NodeFault) as caught:
        base.check("pids.max", "10", "max")

    assert caught.value.code == "cgroup-limit"
    assert str(caught.value) == "the kernel holds pids.max = max where 10 was written"


def test_an_ended_process_is_in_no_cgroup() -> None:
    """A zombie shows the root of version 1 hierarchies: that must not read as "outside of the job"."""
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()
        while "Z" not in Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]:
            os.sched_yield()
        with pytest.raises(ProcessLookupError) as zombie:
            base.own_paths(child.pid)
    with pytest.raises(ProcessLookupError) as gone:
        base.own_paths(child.pid)

    assert str(zombie.value) == str(gone.value) == f"process {child.pid} has ended"
