"""What is counted in a cgroup of the resource manager's own, on version 1, which a job's container was moved into."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pbsdock.core.errors import HookError
from pbsdock.core.facts import Level, Usage
from pbsdock.host.cgroup.v1 import V1Cgroup

_SYSFS = Path("/sys/fs/cgroup")


def counted(own: Usage, path: str, sysfs: Path = _SYSFS) -> Usage:
    """*own*, what the job's cgroup tells, with what is counted at *path* (from each hierarchy's root) in its place.

    Processes are still counted in the job's own. Kills for memory are at a limit of the manager's: the job's.
    """
    root, _, name = path.rpartition("/")
    with suppress(HookError, OSError):
        found = V1Cgroup(sysfs, root).usage(name)
        return replace(
            own,
            memory_peak_bytes=found.memory_peak_bytes,
            cpu_seconds=found.cpu_seconds,
            oom_kills=found.oom_kills,
            limit_hit=bool(found.limit_hit or found.oom_kills),
            oom_at="job" if found.oom_kills else None,
        )
    return Usage(pids_peak=own.pids_peak, pids_hit=own.pids_hit)


def level(own: Level, path: str, sysfs: Path = _SYSFS) -> Level:
    """The same of what the job has now."""
    root, _, name = path.rpartition("/")
    with suppress(HookError, OSError):
        return replace(own, memory_bytes=V1Cgroup(sysfs, root).level(name).memory_bytes)
    return replace(own, memory_bytes=None)
