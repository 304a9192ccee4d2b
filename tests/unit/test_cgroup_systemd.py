"""Version 2 with the systemd driver: names and properties, with a fake bus in place of systemd."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.cgroup import bus
from pbsdock.cgroup.systemd import Property, SystemdCgroup, escape, properties, unescape
from pbsdock.errors import NodeFault
from pbsdock.plan import Limits

LIMITS = Limits(memory_bytes=1 << 20, memory_swap_bytes=3 << 20, cpu_millis=1500, cpuset="0-1,8", pids=64, shm_bytes=0)


class FakeBus:
    """Makes the directory systemd would make, or fails as told; remembers the calls."""

    def __init__(self, top: Path, fails: str = "") -> None:
        self.top, self.fails = top, fails
        self.calls: list[tuple[str, str]] = []

    def start_slice(self, unit: str, properties: Sequence[Property], deadline_s: float) -> None:
        """See Bus."""
        self.calls.append(("start", unit))
        if self.fails:
            raise OSError(self.fails)
        directory = self.top / "pbsdock.slice" / unit
        directory.mkdir(parents=True)
        values = dict(properties)
        files = {"memory.max": values["MemoryMax"][1], "pids.max": values["TasksMax"][1], "cpuset.cpus": "0-1,8"}
        for file, value in {**files, "cpu.max": f"{values['CPUQuotaPerSecUSec'][1] // 10} 100000"}.items():
            (directory / file).write_text(f"{value}\n")

    def stop(self, unit: str, deadline_s: float) -> None:
        """See Bus."""
        self.calls.append(("stop", unit))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("12.vm.a1b2c3", "12.vm.a1b2c3"),
        ("16-0.vm", "16\\x2d0.vm"),
        ("16[3].vm", "16\\x5b3\\x5d.vm"),
        ("a/b", "a\\x2fb"),
        ("é", "\\xc3\\xa9"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    """A dash would open another level of slices."""
    assert escape(text) == escaped


@given(st.text(st.characters(codec="utf-8")))
def test_unescape_undoes_escape(text: str) -> None:
    """The reaper reads job names back from directory names."""
    assert unescape(escape(text)) == text
    assert "-" not in escape(text)


def test_instances_do_not_nest() -> None:
    """Slices of an instance "pbsdock-x" must not lie inside those of "pbsdock", or one would reap the other's."""
    cgroups = SystemdCgroup(Path("/sys/fs/cgroup"), "pbsdock-x", FakeBus(Path("/nowhere")))

    assert cgroups.cgroup_parent("16-0.vm") == "pbsdock\\x2dx-16\\x2d0.vm.slice"
    assert cgroups.directory("1.vm") == Path("/sys/fs/cgroup/pbsdock\\x2dx.slice/pbsdock\\x2dx-1.vm.slice")


def test_properties_name_every_limit() -> None:
    """The same list changes a slice that is there; CPUs travel as a bitmap."""
    assert properties(LIMITS) == [
        ("TasksMax", ("t", 64)), ("MemoryAccounting", ("b", True)), ("CPUAccounting", ("b", True)),
        ("IOAccounting", ("b", True)), ("MemoryMax", ("t", 1048576)), ("MemorySwapMax", ("t", 2097152)),
        ("CPUQuotaPerSecUSec", ("t", 1_500_000)), ("AllowedCPUs", ("ay", b"\x03\x01")),
    ]  # fmt: skip


def test_no_limit_is_infinity() -> None:
    """Not named would mean: as before."""
    free = dict(properties(replace(LIMITS, memory_bytes=None, memory_swap_bytes=None, cpu_millis=None, cpuset=None)))

    assert {free[one] for one in ("MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec")} == {("t", 2**64 - 1)}
    assert "AllowedCPUs" not in free


def test_busctl_arguments() -> None:
    """An a(sv) as busctl(1) reads it: count, then name, signature, value; an array begins with its length."""
    assert bus.written([("A", ("b", True)), ("B", ("t", 7)), ("C", ("ay", b"\x03\x01"))]) == [
        "3", "A", "b", "true", "B", "t", "7", "C", "ay", "2", "3", "1",
    ]  # fmt: skip


def test_create_and_names_fake_tree(tmp_path: Path) -> None:
    """What the bus made is read back, and found again by the job's name."""
    cgroups = SystemdCgroup(tmp_path, "pbsdock", FakeBus(tmp_path))

    cgroups.create("16-0.vm", LIMITS)

    assert cgroups.names() == ["16-0.vm"]


def test_a_slice_that_was_not_made_is_a_fault_fake_tree(tmp_path: Path) -> None:
    """systemd's own words are passed on."""
    cgroups = SystemdCgroup(tmp_path, "pbsdock", FakeBus(tmp_path, fails="Access denied"))

    with pytest.raises(NodeFault) as caught:
        cgroups.create("1.vm", LIMITS)

    assert str(caught.value) == "slice pbsdock-1.vm.slice cannot be started: Access denied"


def test_a_limit_systemd_did_not_set_is_a_fault_fake_tree(tmp_path: Path) -> None:
    """Success is what the kernel's file says, not what systemd answered."""
    cgroups = SystemdCgroup(tmp_path, "pbsdock", FakeBus(tmp_path))

    with pytest.raises(NodeFault) as caught:
        cgroups.create("1.vm", replace(LIMITS, cpuset="0"))

    assert str(caught.value) == "the kernel holds cpuset.cpus = [0, 1, 8] where [0] was written"


def test_a_silent_systemd_is_a_fault_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """busctl that does not return is an error like any other, not a crash of the agent's thread."""

    def never(*arguments: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("busctl", 3)

    monkeypatch.setattr(subprocess, "run", never)
    cgroups = SystemdCgroup(Path("/nowhere"), "pbsdock", bus.Busctl())

    with pytest.raises(NodeFault) as caught:
        cgroups.create("1.vm", LIMITS)

    assert str(caught.value) == "slice pbsdock-1.vm.slice cannot be started: systemd did not answer within 10 s"
