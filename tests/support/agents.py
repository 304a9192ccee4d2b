"""The agent's processes of one instance, found by their command lines, and their end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pbsdock.host import process

_END_S = 60.0


def running(*words: str | bytes) -> list[int]:
    """The processes whose command line holds all of *words*."""
    wanted = [os.fsencode(word) for word in words]
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            line = Path(f"/proc/{entry}/cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if all(word in line for word in wanted):
            found.append(int(entry))
    return found


def agents(root: Path, node: int | None = None) -> list[int]:
    """Supervisor and worker of the instance below *root*, in this order whatever their numbers.

    Those of this host; or those of an emulated node, which has the same directories, by its first process *node*.
    """
    space = _pid_namespace(node or os.getpid())
    pids = [
        pid for pid in running("pbsdock.agent.daemon", f"{root / 'opt/pbsdock'}/") if _pid_namespace(pid) in (space, "")
    ]
    return sorted(pids, key=lambda pid: (parent(pid) in pids, process.start_time(pid), pid))


def _pid_namespace(pid: int) -> str:
    """ "" if the process is over."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def kill_agents(root: Path, node: int | None = None) -> None:
    """Kill the agent, and what its supervisor forks meanwhile; another one that systemd starts at once is left alone.

    Returns when the last thread of each has ended: until then its lock and its socket are there. Raises AssertionError.
    """
    pids = set(agents(root, node))
    sessions = {process.session(pid) for pid in pids}
    deadline = time.monotonic() + _END_S
    while True:
        pids |= {pid for pid in agents(root, node) if process.session(pid) in sessions}
        left = [pid for pid in pids if not _has_ended(pid)]
        if not left:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"agents {left} of {root} do not end within {_END_S:g} s")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def parent(pid: int) -> int:
    """0 if the process is over."""
    try:
        return int(process.stat(pid)[1])
    except (OSError, IndexError, ValueError):
        return 0


def _has_ended(pid: int) -> bool:
    """Whether no thread is left: the first one's entry says Z while others still run (proc(5))."""
    try:
        threads = [int(one) for one in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return True
    return threads in ([], [pid]) and not process.alive(pid)
