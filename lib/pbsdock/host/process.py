"""What the kernel says of a process (proc(5), /proc/PID/stat)."""

from __future__ import annotations


def stat(pid: int) -> list[bytes]:
    """The fields from the third on, the state: a name may hold spaces and parentheses. Raises OSError if it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()
