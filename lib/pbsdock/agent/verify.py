"""Compare a container that was started with its plan, before its script is fed to the shell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Bound
from pbsdock.core.plan import Limits, Plan
from pbsdock.host import mounts, syscalls
from pbsdock.host.cgroup.base import JobCgroup
from pbsdock.host.process import alive, supplementary_groups

_ENDING_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the kernel says of a container's first process."""

    is_in_cgroup: bool  # the job's
    limits_wrong: str  # how the job's limits are not in force, "" if they are
    groups: frozenset[int]  # supplementary
    mount_wrong: str | None  # the target that is not what was checked


def mismatch(observed: Observed, plan: Plan) -> str:
    """What is not as planned, "" if all is. Pure."""
    if not observed.is_in_cgroup:
        return "it is outside of the job's cgroup"
    if observed.limits_wrong:
        return observed.limits_wrong
    # An engine adds the group itself, or does not.
    if observed.groups - {plan.gid} != frozenset(plan.groups) - {plan.gid}:
        return "its supplementary groups are not the job owner's"
    if observed.mount_wrong:
        return f"{observed.mount_wrong} is not what was checked"
    return ""


def close_devices(pid: int) -> None:
    """Before anything of the user's runs in the container of *pid*: no device node that its image has brought opens,
    neither inside nor for a process of its owner's outside, which no device cgroup binds.

    Raises NodeFault; OSError if it is over.
    """
    try:
        syscalls.forbid_devices(pid)
    except OSError as error:
        if not alive(pid):
            raise
        raise NodeFault("nodev", f"the container's files cannot be mounted without devices: {error}") from None


def wrong_with(pid: int, plan: Plan, bound: Sequence[Bound], cgroups: JobCgroup, cgroup: str) -> str | None:
    """What is not as planned of process *pid*, "" if all is; None if it is over."""
    try:
        wrong = mismatch(_observe(pid, plan, bound, cgroups, cgroup), plan)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A process that is ending is in no cgroup any more a moment before it is seen to be over.
    deadline = time.monotonic() + _ENDING_S
    while wrong and time.monotonic() < deadline:
        if not alive(pid):
            return None
        time.sleep(0.005)
    return wrong


def _observe(pid: int, plan: Plan, bound: Sequence[Bound], cgroups: JobCgroup, cgroup: str) -> Observed:
    """Raises FileNotFoundError, ProcessLookupError if the process is over."""
    return Observed(
        is_in_cgroup=cgroups.contains(cgroup, pid),
        limits_wrong=_lifted(cgroups, cgroup, plan.limits),
        groups=supplementary_groups(pid),
        mount_wrong=mounts.mismatch(pid, bound),
    )


def _lifted(cgroups: JobCgroup, cgroup: str, limits: Limits) -> str:
    """Whether the limits were let go since they were set: into a slice that was stopped meanwhile the engine starts a
    container all the same, and makes the slice anew without any (observed)."""
    try:
        cgroups.verify(cgroup, limits)
    except NodeFault as error:
        return str(error)
    return ""
