"""cgroup v2 with Docker's cgroupfs driver: one directory per job below our root, controllers enabled down the path."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Literal

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
_WANTED = ("cpu", "memory", "pids", "cpuset", "io")
_NEAR = 1 << 20  # the kernel charges in batches of pages per CPU
_NEEDED = frozenset({"cpu", "memory", "pids"})


def is_unified(sysfs: Path) -> bool:
    """Whether a host's controllers are version 2's."""
    return (sysfs / "cgroup.controllers").exists()


class V2Tree:
    """Reading, signalling and killing in a unified hierarchy: the same for both drivers."""

    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs

    def directory(self, name: str) -> Path:
        """The job's directory."""
        raise NotImplementedError

    def pids(self, name: str) -> list[int]:
        """All processes of the subtree."""
        return read_pids(self.directory(name))

    def contains(self, name: str, pid: int) -> bool:
        """Whether a process is inside, from outside its own cgroup namespace."""
        parent = "/" + str(self.directory(name).relative_to(self.sysfs))
        return within(own_paths(pid).get("", ""), parent)

    def signal(self, name: str, signum: int, exclude: frozenset[int] = frozenset()) -> int:
        """Signal every process inside."""
        pids = [pid for pid in self.pids(name) if pid not in exclude]
        return signal_all(pids, signum, lambda pid: self.contains(name, pid))

    def kill(self, name: str, deadline_s: float) -> bool:
        """cgroup.kill takes the whole subtree at once, frozen too; older kernels are killed one by one."""
        try:
            (self.directory(name) / "cgroup.kill").write_text("1")
        except OSError:
            pass
        return empty(lambda: self.pids(name), lambda pid: self.contains(name, pid), deadline_s)

    def freeze(self, name: str, frozen: bool) -> None:
        """cgroup.freeze reaches the whole subtree."""
        with suppress(OSError):  # gone already: then there is nothing to freeze
            (self.directory(name) / "cgroup.freeze").write_text("1" if frozen else "0")

    def usage(self, name: str) -> Usage:
        """Read the job's own directory. Raises NodeFault if it is not there."""
        directory = self.directory(name)
        if not directory.is_dir():
            raise NodeFault("cgroup-gone", f"cgroup {directory} does not exist")
        # All of the subtree: a container's own equal limit is hit before the job's, and only these counts outlive it.
        events = _table(directory / "memory.events")
        peak = _number(directory / "memory.peak")
        cpu = _table(directory / "cpu.stat").get("usage_usec")
        read, written = _io(directory / "io.stat")
        return Usage(
            memory_peak_bytes=peak,
            cpu_seconds=None if cpu is None else cpu / 1e6,
            io_read_bytes=read,
            io_write_bytes=written,
            pids_peak=_number(directory / "pids.peak"),
            oom_kills=events.get("oom_kill"),
            limit_hit=events.get("oom", 0) + events.get("max", 0) > 0 if events else None,
            oom_at=_oom_at(directory, events, peak),
            pids_hit=pids_hit(directory),
        )

    def level(self, name: str) -> Level:
        """Read the job's own directory."""
        directory = self.directory(name)
        memory, pids = _number(directory / "memory.current"), _number(directory / "pids.current")
        return Level(memory_bytes=memory, pids=pids)

    def verify(self, name: str, limits: Limits) -> None:
        """Compare what the kernel holds with the limits. Raises NodeFault."""
        directory = self.directory(name)
        # With a process in it when its first container came, it would have no memory control left (observed).
        if (kind := directory / "cgroup.type").exists():
            check("cgroup.type", "domain", kind.read_text().strip())
        for file, value in wanted_files(directory, limits).items():
            try:
                held = (directory / file).read_text().strip()
            except FileNotFoundError as error:
                if value.split()[0] == "max" and directory.is_dir():
                    continue  # systemd hands down no controller without need (observed with cpu): no file, no limit
                raise NodeFault("cgroup-limit", f"{file} of cgroup {directory} cannot be read: {error}") from error
            except OSError as error:
                raise NodeFault("cgroup-limit", f"{file} of cgroup {directory} cannot be read: {error}") from error
            if file == "cpuset.cpus":
                check(file, sorted(cpu_list(value)), sorted(cpu_list(held)))
            elif file.startswith("memory.") and value.isdecimal() and held.isdecimal():
                check(file, int(value), int(held), slack=page() - 1)
            else:
                check(file, value, held)


