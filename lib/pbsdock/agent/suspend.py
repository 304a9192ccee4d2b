"""A suspended job stands still as a whole: mom stops only the run hook and the session that it counts."""

from __future__ import annotations

from pbsdock.agent.protocols import HasCgroups
from pbsdock.agent.runs import JobRun
from pbsdock.core.errors import HookError
from pbsdock.host.process import is_stopped


def follow(node: HasCgroups, running: JobRun) -> None:
    """Freeze the job's cgroup while its run hook is stopped, as mom does by SIGSTOP, which nobody can catch."""
    if running.hook is not None and running.record.facts.first_process:
        freeze(node, running, is_stopped(running.hook.pid, running.hook.started))


def freeze(node: HasCgroups, running: JobRun, frozen: bool) -> None:
    """Freeze or thaw it, unless it is so already."""
    if running.is_frozen is frozen:
        return
    try:
        node.cgroups.freeze(running.record.cgroup, frozen)
    except HookError:
        return  # there is no engine to ask which cgroups these are; the next look may find one
    running.is_frozen = frozen
