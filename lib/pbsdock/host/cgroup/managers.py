"""What is counted in a cgroup of the resource manager's own, which a job's container was moved into."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pbsdock.core.errors import HookError
from pbsdock.core.facts import Level, Usage
from pbsdock.host.cgroup.v1 import V1Cgroup
from pbsdock.host.cgroup.v2 import V2Tree, is_unified

_SYSFS = Path("/sys/fs/cgroup")


class _At(V2Tree):
    """Reads any cgroup of version 2 by its path."""

    def directory(self, name: str) -> Path:
        """At that path."""
        return self.sysfs / name


def counted(own: Usage, path: str, sysfs: Path = _SYSFS) -> Usage:
    """*own*, what the job's cgroup tells, with what is counted at *path* (from each hierarchy's root) in its place.

    On version 1 processes are still counted in the job's own. Kills for memory are at a limit of the manager's: the
    job's. Nothing is known of what was counted in a cgroup that is gone.
    """
    on_v2 = is_unified(sysfs)
    with suppress(HookError, OSError):
        found = _At(sysfs).usage(path) if on_v2 else _v1(path, sysfs).usage(path.rpartition("/")[2])
        by_job = found if on_v2 else own
        return replace(
            own,
            memory_peak_bytes=found.memory_peak_bytes,
            cpu_seconds=found.cpu_seconds,
            io_read_bytes=by_job.io_read_bytes,
            io_write_bytes=by_job.io_write_bytes,
            pids_peak=by_job.pids_peak,
            pids_hit=by_job.pids_hit,
            oom_kills=found.oom_kills,
            limit_hit=bool(found.limit_hit or found.oom_kills),
            oom_at="job" if found.oom_kills else None,
        )
    return Usage() if on_v2 else Usage(pids_peak=own.pids_peak, pids_hit=own.pids_hit)


def level(own: Level, path: str, sysfs: Path = _SYSFS) -> Level:
    """The same of what the job has now."""
    with suppress(HookError, OSError):
        if is_unified(sysfs):
            return _At(sysfs).level(path)
        return replace(own, memory_bytes=_v1(path, sysfs).level(path.rpartition("/")[2]).memory_bytes)
    return replace(own, memory_bytes=None)


def _v1(path: str, sysfs: Path) -> V1Cgroup:
    return V1Cgroup(sysfs, path.rpartition("/")[0])
