"""Slurm's own cgroups of a job: where they are, what they grant, and the move of a process into them.

On version 1 ``slurm[_NODE]/uid_U/job_J/step_S[/task_T]`` in each hierarchy that a plugin uses: freezer
(proctrack/cgroup), memory and cpuset (task/cgroup), cpuacct and memory again (jobacct_gather/cgroup), devices. Observed
on 22.05, and its cgroup_v1.c. Version 2 is :mod:`pbsdock.rm.slurm.unified`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.rm.slurm import unified

SYSFS = Path("/sys/fs/cgroup")
# A user can make cgroups below their step on version 1: what is behind the task, or a step without one, is not taken.
_STEP = re.compile(r"/(slurm[^/]*)/uid_([0-9]+)/job_([0-9]+)/step_([^/]+)(?:/task_([^/]+))?(?:/.*)?")
_JOB = re.compile(r"job_([0-9]{1,10})")
# Docker's own stay in force: its list of devices, and the number of processes, which Slurm does not limit.
_KEPT = frozenset({"devices", "pids"})
_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class Step:
    """Where a process is: the task's cgroup or, in a hierarchy that has none for tasks, the step's."""

    uid: int | None  # version 2 does not tell
    job: str
    path: str  # from the hierarchy's root, without a slash in front


def step_of(path: str) -> Step | None:
    """Of a path in /proc/PID/cgroup; None for what is not Slurm's."""
    found = _STEP.fullmatch(path)
    if found is None:
        on_version_2 = unified.task_of(path)
        return None if on_version_2 is None else Step(None, *on_version_2)
    root, uid, job, step, task = found.groups()
    below = f"/task_{task}" if task is not None else ""
    return Step(int(uid), str(int(job)), f"{root}/uid_{uid}/job_{job}/step_{step}{below}")


def _tops(sysfs: Path, controller: str) -> Iterator[Path]:
    with os.scandir(sysfs / controller) as entries:
        yield from (Path(entry.path) for entry in entries if re.fullmatch(r"slurm(?:_.*)?", entry.name))


def jobs(sysfs: Path = SYSFS) -> frozenset[str]:
    """The numbers of the jobs that have cgroups. Raises OSError."""
    if unified.is_here(sysfs):
        return frozenset(match[1] for place in unified.jobs(sysfs) if (match := _JOB.fullmatch(place.name)))
    found: set[str] = set()
    for top in _tops(sysfs, "freezer"):
        for user in top.glob("uid_*"):
            try:
                found.update(match[1] for name in os.listdir(user) if (match := _JOB.fullmatch(name)))
            except FileNotFoundError:  # its last job has just ended
                continue
    return frozenset(found)


def owner_of(job: str, nodes: Iterable[str], sysfs: Path = SYSFS) -> int | None:
    """Whose a job is, by its cgroup on one of *nodes*; None without one, and on version 2."""
    if unified.is_here(sysfs):
        return None
    for top in ("slurm", *(f"slurm_{node}" for node in nodes)):  # another cluster's has jobs of the same numbers
        for place in (sysfs / "freezer" / top).glob(f"uid_*/job_{job}"):
            return int(place.parent.name.removeprefix("uid_"))
    return None


def memory_of(job: str, node: str, sysfs: Path = SYSFS) -> int | None:
    """Bytes a job may have here; None where Slurm sets no limit."""
    if unified.is_here(sysfs):
        text = unified.read(job, node, "memory.max", sysfs)
    else:
        text = _read(job, node, "memory", "memory.limit_in_bytes", sysfs)
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def cpus_of(job: str, node: str, sysfs: Path = SYSFS) -> str:
    """The CPUs a job may use, as the kernel lists them; "" where Slurm sets none."""
    if unified.is_here(sysfs):
        return unified.read(job, node, "cpuset.cpus", sysfs)
    return _read(job, node, "cpuset", "cpuset.cpus", sysfs)


def _read(job: str, node: str, controller: str, file: str, sysfs: Path) -> str:
    for top in (f"slurm_{node}", "slurm"):
        for place in (sysfs / controller / top).glob(f"uid_*/job_{job}"):
            try:
                return (place / file).read_text().strip()
            except OSError:
                continue
    return ""


