"""What the kernel says of a process (proc(5), /proc/PID/stat)."""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass

_GENERATIONS = 256  # processes between one and its job's shell; deeper ones are not looked for


def stat(pid: int) -> list[bytes]:
    """The fields from the third on, the state: a name may hold spaces and parentheses. Raises OSError if it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def alive(pid: int, started: int = 0) -> bool:
    """Whether *pid* is a process that can still run (proc(5), stat field 3): a zombie cannot.

    Where *started* is known (field 22; not 0), it must be the one that began then.
    """
    try:
        found = stat(pid)
        return found[0] not in (b"Z", b"X") and (not started or int(found[19]) == started)
    except (OSError, IndexError, ValueError):
        return False


def is_stopped(pid: int, started: int) -> bool:
    """Whether the process that *started* then is stopped by a signal (proc(5), state T)."""
    try:
        found = stat(pid)
        return found[0] == b"T" and int(found[19]) == started
    except (OSError, IndexError, ValueError):
        return False


def end(pid: int, started: int, seconds: float) -> bool:
    """Kill the process that *started* then, with it all of a PID namespace whose first it is; whether it is over."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        if alive(pid, started):  # looked at after it was pinned
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            over = select.poll()
            over.register(fd, select.POLLIN)
            return bool(over.poll(seconds * 1000))
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
    return True


def await_execution(pid: int, seconds: float = 2.0) -> None:
    """Wait until a container's first process is the job's, or over, and not its runtime's any more."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and alive(pid):
            with open(f"/proc/{pid}/comm", "rb") as file:
                if not file.read().startswith(b"runc:["):  # what runc calls itself until execve(2)
                    return
            time.sleep(0.002)
    except OSError:
        return


def session(pid: int) -> int:
    """The session of a process (proc(5), stat field 6); 0 if it is gone."""
    try:
        return int(stat(pid)[3])
    except (OSError, IndexError, ValueError):
        return 0


def parent(pid: int) -> int:
    """The parent of a process (proc(5), stat field 4); 0 if it is gone."""
    try:
        return int(stat(pid)[1])
    except (OSError, IndexError, ValueError):
        return 0


def sessions(pid: int) -> list[int]:
    """The session of a process, and those of the processes it descends from, each once, the nearest first."""
    found: list[int] = []
    for _ in range(_GENERATIONS):
        if pid <= 1:
            break
        if (of_it := session(pid)) and of_it not in found:
            found.append(of_it)
        pid = parent(pid)
    return found


def start_time(pid: int) -> int:
    """When a process has begun, in clock ticks since the boot (field 22); 0 if it is gone. With it a process id, which
    may be another's one day, means one process for good."""
    try:
        return int(stat(pid)[19])
    except (OSError, IndexError, ValueError):
        return 0


def supplementary_groups(pid: int) -> frozenset[int]:
    """The supplementary groups of a process (proc(5), status, Groups). Raises OSError if it is gone."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Groups:"):
                return frozenset(int(gid) for gid in line.split()[1:])
    return frozenset()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has asked: a process as it was when it connected."""

    pid: int
    uid: int
    started: int

    def is_still_there(self) -> bool:
        """Whether the number is still that process's: what is read of it by number may be another's, even root's.

        To be asked after it has been read. Its effective user counts too (proc(5), status, Uid): a process becomes
        another's by a set-user-ID program. Raises OSError, ValueError.
        """
        with open(f"/proc/{self.pid}/status", "rb") as file:
            uids = next((line.split()[1:] for line in file if line.startswith(b"Uid:")), [])
        is_theirs = len(uids) > 1 and int(uids[1]) == self.uid
        return is_theirs and start_time(self.pid) == self.started != 0
