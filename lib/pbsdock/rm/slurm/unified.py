"""Slurm's cgroups of a job on version 2, where it has one for all controllers.

``system.slice/[NODE_]slurmstepd.scope/job_J/step_S/user/task_T``; beside ``user`` is ``slurm``, with slurmstepd itself.
The same in 22.05.8 (Debian 12) and 24.11.5 (Debian 13), observed, and their cgroup_v2.c: limits are at ``job_J`` and
``user``, the freezer at ``user``, and what is counted, signalled and waited for is what is in ``task_T`` itself, not
below it. 22.05 gives ``task_T`` to the job's user, who can make directories there, but move nothing into them.
Slurm hands down cpuset, cpu and memory, of the controllers that systemd has delegated to the scope (all).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_STEP = re.compile(r"/(system\.slice/(?:[^/]*_)?slurmstepd\.scope/job_([0-9]+)/step_[^/]+/user/task_[^/]+)(?:/.*)?")
_SLICE = "system.slice"
_SCOPE = "slurmstepd.scope"


def is_here(sysfs: Path) -> bool:
    """Whether the host has version 2; a hybrid one, whose controllers are version 1's, has not."""
    return (sysfs / "cgroup.controllers").exists()


def has_pids(sysfs: Path) -> bool:
    """Whether processes can be limited in number. Raises OSError."""
    return "pids" in (sysfs / "cgroup.controllers").read_text().split()


def task_of(path: str) -> tuple[str, str] | None:
    """The job, and the task's cgroup without a slash in front, of a path in /proc/PID/cgroup; None if not Slurm's."""
    found = _STEP.fullmatch(path)
    return (str(int(found[2])), found[1]) if found is not None else None


def jobs(sysfs: Path, job: str = "*") -> Iterator[Path]:
    """The cgroups of a job, or of all: one for each node that the host stands for. Raises OSError."""
    for scope in (sysfs / _SLICE).iterdir():
        if scope.name == _SCOPE or scope.name.endswith(f"_{_SCOPE}"):
            yield from scope.glob(f"job_{job}")


def read(job: str, node: str, file: str, sysfs: Path) -> str:
    """What a file of the job's cgroup says; "" where there is none."""
    for scope in (f"{node}_{_SCOPE}", _SCOPE):
        try:
            return (sysfs / _SLICE / scope / f"job_{job}" / file).read_text().strip()
        except OSError:
            continue
    return ""


def keep_limit(path: str, task: str, sysfs: Path) -> None:
    """Let the cgroup *task* have no more processes than a process in *path* may have, unless it is limited already.

    Slurm limits no processes, and a process that is moved leaves its limit behind. Nothing else of Slurm's is changed
    by handing that controller down (observed). Raises OSError, also where systemd has not delegated it.
    """
    most = _most(path, sysfs)
    if most is None:
        return
    above = list(reversed(PurePosixPath(task).parents))[2:]  # less the root and systemd's own slice
    for place in above:
        control = sysfs / place / "cgroup.subtree_control"
        if "pids" not in control.read_text().split():
            control.write_text("+pids")
    limit = sysfs / task / "pids.max"
    if limit.read_text().strip() == "max":
        limit.write_text(str(most))


def _most(path: str, sysfs: Path) -> int | None:
    """The lowest limit of processes from *path* up."""
    found = []
    place = PurePosixPath(path.lstrip("/"))
    for part in (place, *place.parents):
        try:
            text = (sysfs / part / "pids.max").read_text().strip()
        except FileNotFoundError:
            continue
        if text.isdigit():
            found.append(int(text))
    return min(found, default=None)
