"""What the kernel says of a process (proc(5), /proc/PID/stat)."""

from __future__ import annotations


def stat(pid: int) -> list[bytes]:
    """The fields from the third on, the state: a name may hold spaces and parentheses. Raises OSError if it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def alive(pid: int) -> bool:
    """Whether *pid* is a process that can still run (proc(5), stat field 3): a zombie's end may be nobody's news."""
    try:
        return stat(pid)[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def session(pid: int) -> int:
    """The session of a process (proc(5), stat field 6); 0 if it is gone."""
    try:
        return int(stat(pid)[3])
    except (OSError, IndexError, ValueError):
        return 0
