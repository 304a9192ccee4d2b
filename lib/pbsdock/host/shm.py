"""How full a container's /dev/shm is."""

from __future__ import annotations

import os


def used(pid: int) -> tuple[int, bool] | None:
    """How many bytes the /dev/shm that process *pid* sees has in it, and whether no room is left.

    None where it cannot be looked at.

    The way goes through /proc/PID/root without following a link: what an image has at its own paths leads nowhere.
    """
    try:
        fd = os.open(f"/proc/{pid}/root/dev", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            shm = os.open("shm", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        finally:
            os.close(fd)
        try:
            found = os.statvfs(shm)
        finally:
            os.close(shm)
    except OSError:
        return None
    return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_blocks > 0 and found.f_bavail == 0
