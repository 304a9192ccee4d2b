"""What a job has used, and has now: as its cgroup tells, or the resource manager's own that its processes are in."""

from __future__ import annotations

from pbsdock.agent.protocols import HasCgroups
from pbsdock.core.facts import Level, Usage
from pbsdock.core.record import Record
from pbsdock.host.cgroup import managers


def usage_of(node: HasCgroups, record: Record) -> Usage:
    """What the job has used so far; where its processes are in the resource manager's cgroups, as those tell.

    Raises HookError, OSError.
    """
    usage = node.cgroups.usage(record.cgroup)
    return managers.counted(usage, record.facts.counted_in) if record.facts.counted_in else usage


def level_of(node: HasCgroups, record: Record) -> Level:
    """The same of what it has now. Raises HookError, OSError."""
    level = node.cgroups.level(record.cgroup)
    return managers.level(level, record.facts.counted_in) if record.facts.counted_in else level
