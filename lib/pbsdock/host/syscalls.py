"""Kernel calls Python 3.11 does not wrap, through libc's ``syscall``: per-thread identities and openat2."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# setgroups, setfsuid, setfsgid (asm/unistd_64.h on x86-64, asm-generic/unistd.h on arm64); the newer ones
# have one number on both.
_NUMBERS = {"x86_64": (116, 122, 123), "aarch64": (159, 151, 152)}
_OPENAT2, _MOUNT_SETATTR = 437, 442

RESOLVE_NO_SYMLINKS = 0x04  # linux/openat2.h
RESOLVE_IN_ROOT = 0x10

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8  # sys/mount.h
_MS_RDONLY, _MS_REMOUNT = 1, 1 << 5
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SLAVE = 1 << 12, 1 << 14, 1 << 18, 1 << 19
_MOUNT_ATTR_RDONLY, _AT_RECURSIVE, _AT_FDCWD = 1, 0x8000, -100  # linux/mount.h, linux/fcntl.h
# The flags of a mount that a remount must repeat or would clear, by mountinfo's words (proc_pid_mountinfo(5)).
_KEPT = {"nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1 << 10, "nodiratime": 1 << 11, "relatime": 1 << 21}
_PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE (linux/falloc.h)
_MNT_DETACH, _NOFOLLOW = 2, 8

_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000  # linux/sched.h
# The flags of a mount as statvfs(3) has them, and as mount(2) takes them.
_STATVFS = {1: 1, 2: 2, 4: 4, 8: 8, 1 << 10: 1 << 10, 1 << 11: 1 << 11, 1 << 12: 1 << 21}

_OCTAL = re.compile(r"\\([0-7]{3})")  # how mountinfo writes blanks, tabs, newlines and backslashes

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open *path* with openat2(2)'s resolution rules; returns a descriptor. Raises OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    name = os.fsencode(path)
    fd = _libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(directory),
        ctypes.c_char_p(name),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int(fd)


def punch_hole(fd: int, length: int) -> None:
    """Give the first *length* bytes of a file back to its disk; its size stays (fallocate(2)). Raises OSError."""
    if _libc.fallocate(fd, _PUNCH_HOLE, ctypes.c_int64(0), ctypes.c_int64(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    """mount(2). Raises OSError."""
    arguments = [os.fsencode(argument) for argument in (source, target, kind, options)]
    if _libc.mount(arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[3]) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def bind(source: str, target: str, *, recursive: bool, follows: bool = False) -> None:
    """Mount *source* at *target*, with *recursive* all that is mounted below it too, private: unmounting it then leaves
    the original's alone. With *follows* what is mounted below the original later shows there too, never back.

    Raises OSError.
    """
    below = _MS_REC if recursive else 0
    mount(source, target, "", _MS_BIND | below, "")
    mount("", target, "", below | (_MS_SLAVE if follows else _MS_PRIVATE), "")


def make_read_only(target: str) -> None:
    """Make the mount at *target* and all below it read-only: a bind mount's own flag does not reach what lies below.

    Raises OSError.
    """
    wanted = _MountAttributes(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    done = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(wanted),
        ctypes.c_size_t(ctypes.sizeof(wanted)),
    )
    if done == 0:
        return
    code = ctypes.get_errno()
    if code != errno.ENOSYS:
        raise OSError(code, os.strerror(code), target)
    remount_read_only(target)  # Linux before 5.12


def remount_read_only(target: str) -> None:
    """The same, one mount after the other. Raises OSError."""
    for point, options in mount_points():
        if point == target or point.startswith(f"{target}/"):
            kept = sum(flag for word, flag in _KEPT.items() if word in options)
            mount("", point, "", _MS_BIND | _MS_REMOUNT | _MS_RDONLY | kept, "")


def forbid_devices(pid: int) -> None:
    """Have no device node in the root file system of process *pid* open anything, for nobody (nodev, mount(8)).

    A container's device cgroup binds what is in the container alone, but its files can be reached from outside by
    whoever may look into /proc/PID/root. Works from within the process's mount namespace, in a thread of its own, since
    a thread does not come back from there. Raises OSError.
    """
    failed: list[OSError] = []

    def act() -> None:
        try:
            _remount_root(pid, MS_NODEV)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=act, name="nodev", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _remount_root(pid: int, flags: int) -> None:
    """This thread's root is another one afterwards. Raises OSError."""
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_FS) != 0 or _libc.setns(namespace, _CLONE_NEWNS) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), f"/proc/{pid}/ns/mnt")
    finally:
        os.close(namespace)
    now = os.statvfs("/").f_flag
    if now & flags != flags:
        kept = sum(wanted for flag, wanted in _STATVFS.items() if now & flag)
        mount("", "/", "", _MS_BIND | _MS_REMOUNT | kept | flags, "")


