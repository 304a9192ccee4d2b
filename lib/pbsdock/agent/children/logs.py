"""The output of a child that nobody waits for: two files of the job's owner in a directory of root's.

The child writes to them itself, so that nothing is relayed and its memory and time are the job's. A file that has
become too long loses its beginning: blocks are given back while its size stays (fallocate(2)), which no writer notices.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from pbsdock.agent.children import places
from pbsdock.agent.node import Node
from pbsdock.core.child import Child
from pbsdock.core.record import Record
from pbsdock.host.syscalls import punch_hole

_BLOCK = 1 << 16
_READY = 1 << 20  # bytes that a file system may keep ready itself
_BLOCKS = 4096  # bytes; holes are of whole blocks


def make(node: Node, record: Record, child: Child) -> list[int]:
    """New files, open for its standard output and error. Raises OSError."""
    fds: list[int] = []
    try:
        for path in places.logs(node, record, child):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
            fds.append(os.open(path, flags, 0o600))
            os.fchown(fds[-1], child.plan.uid, child.plan.gid)  # /dev/stdout opens it anew, as the owner
        return fds if len(fds) == 2 else [fds[0], os.dup(fds[0])]
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def open_to_read(node: Node, record: Record, child: Child, tail: int | None) -> list[int]:
    """The files, each where the last *tail* lines of it begin, or all that is kept. Raises OSError."""
    fds: list[int] = []
    try:
        for path in places.logs(node, record, child):
            fds.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            os.lseek(fds[-1], _begin(fds[-1], tail), os.SEEK_SET)
        return fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def trim(node: Node) -> None:
    """Let the oldest go of every log that has become too long."""
    for run in node.jobs.all_children():
        child = node.children.child(run.record.name, run.name)
        if child is not None and child.detached:
            trim_child(node, run.record, child)


def trim_child(node: Node, record: Record, child: Child) -> None:
    """The same of one; of one that is over it is the last time."""
    for path in places.logs(node, record, child):
        with suppress(OSError):  # tried again in a second
            _trim(str(path), node.config.shim.log_bytes)


def _trim(path: str, kept: int) -> None:
    found = os.stat(path)
    if found.st_blocks * 512 <= 2 * kept:
        return
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if found.st_blocks * 512 > found.st_size + _READY:
            os.ftruncate(fd, found.st_size)  # its owner can have any number kept ready behind its end (fallocate(2))
        if (first := (found.st_size - kept) // _BLOCKS * _BLOCKS) > 0:
            punch_hole(fd, first)
    finally:
        os.close(fd)


def _begin(fd: int, tail: int | None) -> int:
    """The offset of the first byte to show."""
    first = _first_kept(fd)
    if tail is None:
        return first
    end = os.fstat(fd).st_size
    if tail <= 0:
        return end
    at, lines = end, 0
    while at > first:
        size = min(_BLOCK, at - first)
        data = os.pread(fd, size, at - size)
        if at == end and data.endswith(b"\n"):
            lines -= 1  # which ends the last line and begins none
        if lines + (count := data.count(b"\n")) < tail:  # no line of it begins the last ones
            lines += count
        else:
            found = len(data)
            while (found := data.rfind(b"\n", 0, found)) >= 0:
                lines += 1
                if lines >= tail:
                    return at - size + found + 1
        at -= size
    return first


def _first_kept(fd: int) -> int:
    """The first byte that was not given back."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError:  # there is none, or the file system cannot tell
        return 0


def close_all(fds: Iterable[int]) -> None:
    """Close them."""
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
