"""Version 2 with the systemd driver: names and properties, with a fake bus in place of systemd."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pbsdock.core.errors import NodeFault
from pbsdock.core.plan import Limits
from pbsdock.host.cgroup import bus
from pbsdock.host.cgroup.systemd import Property, SystemdCgroup, escape, properties, unescape

LIMITS = Limits(memory_bytes=1 << 20, memory_swap_bytes=3 << 20, cpu_millis=1500, cpuset="0-1,8", pids=64, shm_bytes=0)


class FakeBus:
    """Makes the directory systemd would make, or fails as told; remembers the calls."""

    def __init__(self, top: Path, fails: str = "", removes: bool = False) -> None:
        self.top, self.fails, self.removes = top, fails, removes
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
        if self.removes:
            shutil.rmtree(next(self.top.rglob(unit)))


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
        ("TasksMax", ("t", 64)),
        ("MemoryAccounting", ("b", True)),
        ("CPUAccounting", ("b", True)),
        ("IOAccounting", ("b", True)),
        ("MemoryMax", ("t", 1048576)),
        ("MemorySwapMax", ("t", 2097152)),
        ("CPUQuotaPerSecUSec", ("t", 1_500_000)),
        ("AllowedCPUs", ("ay", b"\x03\x01")),
    ]


def test_no_limit_is_infinity() -> None:
    """Not named would mean: as before."""
    free = dict(properties(replace(LIMITS, memory_bytes=None, memory_swap_bytes=None, cpu_millis=None, cpuset=None)))

    assert {free[one] for one in ("MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec")} == {("t", 2**64 - 1)}
    assert "AllowedCPUs" not in free


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


@pytest.fixture
def silent_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A socket in place of the system bus's on which nobody answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
        yield


def test_a_bus_that_is_not_there_is_a_fault_of_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No crash of the agent's thread: an error like any other."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
    cgroups = SystemdCgroup(Path("/nowhere"), "pbsdock", bus.SystemBus())

    with pytest.raises(NodeFault) as caught:
        cgroups.create("1.vm", LIMITS)

    assert caught.value.code == "cgroup-failed"
    assert "No such file or directory" in str(caught.value)


def test_a_silent_bus_is_given_up(silent_bus: None) -> None:
    """systemd that does not answer holds up a prologue for its deadline, not for ever."""
    with pytest.raises(OSError, match=r"^systemd did not answer within 1 s$"):
        bus.SystemBus().stop("x.slice", 1.0)


@given(st.from_regex(r"[0-9]{1,18}(\[[0-9]{0,9}\])?(\.[A-Za-z0-9-]{1,255})?", fullmatch=True))
@example("1." + "-" * 96)
def test_every_job_id_has_a_unit_name_that_fits_and_leads_back(text: str) -> None:
    """255 bytes is the longest name of a unit and of a directory, and the reaper reads the job's name from it."""
    name = f"{text.replace('[', '-').replace(']', '')[:100]}.{'f' * 16}"
    with tempfile.TemporaryDirectory() as top:
        cgroups = SystemdCgroup(Path(top), "pbsdock-5f3a91c2", FakeBus(Path("/nowhere")))
        cgroups.directory(name).mkdir(parents=True)

        assert len(cgroups.unit(name).encode()) <= 255
        assert cgroups.names() == [name]


def test_the_last_job_takes_the_slice_above_along(tmp_path: Path) -> None:
    """systemd removes neither: the slice of all jobs goes when no other job is in it, and not before."""
    fake = FakeBus(tmp_path, removes=True)
    cgroups = SystemdCgroup(tmp_path, "pbsdock", fake)
    cgroups.create("1.vm", LIMITS)
    cgroups.create("2.vm", LIMITS)

    cgroups.remove("1.vm", 1.0)
    cgroups.remove("2.vm", 1.0)

    assert [unit for kind, unit in fake.calls if kind == "stop"] == [
        "pbsdock-1.vm.slice",
        "pbsdock-2.vm.slice",
        "pbsdock.slice",
    ]


def test_a_slice_that_stays_is_a_fault_fake_tree(tmp_path: Path) -> None:
    """Gone is what is not there any more, not what systemd said it has stopped."""
    cgroups = SystemdCgroup(tmp_path, "pbsdock", FakeBus(tmp_path))
    cgroups.create("1.vm", LIMITS)

    with pytest.raises(NodeFault) as caught:
        cgroups.remove("1.vm", 0.1)

    assert str(caught.value) == "slice pbsdock-1.vm.slice was stopped but is still there"


def test_no_limit_needs_no_file_fake_tree(tmp_path: Path) -> None:
    """systemd hands the cpu controller down only where a quota is wanted: a site with `cpu = "none"` has none."""
    cgroups = SystemdCgroup(tmp_path, "pbsdock", FakeBus(tmp_path))
    cgroups.create("1.vm", LIMITS)
    (cgroups.directory("1.vm") / "cpu.max").unlink()

    cgroups.verify("1.vm", replace(LIMITS, cpu_millis=None))
    with pytest.raises(NodeFault):
        cgroups.verify("1.vm", LIMITS)


def test_limits_that_were_let_go_are_seen_fake_tree(tmp_path: Path) -> None:
    """A container that starts into a slice stopped meanwhile gets a new one without limits (observed)."""
    cgroups = SystemdCgroup(tmp_path, "pbsdock", FakeBus(tmp_path))
    cgroups.create("1.vm", LIMITS)
    (cgroups.directory("1.vm") / "memory.max").write_text("max\n")

    with pytest.raises(NodeFault) as caught:
        cgroups.verify("1.vm", LIMITS)

    assert str(caught.value) == "the kernel holds memory.max = max where 1048576 was written"
