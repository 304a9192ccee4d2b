"""What a cgroup backend does, and what all of them share: reading processes, signalling them, emptying a subtree."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Level, Usage
from pbsdock.core.plan import Limits


class JobCgroup(Protocol):
    """One backend. ``name`` is a job's name below the instance's root; all calls are idempotent."""

    def create(self, name: str, limits: Limits) -> None:
        """Make the cgroup, write its limits, read them back. Raises NodeFault if the kernel holds others."""

    def cgroup_parent(self, name: str) -> str:
        """What Docker takes as CgroupParent."""

    def verify(self, name: str, limits: Limits) -> None:
        """Look again whether the limits are in force. Raises NodeFault if they are not (any more)."""

    def usage(self, name: str) -> Usage:
        """What the job used so far."""

    def level(self, name: str) -> Level:
        """What the job has at this moment; nothing is known of one that does not exist."""

    def pids(self, name: str) -> list[int]:
        """All processes of the subtree."""

    def contains(self, name: str, pid: int) -> bool:
        """Whether a process is inside, as the kernel says. Raises ProcessLookupError if it has ended."""

    def kill(self, name: str, deadline_s: float) -> bool:
        """SIGKILL everything inside; whether it is empty."""

    def remove(self, name: str, deadline_s: float) -> None:
        """Kill what is inside and remove the cgroup. Raises NodeFault if it stays."""

    def signal(self, name: str, signum: int, exclude: frozenset[int] = frozenset()) -> int:
        """Signal every process inside; how many got it."""

    def freeze(self, name: str, frozen: bool) -> None:
        """Stop everything inside until it is thawed again, or with *frozen* false thaw it."""

    def names(self) -> list[str]:
        """The jobs' cgroups that exist."""


def pids_hit(top: Path, limit: str = "pids.max") -> bool | None:
    """Whether a fork was refused below *top* for a limit of processes; None on a kernel that does not tell.

    Kernels count it where the limit is or where the fork was (``pids.events``), and the peak since 6.1 (``pids.peak``).
    """
    counts = []
    for directory, _, files in os.walk(top):
        if "pids.events" in files:
            with suppress(OSError, ValueError, IndexError):
                counts.append(int((Path(directory) / "pids.events").read_text().split()[1]) > 0)
    with suppress(OSError, ValueError):
        counts.append(int((top / "pids.peak").read_text()) >= int((top / limit).read_text()))
    return any(counts) if counts else None


def read_pids(directory: Path) -> list[int]:
    """The processes of a cgroup directory and all below it."""
    found: list[int] = []
    below = [str(directory)]
    while below:
        here = below.pop()
        try:
            with open(f"{here}/cgroup.procs", encoding="ascii") as file:
                found += [int(pid) for pid in file.read().split()]
            with os.scandir(here) as entries:
                below += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # removed while we looked
    return [pid for pid in found if pid > 0]  # 0: a process of another pid namespace


def check_name(name: str) -> str:
    """Return *name* if it is a plain file name of safe characters. Raises ValueError: it becomes a path."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name!r} is no name for a job's cgroup: use letters, digits, '.', '_' and '-'")
    return name


def memory_pair(limits: Limits) -> tuple[int | None, int | None]:
    """Memory, and memory plus swap. A job limited only in the sum cannot have more memory than that either."""
    memory, both = limits.memory_bytes, limits.memory_swap_bytes
    if both is not None and (memory is None or memory > both):
        memory = both
    return memory, both


def cpu_list(text: str) -> frozenset[int]:
    """Parse the kernel's list format, ``0-3,8`` (cpuset(7)): it writes a list back in its own way."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def own_paths(pid: int) -> dict[str, str]:
    """The cgroups of a process by controller list, from /proc/PID/cgroup (cgroups(7)).

    Version 1 shows a zombie in the root of every hierarchy, like a process that was never ours (observed). It may be
    the leader of threads that run on, which any program can arrange by pthread_exit: then they are asked.
    Raises ProcessLookupError if the process has ended.
    """
    for task in (Path(f"/proc/{pid}"), *_tasks(pid)):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = (task / "cgroup").read_text()
            if (task / "stat").read_text().rpartition(")")[2].split()[0] not in "ZXx":
                lines = (line.split(":", 2) for line in text.splitlines())
                return {controllers: path for _number, controllers, path in lines}
    raise ProcessLookupError(f"process {pid} has ended")


def _tasks(pid: int) -> Iterator[Path]:
    with suppress(FileNotFoundError, ProcessLookupError):
        yield from Path(f"/proc/{pid}/task").iterdir()


def within(path: str, top: str) -> bool:
    """Whether cgroup *path* is *top* or below it, by components."""
    return path == top or path.startswith(top + "/")


def signal_all(pids: Iterable[int], signum: int, inside: Callable[[int], bool]) -> int:
    """Signal processes through pidfds, each looked at again after it was pinned: never a bare recycled pid."""
    count = 0
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if inside(pid):
                signal.pidfd_send_signal(fd, signum)
                count += 1
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)
    return count


def empty(
    pids: Callable[[], list[int]],
    inside: Callable[[int], bool],
    deadline_s: float,
    around: Callable[[bool], None] = lambda frozen: None,
) -> bool:
    """Kill until nothing is left: frozen, so that nobody forks meanwhile, killed, thawed, looked at again."""
    deadline = time.monotonic() + deadline_s
    pause = 0.002
    while present := pids():
        around(True)
        signal_all(pids() or present, signal.SIGKILL, inside)
        around(False)
        if time.monotonic() > deadline:
            return not pids()
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return True


def remove_tree(directory: Path, deadline_s: float) -> None:
    """rmdir a cgroup from its leaves up, waiting for the kernel to let go. Raises NodeFault if it stays."""
    deadline = time.monotonic() + deadline_s
    while True:
        left = None
        for here, _directories, _files in os.walk(directory, topdown=False):
            try:
                os.rmdir(here)
            except FileNotFoundError:
                continue
            except OSError as error:
                left = error
        if not directory.exists():
            return
        if time.monotonic() > deadline:
            raise NodeFault("cgroup-busy", f"cgroup {directory} cannot be removed: {left}")
        time.sleep(0.005)


def names_in(directory: Path) -> list[str]:
    """The sub-directories of one cgroup."""
    try:
        return sorted(entry.name for entry in directory.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def check(what: str, wanted: object, held: object, *, slack: int = 0) -> None:
    """Compare a limit with what the kernel holds; *slack* is the rounding it may do. Raises NodeFault."""
    if isinstance(wanted, int) and isinstance(held, int):
        if wanted - slack <= held <= wanted:
            return
    elif wanted == held:
        return
    raise NodeFault("cgroup-limit", f"the kernel holds {what} = {held} where {wanted} was written")


def page() -> int:
    """Bytes of a page: memory limits are rounded down to it."""
    return os.sysconf("SC_PAGE_SIZE")
