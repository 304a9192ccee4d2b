"""Signals to a job's processes, as pbs_mom sends them."""

from __future__ import annotations

from pbsdock.agent.protocols import HasCgroups
from pbsdock.agent.runs import Run, TaskRun
from pbsdock.host.process import session


def send(node: HasCgroups, running: Run, number: int) -> int:
    """Signal every process of the job, or of one task's session; returns how many got it. Raises NodeFault."""
    name = running.record.cgroup
    if not isinstance(running, TaskRun):
        return node.cgroups.signal(name, number)
    others = frozenset(pid for pid in node.cgroups.pids(name) if session(pid) != running.pid)
    return node.cgroups.signal(name, number, exclude=others)
