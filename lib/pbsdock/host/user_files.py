"""Small files of users, read by root with the user's rights alone."""

from __future__ import annotations

import errno
import os
import stat

from pbsdock.host import syscalls
from pbsdock.host.mounts import User

_CWD = -100  # AT_FDCWD, openat(2); every path here is absolute


def read(path: str, user: User, most_bytes: int) -> bytes:
    """Read a plain file as *user* would, links included. Raises OSError; EFBIG for one larger than *most_bytes*.

    Opened without waiting (a fifo), and without following a link after the path was resolved: what the user could not
    read by this name is not read.
    """
    with syscalls.filesystem_user(user.uid, user.gid, user.groups):
        real = os.path.realpath(path, strict=True)
        fd = syscalls.openat2(_CWD, real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, syscalls.RESOLVE_NO_SYMLINKS)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is not a plain file", path)
            if found.st_size > most_bytes:
                raise OSError(errno.EFBIG, f"it has more than {most_bytes} bytes", path)
            # Not os.fdopen() before this: it leaves the descriptor of a directory open.
            with os.fdopen(os.dup(fd), "rb") as file:
                data = file.read(most_bytes + 1)
        finally:
            os.close(fd)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"it has more than {most_bytes} bytes", path)
    return data