def paths_of(pid: int) -> dict[str, str]:
    """A process's cgroups by the names of their controllers ("" on version 2), from /proc/PID/cgroup. Raises OSError if
    it is over."""
    lines = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    return {controllers: path for _number, controllers, path in lines}


def move(first: int, steps: Mapping[str, Step], sysfs: Path = SYSFS) -> None:
    """Move process *first* into these cgroups. Raises OSError."""
    for controllers, step in steps.items():
        if not controllers:
            _keep_limit(first, step, sysfs)
        (_mounted(controllers, sysfs) / step.path / "cgroup.procs").write_text(f"{first}\n")


def _keep_limit(first: int, step: Step, sysfs: Path) -> None:
    try:
        unified.keep_limit(paths_of(first)[""], step.path, sysfs)
    except FileNotFoundError as error:
        if (sysfs / step.path).is_dir():  # else the step is over
            raise OSError(str(error)) from None
        raise


def _mounted(controllers: str, sysfs: Path) -> Path:
    for name in (controllers, *controllers.split(",")):
        if (sysfs / name).is_dir():
            return sysfs / name
    raise FileNotFoundError(f"the cgroup controllers {controllers} are not below {sysfs}")


def clear(job: str, sysfs: Path = SYSFS) -> None:
    """Remove what Slurm has left of a job that is over here: it looks once, and leaves a cgroup in which a container is
    that comes or goes at that moment (common_cgroup_delete in its cgroup_common.c). Only empty ones can be removed."""
    for top in sysfs.glob(f"*/slurm*/uid_*/job_{job}"):
        for place, _directories, _files in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(place)


def steps_of(paths: Mapping[str, str]) -> dict[str, Step]:
    """Where a process's container belongs, by controllers: what of its cgroups is Slurm's, less what stays Docker's."""
    found = {name: step for name, path in paths.items() if (step := step_of(path)) is not None}
    return {name: step for name, step in found.items() if not _KEPT & set(name.split(","))}


def take_in(first: int, hook: int, job: str, uid: int, sysfs: Path = SYSFS) -> str:
    """Move process *first* of the container, which has run nothing yet, into the cgroups of the job step that the run
    hook *hook* is in; returns the cgroup where its memory is counted, "" if that is not.

    Raises Refusal for a hook that is in no step of this job of this user's, NodeFault.
    """
    steps = steps_of_hook(hook, job, uid)
    try:
        move(first, steps, sysfs)
        is_still_there = {step.job for step in steps_of(paths_of(hook)).values()} == {job}
        are_there = paths_of(first)
    except (FileNotFoundError, ProcessLookupError):
        is_still_there, are_there = False, {}
    except OSError as error:
        raise NodeFault("not-in-step", f"the container of job {job} cannot be moved into its step: {error}") from None
    if not is_still_there:  # or slurmstepd may have killed all that it knew of before this came
        raise Refusal("job-over", f"the step of job {job} that asked for a start is over; nothing was started")
    if any(are_there.get(name) != f"/{step.path}" for name, step in steps.items()):
        raise NodeFault("not-in-step", f"the container of job {job} is not where it was moved to")
    return next((step.path for name, step in steps.items() if name == "" or "memory" in name.split(",")), "")


def steps_of_hook(hook: int, job: str, uid: int) -> dict[str, Step]:
    """Where a run hook's container, or its task, belongs. Raises Refusal for one that is in no step of this job of this
    user's, NodeFault."""
    try:
        steps = steps_of(paths_of(hook))
    except OSError:
        raise Refusal(
            "run-hook-gone", "the process that asked for a start in the job is gone; nothing was started"
        ) from None
    if any(step.job != job or step.uid not in (uid, None) for step in steps.values()):
        raise Refusal("not-your-job", f"the process that asks for the start of job {job} is not in that job")
    if not any(name == "" or "freezer" in name.split(",") for name in steps):
        raise NodeFault(
            "not-in-step",
            f"the process that asks for the start of job {job} is in no job step's cgroup: slurm.conf needs"
            " ProctrackType=proctrack/cgroup",
        )
    return steps


def is_task(pid: int) -> bool:
    """Whether a process is in a job step that is not the batch script's."""
    try:
        steps = steps_of(paths_of(pid))
    except OSError:
        return False
    return bool(steps) and all("/step_batch" not in step.path for step in steps.values())
