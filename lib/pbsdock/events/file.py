"""The file of the event stream, which is rotated by others."""

from __future__ import annotations

import errno
import grp
import json
import os
from pathlib import Path


class EventFile:
    """Appends whole lines and knows their numbers. Not locked: the stream is.

    ``seq`` is that of the last line written, also over restarts and rotations; 0 if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seq = last_seq(path)
        self._fd = -1
        self._identity: tuple[int, int] = (0, 0)

    def append(self, line: str) -> None:
        """Write one line and move ``seq`` on. Raises OSError; then no part of it is left in the file."""
        self._open()
        data = line.encode() + b"\n"
        written = os.write(self._fd, data)
        if written != len(data):
            # Half a line would swallow the next one.
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, "short write")
        self.seq += 1

    def _open(self) -> None:
        try:
            found = os.stat(self.path, follow_symlinks=False)
            if self._fd >= 0 and (found.st_dev, found.st_ino) == self._identity:
                return
        except FileNotFoundError:
            pass
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        os.fchmod(fd, 0o640)
        try:
            os.fchown(fd, 0, grp.getgrnam("adm").gr_gid)
        except (KeyError, PermissionError):
            pass  # a host without the group, or a test without root: the mode alone protects it
        found = os.fstat(fd)
        if found.st_size and os.pread(fd, 1, found.st_size - 1) != b"\n":
            os.write(fd, b"\n")  # a crash has cut the last line short
        self._identity = (found.st_dev, found.st_ino)
        self._fd = fd


def last_seq(path: Path) -> int:
    """The number of the last readable line in *path* or the file it was rotated to; 0 if there is none."""
    for file in (path, path.with_name(path.name + ".1")):
        try:
            with open(file, "rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - 65536))
                for line in reversed(stream.read().splitlines()):
                    try:
                        return int(json.loads(line)["seq"])
                    except (ValueError, KeyError, TypeError):
                        continue
        except OSError:
            continue
    return 0
