"""cgroup v1 with Docker's cgroupfs driver: one directory per controller, through cgroupspy where it has the file.

``cgroupspy.trees.Tree`` would read the whole hierarchy of the host; nodes of our own directories are built instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cgroupspy.nodes import Node as CgroupNode

from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Level, Usage
from pbsdock.core.plan import Limits
from pbsdock.host.cgroup.base import (
    check,
    check_name,
    cpu_list,
    empty,
    memory_pair,
    names_in,
    own_paths,
    page,
    pids_hit,
    read_pids,
    remove_tree,
    signal_all,
    within,
)

PERIOD_US = 100_000
_CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "pids", "blkio", "devices", "freezer")
# The controllers that hold a limit: a process is contained only if it is inside for each of them.
_BINDING = frozenset({"memory", "cpu", "cpuset", "pids"})
_UNLIMITED = 1 << 62  # the kernel shows "no limit" as its largest counter, rounded to pages


class V1Cgroup:
    """The backend for one instance's *root* directory in each controller.

    Many methods because ``JobCgroup`` has ten, and each of v1's controllers is a hierarchy that is set up by itself.
    """

    def __init__(self, sysfs: Path, root: str) -> None:
        self.sysfs = sysfs
        self.root = root
        self.present = tuple(controller for controller in _CONTROLLERS if (sysfs / controller).is_dir())
        missing = {"memory", "cpu", "pids", "freezer"} - set(self.present)
        if missing:
            raise NodeFault("cgroup-missing", f"cgroup controller {sorted(missing)[0]} is not mounted below {sysfs}")

    # -- places -------------------------------------------------------------------------------------------------

    def directory(self, controller: str, name: str) -> Path:
        """The job's directory of one controller."""
        return self.sysfs / controller / self.root / check_name(name)

    def _everywhere(self, name: str) -> list[Path]:
        """The job's directory in every hierarchy: Docker makes it in those without a limit of ours, too."""
        check_name(name)
        with os.scandir(self.sysfs) as entries:
            places = [f"{entry.path}/{self.root}/{name}" for entry in entries if entry.is_dir(follow_symlinks=False)]
        return [Path(place) for place in places if os.path.isdir(place)]

    def cgroup_parent(self, name: str) -> str:
        """What Docker takes: a path from the hierarchy's root."""
        return f"/{self.root}/{name}"

    def _controller(self, kind: str, name: str) -> Any:
        top = CgroupNode(str(self.sysfs).encode())
        return CgroupNode(name, CgroupNode(self.root, CgroupNode(kind, top))).controller

    # -- limits -------------------------------------------------------------------------------------------------

    def create(self, name: str, limits: Limits) -> None:
        """Make the directories and set the limits.

        Devices are the container's own matter (runc's allow list): on v1 a parent must allow what the list below it
        allows, so it stays as the root has it.
        """
        try:
            for controller in self.present:
                self.directory(controller, name).mkdir(parents=True, exist_ok=True)
            self._make_hierarchical()
            if "cpuset" in self.present:
                self._cpuset(name, limits)
            self._memory(name, limits)
            self._cpu(name, limits)
            self._pids(name, limits)
        except OSError as error:
            raise NodeFault("cgroup-failed", f"cgroup {self.cgroup_parent(name)} cannot be set up: {error}") from error

    def _cpuset(self, name: str, limits: Limits) -> None:
        # A v1 cpuset is born empty and takes no process before both files are filled, from the top down.
        parent = self.sysfs / "cpuset"
        for step in (parent / self.root, parent / self.root / name):
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not (step / file).read_text().strip():
                    (step / file).write_text((step.parent / file).read_text())
        if limits.cpuset:
            path = self.directory("cpuset", name) / "cpuset.cpus"
            path.write_text(limits.cpuset)
            check("cpuset.cpus", sorted(cpu_list(limits.cpuset)), sorted(cpu_list(path.read_text())))

    def _make_hierarchical(self) -> None:
        """Until 5.11 a memory limit bound no child unless the parent was told so before it had any."""
        path = self.sysfs / "memory" / self.root / "memory.use_hierarchy"
        if path.exists() and path.read_text().strip() == "0":
            path.write_text("1")

    def _memory(self, name: str, limits: Limits) -> None:
        on = self._controller("memory", name)
        memory, both = memory_pair(limits)
        order = [("limit_in_bytes", memory)]
        if (self.directory("memory", name) / "memory.memsw.limit_in_bytes").exists():  # not with swapaccount=0
            order.append(("memsw_limit_in_bytes", both))
            # The sum may never be below memory, not even between the two writes: raise it first, lower it last.
            if memory is None or memory > on.memsw_limit_in_bytes:
                order.reverse()
        for key, wanted in order:
            setattr(on, key, wanted)
            held = getattr(on, key)
            if wanted is not None or held < _UNLIMITED:
                file = key.replace("memsw_", "memsw.")
                check(f"memory.{file}", "no limit" if wanted is None else wanted, held, slack=page() - 1)

    def _cpu(self, name: str, limits: Limits) -> None:
        cpu = self._controller("cpu", name)
        quota = None if limits.cpu_millis is None else limits.cpu_millis * PERIOD_US // 1000
        cpu.cfs_period_us = PERIOD_US
        cpu.cfs_quota_us = quota
        check("cpu.cfs_quota_us", quota, cpu.cfs_quota_us)

    def _pids(self, name: str, limits: Limits) -> None:
        path = self.directory("pids", name) / "pids.max"  # cgroupspy knows no pids controller
        path.write_text(str(limits.pids))
        check("pids.max", str(limits.pids), path.read_text().strip())

    def verify(self, name: str, limits: Limits) -> None:
        """Nothing: on version 1 nobody but us writes there, and what was read back at the creation stands."""

    # -- processes ----------------------------------------------------------------------------------------------

    def pids(self, name: str) -> list[int]:
        """All processes of the subtree in any hierarchy: who is in one of them keeps it from being removed."""
        return sorted({pid for directory in self._everywhere(name) for pid in read_pids(directory)})

    def contains(self, name: str, pid: int) -> bool:
        """Whether every controller that holds a limit has the process inside. Raises ProcessLookupError."""
        parent = self.cgroup_parent(check_name(name))
        binding = {
            controllers: path
            for controllers, path in own_paths(pid).items()
            if _BINDING & set(self.present) & set(controllers.split(","))
        }
        return bool(binding) and all(within(path, parent) for path in binding.values())

    def _touches(self, name: str, pid: int) -> bool:
        return any(within(path, self.cgroup_parent(name)) for path in own_paths(pid).values())

    def signal(self, name: str, signum: int, exclude: frozenset[int] = frozenset()) -> int:
        """Signal every process inside."""
        pids = [pid for pid in self.pids(name) if pid not in exclude]
        return signal_all(pids, signum, lambda pid: self._touches(name, pid))

    def kill(self, name: str, deadline_s: float) -> bool:
        """Freeze, kill, thaw, until it is empty."""
        return empty(lambda: self.pids(name), lambda pid: self._touches(name, pid), deadline_s, self._freezer(name))

    def freeze(self, name: str, frozen: bool) -> None:
        """By the freezer controller."""
        self._freezer(name)(frozen)

    def _freezer(self, name: str) -> Callable[[bool], None]:
        top = self.directory("freezer", name)
        path = top / "freezer.state"

        def turn(frozen: bool) -> None:
            try:
                path.write_text("FROZEN" if frozen else "THAWED")
                if not frozen:  # a container frozen by itself (docker pause) stays so until it is told
                    for here, _directories, _files in os.walk(top):
                        with suppress(FileNotFoundError):
                            (Path(here) / "freezer.state").write_text("THAWED")
                deadline = time.monotonic() + 0.2
                while frozen and path.read_text().strip() == "FREEZING" and time.monotonic() < deadline:
                    time.sleep(0.001)
            except OSError:
                pass  # gone already: then there is nothing to freeze

        return turn

    def remove(self, name: str, deadline_s: float) -> None:
        """Kill and remove in every hierarchy."""
        if not self.kill(name, deadline_s):
            raise NodeFault("cgroup-busy", f"processes in {self.cgroup_parent(name)} survive being killed")
        for directory in self._everywhere(name):
            remove_tree(directory, deadline_s)

    def names(self) -> list[str]:
        """The jobs' cgroups in any hierarchy."""
        found: set[str] = set()
        for hierarchy in self.sysfs.iterdir():
            if hierarchy.is_dir() and not hierarchy.is_symlink():
                found.update(names_in(hierarchy / self.root))
        return sorted(found)

    # -- what was used ------------------------------------------------------------------------------------------

    def usage(self, name: str) -> Usage:
        """Read the job's own directory: its counters are hierarchical and outlive the container's.

        But kills are counted only where the killed process was: they are 0 again once the engine has removed its
        directory, and State.OOMKilled has to be asked.
        """
        memory = self.directory("memory", name)
        if not memory.is_dir():
            raise NodeFault("cgroup-gone", f"cgroup {self.cgroup_parent(name)} does not exist")
        read, written = self._io(name)
        nanoseconds = self._number("cpuacct", name, "cpuacct.usage")
        return Usage(
            memory_peak_bytes=self._number("memory", name, "memory.max_usage_in_bytes"),
            cpu_seconds=None if nanoseconds is None else round(nanoseconds / 1e9, 3),
            io_read_bytes=read,
            io_write_bytes=written,
            pids_peak=self._number("pids", name, "pids.peak"),
            oom_kills=_oom_kills(memory),
            limit_hit=self._limit_hit(name),
            pids_hit=pids_hit(self.directory("pids", name)),
        )

    def level(self, name: str) -> Level:
        """Read the job's own directories."""
        memory = self._number("memory", name, "memory.usage_in_bytes")
        return Level(memory_bytes=memory, pids=self._number("pids", name, "pids.current"))

    def _limit_hit(self, name: str) -> bool:
        """A failed charge, or a peak at the limit: the counter that failed may be that of a container now removed."""
        for prefix in ("memory.", "memory.memsw."):
            if self._number("memory", name, prefix + "failcnt"):
                return True
            limit = self._number("memory", name, prefix + "limit_in_bytes")
            peak = self._number("memory", name, prefix + "max_usage_in_bytes")
            if limit is not None and peak is not None and peak >= limit:
                return True
        return False

    def _number(self, controller: str, name: str, file: str) -> int | None:
        try:
            return int((self.directory(controller, name) / file).read_text())
        except (OSError, ValueError):
            return None

    def _io(self, name: str) -> tuple[int | None, int | None]:
        try:
            text = (self.directory("blkio", name) / "blkio.throttle.io_service_bytes_recursive").read_text()
        except OSError:
            return None, None
        totals = {"Read": 0, "Write": 0}
        for line in text.splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[1] in totals:
                totals[fields[1]] += int(fields[2])
        return totals["Read"], totals["Write"]


def _oom_kills(memory: Path) -> int | None:
    """Sum ``oom_kill`` (since 4.13) over the subtree; None on a kernel that does not count."""
    total = None
    for here, _directories, _files in os.walk(memory):
        with suppress(OSError):
            for line in (Path(here) / "memory.oom_control").read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    total = (total or 0) + int(value)
    return total
