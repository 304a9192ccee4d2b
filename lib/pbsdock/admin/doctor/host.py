"""``pbsdock doctor host``: kernel, cgroups, user namespaces, clock and disks of this host."""

from __future__ import annotations

import ctypes
import os
import platform
import secrets
from collections.abc import Iterator
from pathlib import Path

from pbsdock.admin.doctor.subject import Subject
from pbsdock.admin.doctor.table import Row, ok, unknown, warn, wrong
from pbsdock.core.errors import HookError
from pbsdock.core.plan import Limits
from pbsdock.core.sizes import human
from pbsdock.engine.base import EngineError
from pbsdock.host import syscalls
from pbsdock.host.cgroup.detect import choose

_OLDEST = (5, 6)  # openat2(2), by which mounts are resolved
_PEAKS = (5, 19)  # memory.peak (cgroup v2)
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_LEAST_SHARE, _LEAST_BYTES = 0.1, 256 << 20
_PROBE = Limits(
    memory_bytes=64 << 20, memory_swap_bytes=64 << 20, cpu_millis=1000, cpuset=None, pids=16, shm_bytes=1 << 20
)


def examine(subject: Subject) -> Iterator[Row]:
    """All of them."""
    yield from kernel(platform.release())
    yield cgroups(subject)
    yield swap(Path("/proc/swaps"), Path("/sys/fs/cgroup"))
    yield from namespaces(Path("/proc/sys"))
    yield clock()
    yield from disks(subject)


def kernel(release: str) -> Iterator[Row]:
    """Its version, and a call that some filters take away."""
    number = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if number < _OLDEST:
        yield wrong("host", "kernel", f"Linux {release} is older than {_OLDEST[0]}.{_OLDEST[1]}", "upgrade the kernel")
        return
    try:
        os.close(syscalls.openat2(-100, "/", os.O_PATH, 0))
    except OSError as error:
        said = f"Linux {release}, but openat2 fails here: {error.strerror}"
        yield wrong(
            "host", "kernel", said, "take away the system call filter that forbids it (RestrictSUIDSGID= is one)"
        )
        return
    if number < _PEAKS and Path("/sys/fs/cgroup/cgroup.controllers").exists():
        yield warn("host", "kernel", f"Linux {release} does not tell how much memory jobs used", "5.19 or later does")
        return
    yield ok("host", "kernel", f"Linux {release} has all that is used")


def cgroups(subject: Subject) -> Row:
    """Make and remove one of no job's."""
    try:
        info = subject.info
        backend = choose(
            info.cgroup_driver, info.cgroup_version, root=subject.paths.instance, parent=subject.config.cgroup.parent
        )
        name = f"doctor-{secrets.token_hex(4)}"
        try:
            backend.create(name, _PROBE)
        finally:
            backend.remove(name, 2.0)
    except (HookError, EngineError, OSError) as error:
        if isinstance(subject.info_or_error, str):
            return unknown("host", "cgroups", "the engine does not answer, which knows its driver")
        return wrong("host", "cgroups", str(error), "docs/cgroups.md has what each host needs")
    return ok("host", "cgroups", f"version {info.cgroup_version}, driver {info.cgroup_driver}: made, limited, removed")


def swap(swaps: Path, hierarchy: Path) -> Row:
    """Whether a job that has filled its memory can be kept from the node's swap. The paths are the kernel's own."""
    try:
        has_swap = len(swaps.read_text().splitlines()) > 1
    except OSError:
        return unknown("host", "swap", f"{swaps} cannot be read")
    if not has_swap:
        return ok("host", "swap", "there is none")
    counted = (hierarchy / "memory/memory.memsw.limit_in_bytes", *hierarchy.glob("*/memory.swap.max"))
    if any(file.exists() for file in counted):
        return ok("host", "swap", "what jobs have of it is limited with their memory")
    seen = "the kernel does not count it by cgroup: jobs that are full go on in the node's swap"
    return warn("host", "swap", seen, "boot with swapaccount=1 cgroup_enable=memory, or without swap")


def namespaces(sysctls: Path) -> Iterator[Row]:
    """What jobs' own tools need of user namespaces; pbsdock itself needs none."""
    try:
        most = int((sysctls / "user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        yield unknown("host", "user namespaces", "the kernel does not tell of any")
        return
    said = f"{most} allowed" if most else "none allowed, which pbsdock does not need"
    yield ok("host", "user namespaces", f"{said}; users are the host's own in containers")


def clock() -> Row:
    """Whether something keeps it right: sessions of object stores depend on it."""
    buffer = ctypes.create_string_buffer(512)  # struct timex is 208 bytes
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0:
        return unknown("host", "clock", os.strerror(ctypes.get_errno()))
    if state == _TIME_ERROR:
        return warn("host", "clock", "nothing keeps it synchronised", "run chrony or systemd-timesyncd")
    return ok("host", "clock", "synchronised")


def disks(subject: Subject) -> Iterator[Row]:
    """Room where records, logs and images are."""
    paths = subject.paths
    places = {"state": paths.state_dir, "run": paths.run_dir, "log": paths.log_dir}
    if not isinstance(subject.info_or_error, str) and subject.info_or_error.root_dir:
        places["images"] = Path(subject.info_or_error.root_dir)
    for step, place in places.items():
        try:
            found = os.statvfs(place)
        except OSError as error:
            yield unknown("disk", step, f"{place}: {error.strerror}")
            continue
        yield room(step, place, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, found)


def room(step: str, place: Path, size: int, free: int, found: os.statvfs_result) -> Row:
    """Judge one. Pure."""
    seen = f"{place} has {human(free)} of {human(size)} free"
    cure = "pbsdock images prune, or a larger disk" if step == "images" else "make room, or a larger disk"
    least = _LEAST_BYTES if step == "images" else 1 << 20
    if free < least:
        return wrong("disk", step, seen, cure)
    if found.f_files and found.f_favail < 0.02 * found.f_files:
        return warn("disk", step, f"{place} has {found.f_favail} of {found.f_files} inodes free", cure)
    if free < _LEAST_SHARE * size:
        return warn("disk", step, seen, cure)
    return ok("disk", step, seen)
