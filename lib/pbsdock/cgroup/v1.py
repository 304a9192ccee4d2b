"""cgroup v1 with Docker's cgroupfs driver: one directory per controller, through cgroupspy where it has the file.

``cgroupspy.trees.Tree`` would read the whole hierarchy of the host; nodes of our own directories are built instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cgroupspy.nodes import Node as CgroupNode

from pbsdock.cgroup.base import (
    Usage,
    check,
    empty,
    names_in,
    own_paths,
    page,
    read_pids,
    remove_tree,
    signal_all,
)  # fmt: skip
from pbsdock.errors import NodeFault
from pbsdock.plan import Limits

PERIOD_US = 100_000
_CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "pids", "blkio", "devices", "freezer")
_WITNESS = "memory"


class V1Cgroup:
    """The backend for one instance's *root* directory in each controller."""

    def __init__(self, sysfs: Path, root: str) -> None:
        self.sysfs = sysfs
        self.root = root
        self.present = tuple(one for one in _CONTROLLERS if (sysfs / one).is_dir())
        missing = {"memory", "cpu", "pids", "freezer"} - set(self.present)
        if missing:
            raise NodeFault("cgroup-missing", f"cgroup controller {sorted(missing)[0]} is not mounted below {sysfs}")

    # -- places -------------------------------------------------------------------------------------------------

    def directory(self, controller: str, name: str) -> Path:
        """The job's directory of one controller."""
        return self.sysfs / controller / self.root / name

    def _everywhere(self, name: str) -> list[Path]:
        """The job's directory in every hierarchy: Docker makes it in those without a limit of ours, too."""
        return [
            one / self.root / name
            for one in self.sysfs.iterdir()
            if one.is_dir() and not one.is_symlink() and (one / self.root / name).is_dir()
        ]

    def cgroup_parent(self, name: str) -> str:
        """What Docker takes: a path from the hierarchy's root."""
        return f"/{self.root}/{name}"

    def _controller(self, kind: str, name: str) -> Any:
        top = CgroupNode(str(self.sysfs).encode())
        return CgroupNode(name, CgroupNode(self.root, CgroupNode(kind, top))).controller

    # -- limits -------------------------------------------------------------------------------------------------

    def create(self, name: str, limits: Limits, devices: tuple[str, ...] = ()) -> None:
        """Make the directories and set the limits; devices are the container's own (runc's allow list)."""
        del devices  # on v1 a parent must allow what runc's list below it allows: it stays as the root has it
        try:
            for controller in self.present:
                self.directory(controller, name).mkdir(parents=True, exist_ok=True)
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
            check("cpuset.cpus", limits.cpuset, path.read_text().strip())

    def _memory(self, name: str, limits: Limits) -> None:
        if limits.memory_bytes is None:
            return
        memory = self._controller("memory", name)
        memory.limit_in_bytes = limits.memory_bytes
        check("memory.limit_in_bytes", limits.memory_bytes, int(memory.limit_in_bytes), slack=page())
        if limits.memory_swap_bytes and (self.directory("memory", name) / "memory.memsw.limit_in_bytes").exists():
            memory.memsw_limit_in_bytes = limits.memory_swap_bytes
            held = int(memory.memsw_limit_in_bytes)
            check("memory.memsw.limit_in_bytes", limits.memory_swap_bytes, held, slack=page())

    def _cpu(self, name: str, limits: Limits) -> None:
        if limits.cpu_millis is None:
            return
        cpu = self._controller("cpu", name)
        quota = limits.cpu_millis * PERIOD_US // 1000
        cpu.cfs_period_us = PERIOD_US
        cpu.cfs_quota_us = quota
        check("cpu.cfs_quota_us", quota, int(cpu.cfs_quota_us))

    def _pids(self, name: str, limits: Limits) -> None:
        path = self.directory("pids", name) / "pids.max"  # cgroupspy knows no pids controller
        path.write_text(str(limits.pids))
        check("pids.max", str(limits.pids), path.read_text().strip())

    # -- processes ----------------------------------------------------------------------------------------------

    def pids(self, name: str) -> list[int]:
        """All processes of the subtree."""
        return read_pids(self.directory(_WITNESS, name))

    def contains(self, name: str, pid: int) -> bool:
        """Whether the memory controller, the one that must never be missed, has the process inside."""
        parent = self.cgroup_parent(name)
        for controllers, path in own_paths(pid).items():
            if _WITNESS in controllers.split(","):
                return path == parent or path.startswith(parent + "/")
        return False

    def signal(self, name: str, signum: int, exclude: frozenset[int] = frozenset()) -> int:
        """Signal every process inside."""
        pids = [one for one in self.pids(name) if one not in exclude]
        return signal_all(pids, signum, lambda pid: self.contains(name, pid))

    def kill(self, name: str, deadline_s: float) -> bool:
        """Freeze, kill, thaw, until it is empty."""
        return empty(lambda: self.pids(name), lambda pid: self.contains(name, pid), deadline_s, self._freezer(name))

    def _freezer(self, name: str) -> Callable[[bool], None]:
        path = self.directory("freezer", name) / "freezer.state"

        def turn(frozen: bool) -> None:
            try:
                path.write_text("FROZEN" if frozen else "THAWED")
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
        """Read the job's own directory: its counters are hierarchical and outlive the container's."""
        read, written = self._io(name)
        nanoseconds = self._number("cpuacct", name, "cpuacct.usage")
        failures = self._number("memory", name, "memory.failcnt")
        failures = failures or self._number("memory", name, "memory.memsw.failcnt")
        return Usage(
            memory_peak_bytes=self._number("memory", name, "memory.max_usage_in_bytes"),
            cpu_seconds=None if nanoseconds is None else round(nanoseconds / 1e9, 3),
            io_read_bytes=read, io_write_bytes=written, pids_peak=None, oom_kills=None,
            limit_hit=None if failures is None else failures > 0,
        )

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
