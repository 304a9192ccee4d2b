"""What a stage-in has made, so that its modes can follow the job's umask, which only the job's start tells."""

from __future__ import annotations

import os
import stat

UMASK = 0o077  # pbs_mom's own for a job, and what a worker makes files with


class Made:
    """Files and directories that this order made; any thread."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._directories: list[str] = []  # each after the one it lies in

    def file(self, path: str) -> None:
        """Note a file."""
        self._files.append(path)

    def directory(self, path: str) -> None:
        """Make a directory and what is missing above it. Raises OSError."""
        missing = []
        while path and not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for each in reversed(missing):
            try:
                os.mkdir(each)
            except FileExistsError:
                if not os.path.isdir(each):
                    raise
            else:
                self._directories.append(each)

    def follow(self, umask: int) -> None:
        """Give everything the mode it would have had with *umask*.

        Left alone is what is gone, and what has other bits than this process gave it: a default ACL, or the user, chose
        them.
        """
        for path in self._files:
            _change(path, stat.S_IFREG, 0o666, umask)
        for path in reversed(self._directories):  # what lies in it first: the umask may close it
            _change(path, stat.S_IFDIR, 0o777, umask)


def _change(path: str, kind: int, full: int, umask: int) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_IFMT(mode) == kind and mode & 0o777 == full & ~UMASK:
            os.fchmod(fd, (stat.S_IMODE(mode) & ~0o777) | (full & ~umask))
    except OSError:
        return
    finally:
        os.close(fd)
