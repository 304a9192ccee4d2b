"""The files of a running container, seen through /proc/PID/root, a link of the image's never leading out of it."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pbsdock.agent.programs import Look
from pbsdock.engine.base import FoundFile
from pbsdock.host import syscalls

_HEAD_BYTES = 4096
_AS_THEY_ARE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS


@contextmanager
def looking(pid: int) -> Iterator[Look]:
    """A look at single paths in the root of process *pid*, for as long as this is entered. Raises OSError if it is
    over."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield functools.cache(functools.partial(_look, root))
    finally:
        os.close(root)


def _look(root: int, path: str) -> FoundFile | None:
    """What is at *path*, itself where it is a link; None if nothing is, or links are on the way."""
    try:
        fd = syscalls.openat2(root, path, os.O_PATH | os.O_NOFOLLOW, _AS_THEY_ARE)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        mode = found.st_mode
        kind = "link" if stat.S_ISLNK(mode) else "directory" if stat.S_ISDIR(mode) else "other"
        return FoundFile(
            kind="file" if stat.S_ISREG(mode) else kind,  # type: ignore[arg-type]  # one of its words
            mode=stat.S_IMODE(mode),
            uid=found.st_uid,
            gid=found.st_gid,
            link=os.readlink("", dir_fd=fd) if kind == "link" else "",
            head=_head(fd) if stat.S_ISREG(mode) else b"",
        )
    except OSError:
        return None
    finally:
        os.close(fd)


def _head(fd: int) -> bytes:
    plain = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(plain, _HEAD_BYTES)
    finally:
        os.close(plain)
