"""Whether a job's shell has begun: Torque gives it the script's path on standard input, and a lost stream loses that.

A shell that has read nothing has run nothing, so it has never had a child. Those it has waited for show in its cminflt
(proc(5), stat field 11), which runc leaves at some other number than 0; the others are in its list of children.
"""

from __future__ import annotations

import time

from pbsdock.host.process import stat

_LOOK_S = 2.0
_WAITS_S = 0.3


def waited_for(pid: int) -> int:
    """The page faults of all children a process has waited for; -1 if it is gone."""
    try:
        return int(stat(pid)[8])
    except (OSError, IndexError, ValueError):
        return -1


def awaits_script(pid: int, before: int) -> bool:
    """Whether a shell has run nothing and waits, seen for a while: what it waits for is on no way to it any more.

    *before* is what :func:`waited_for` said when it could not have begun.
    """
    deadline = time.monotonic() + _LOOK_S
    since = None
    while time.monotonic() < deadline and not _has_begun(pid, before):
        since = (since or time.monotonic()) if _sleeps(pid) else None
        if since is not None and time.monotonic() - since > _WAITS_S:
            return True
        time.sleep(0.02)
    return False


def _has_begun(pid: int, before: int) -> bool:
    if waited_for(pid) != before:
        return True
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return bool(file.read())
    except OSError:
        return True


def _sleeps(pid: int) -> bool:
    try:
        return stat(pid)[0] == b"S"
    except (OSError, IndexError):
        return False