class V2Cgroup(V2Tree):
    """The backend for the cgroupfs driver."""

    def __init__(self, sysfs: Path, root: str, parent: str = "") -> None:
        """*parent*: a cgroup that was delegated to us, such as that of mom's unit; empty: the tree's own root."""
        super().__init__(sysfs)
        self.parent = parent.strip("/")
        self.root = f"{self.parent}/{root}".lstrip("/")
        self._root = threading.Lock()  # between making what is above a job and making the job's own

    def directory(self, name: str) -> Path:
        """The job's directory."""
        return self.sysfs / self.root / check_name(name)

    def cgroup_parent(self, name: str) -> str:
        """What Docker takes; without the leading slash it would land below dockerd's own cgroup."""
        return f"/{self.root}/{name}"

    def create(self, name: str, limits: Limits) -> None:
        """Enable the controllers down the path, make the directory, set the limits, read them back.

        Above a parent nothing is touched: that is systemd's, and its ``Delegate=`` hands the controllers down.
        """
        directory = self.directory(name)
        if self.parent:
            self._check_parent()
        try:
            with self._root:
                self._enable(self.sysfs / self.parent)
                directory.parent.mkdir(exist_ok=True)
                self._enable(directory.parent)
                directory.mkdir(exist_ok=True)
            for file, value in wanted_files(directory, limits).items():
                (directory / file).write_text(value)
        except OSError as error:
            raise NodeFault("cgroup-failed", f"cgroup {self.cgroup_parent(name)} cannot be set up: {error}") from error
        self.verify(name, limits)

    def _check_parent(self) -> None:
        """Whether it is there and ours: without Delegate= systemd takes their limits away at a reload (observed)."""
        parent = self.sysfs / self.parent
        if not parent.is_dir():
            raise NodeFault(
                "cgroup-missing", f"cgroup /{self.parent} of [cgroup] parent does not exist; start the unit whose it is"
            )
        managed = (self.sysfs / "init.scope").is_dir()  # systemd's own, where the tree is systemd's
        above = [directory for directory in (parent, *parent.parents) if directory.is_relative_to(self.sysfs)]
        if managed and not any(_is_delegated(directory) for directory in above):
            raise NodeFault(
                "cgroup-not-delegated", f"cgroup /{self.parent} is not delegated by systemd; give its unit Delegate=yes"
            )

    def _enable(self, directory: Path) -> None:
        available = set((directory / "cgroup.controllers").read_text().split())
        if missing := _NEEDED - available:
            raise NodeFault("cgroup-missing", f"cgroup controller {sorted(missing)[0]} is not available in {directory}")
        if directory != self.sysfs and (inside := _processes(directory)):
            # The kernel would answer "Device or resource busy", or, with controllers on already, make the cgroup a
            # threaded one without a memory limit once the container starts (observed; cgroups(7), inner processes).
            rule = "which only holds the cgroups of jobs"
            if directory == self.sysfs / self.parent:
                rule = "above the cgroups of jobs; let its unit run in a cgroup below that (docs/cgroups.md)"
            raise NodeFault("cgroup-inner-process", f"process {inside[0]} is in {directory}, {rule}")
        enabled = set((directory / "cgroup.subtree_control").read_text().split())
        wanted = [f"+{controller}" for controller in _WANTED if controller in available - enabled]
        if wanted:
            (directory / "cgroup.subtree_control").write_text(" ".join(wanted))

    def remove(self, name: str, deadline_s: float) -> None:
        """Kill and remove, with the last job also what is above all of them."""
        if not self.kill(name, deadline_s):
            raise NodeFault("cgroup-busy", f"processes in {self.cgroup_parent(name)} survive being killed")
        remove_tree(self.directory(name), deadline_s)
        with self._root, suppress(OSError):  # another job is in it
            self.directory(name).parent.rmdir()

    def names(self) -> list[str]:
        """The jobs' cgroups."""
        return names_in(self.sysfs / self.root)


def wanted_files(directory: Path, limits: Limits) -> dict[str, str]:
    """File to value, as the kernel shows it again; every limit is named, so that the same call lifts one."""
    memory, both = memory_pair(limits)
    quota = "max" if limits.cpu_millis is None else str(limits.cpu_millis * PERIOD_US // 1000)
    files = {"memory.max": "max" if memory is None else str(memory)}
    if (directory / "memory.swap.max").exists():  # not where the kernel does not count swap
        files["memory.swap.max"] = "max" if memory is None or both is None else str(both - memory)
    files |= {"cpu.max": f"{quota} {PERIOD_US}", "pids.max": str(limits.pids)}
    if limits.cpuset:
        files["cpuset.cpus"] = limits.cpuset
    return files


def _oom_at(directory: Path, events: dict[str, int], peak: int | None) -> Literal["job", "container", "node"] | None:
    """Whose limit a process was killed at (observed on 6.1, and in its Documentation/admin-guide/cgroup-v2.rst).

    memory.events counts the subtree, memory.events.local the directory itself: ``oom`` rises where the limit is,
    ``oom_kill`` where the process was. A container whose own limit equals the job's is stopped by its own, a page
    before the job's; the peak then tells that the job's was reached as well.
    """
    if not events.get("oom_kill"):
        return None
    limit = _number(directory / "memory.max")
    if _table(directory / "memory.events.local").get("oom"):
        return "job"
    if not events.get("oom"):
        return "node"
    return "job" if limit is not None and peak is not None and peak > limit - _NEAR else "container"


def _is_delegated(directory: Path) -> bool:
    """systemd marks what it has handed over (its CGROUP_DELEGATION.md)."""
    try:
        return os.getxattr(directory, "trusted.delegate") == b"1"
    except OSError:
        return False


def _processes(directory: Path) -> list[str]:
    """The processes in a cgroup itself, not those below it."""
    try:
        return (directory / "cgroup.procs").read_text().split()
    except FileNotFoundError:
        return []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    try:
        return {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}
    except (OSError, ValueError):
        return {}


def _io(path: Path) -> tuple[int | None, int | None]:
    try:
        words = path.read_text().split()
    except OSError:
        return None, None
    pairs = [word.split("=") for word in words if "=" in word]
    return (
        sum(int(value) for key, value in pairs if key == "rbytes"),
        sum(int(value) for key, value in pairs if key == "wbytes"),
    )