def mount_points() -> list[tuple[str, tuple[str, ...]]]:
    """Every mount point of this process's namespace with its own options, parents first (proc_pid_mountinfo(5))."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _number, _parent, _device, _root, point, options, _rest = line.split(" ", 6)
            found.append((_OCTAL.sub(lambda match: chr(int(match[1], 8)), point), tuple(options.split(","))))
    return found


@dataclass(frozen=True, slots=True)
class MountedFileSystem:
    """A mount point, its file system's kind, the options of mount and file system, and whether it takes part in what is
    mounted elsewhere (mount_namespaces(7))."""

    point: str
    kind: str
    options: tuple[str, ...]
    is_slave: bool


def mounted_file_systems() -> list[MountedFileSystem]:
    """All of this process's namespace, parents first (proc_pid_mountinfo(5))."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            first, _, second = line.partition(" - ")
            fields, system = first.split(" "), second.rstrip("\n").split(" ")
            found.append(
                MountedFileSystem(
                    _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]),
                    system[0],
                    (*fields[5].split(","), *system[-1].split(",")),
                    any(field.startswith("master:") for field in fields[6:]),
                )
            )
    return found


def unbind(target: str) -> None:
    """Undo :func:`bind`, also one that was cut short before it was private. Raises OSError."""
    try:
        mount("", target, "", _MS_REC | _MS_PRIVATE, "")
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    unmount(target)


def unmount(target: str) -> None:
    """umount2(2), detached, so that nobody who still has it open can stop it; nothing if *target* is no mount point.

    Raises OSError.
    """
    if _libc.umount2(os.fsencode(target), _MNT_DETACH | _NOFOLLOW) != 0:
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOENT):
            raise OSError(code, os.strerror(code), target)


@contextmanager
def filesystem_user(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """Make this thread's file accesses those of a user, and root's again afterwards.

    credentials(7): the file-system ids and groups belong to the thread, and a non-zero fsuid drops the capabilities
    that override permissions (capabilities(7)). libc's own wrappers would change every thread, so the raw calls are
    used. Raises OSError if the kernel did not do as told: never goes on as root by mistake.
    """
    setgroups, setfsuid, setfsgid = _NUMBERS[platform.machine()]
    before = os.getgroups()
    _set_groups(setgroups, [*groups])
    try:
        _libc.syscall(ctypes.c_long(setfsgid), ctypes.c_uint(gid))
        _libc.syscall(ctypes.c_long(setfsuid), ctypes.c_uint(uid))
        # These two report no error: asking for the impossible id -1 tells what is in force now.
        if _libc.syscall(ctypes.c_long(setfsuid), ctypes.c_uint(0xFFFFFFFF)) != uid:
            raise OSError(f"setfsuid({uid}) had no effect")
        yield
    finally:
        _libc.syscall(ctypes.c_long(setfsuid), ctypes.c_uint(0))
        _libc.syscall(ctypes.c_long(setfsgid), ctypes.c_uint(0))
        _set_groups(setgroups, before)


def _set_groups(number: int, groups: list[int]) -> None:
    array = (ctypes.c_uint * len(groups))(*groups)
    if _libc.syscall(ctypes.c_long(number), ctypes.c_size_t(len(groups)), array) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "setgroups")
