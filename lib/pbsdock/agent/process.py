"""What the kernel says of a process (proc(5), /proc/PID/stat)."""

from __future__ import annotations


def stat(pid: int) -> list[bytes]:
    """The fields from the third on, the state: a name may hold spaces and parentheses. Raises OSError if it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def start_time(pid: int) -> int:
    """When a process has begun, in clock ticks since the boot (field 22); 0 if it is gone. With it a process id, which
    may be another's one day, means one process for good."""
    try:
        return int(stat(pid)[19])
    except (OSError, IndexError, ValueError):
        return 0
