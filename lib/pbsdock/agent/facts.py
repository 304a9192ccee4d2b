"""A job's facts from what its user cannot forge: the prologue's arguments, mom's .JB, the passwd database."""

from __future__ import annotations

import os
import pwd
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pbsdock.core.record import Record
from pbsdock.rm import torque


def from_prologue(args: torque.PrologueArgs, env: Mapping[str, str], node: str) -> torque.Job:
    """Build the job of a prologue on the mother superior. Raises KeyError for an unknown user."""
    slots = _number(env.get("PBS_NUM_PPN")) or 1
    total = _number(env.get("PBS_NP")) or slots
    nodefile = env.get("PBS_NODEFILE")
    if nodefile:
        here = _slots_in(Path(nodefile), node)
        slots, total = here or (slots, total)
    return _job(
        args.job_id,
        args.user,
        args.name,
        args.resources,
        args.queue,
        args.account,
        script_path=args.script_path,
        work_dir=env.get("PBS_O_WORKDIR"),
        tmpdir=env.get("TMPDIR"),
        nodefile=nodefile,
        interactive=not os.path.lexists(args.script_path),
        slots_here=min(slots, total),
        slots_total=max(total, slots),
    )


def from_job_file(name: str, file: torque.JobFile, node: str, env: Mapping[str, str], mom_priv: Path) -> torque.Job:
    """Build the job of a live .JB of that *name*; *env* is the run hook's, used for TMPDIR and the node file only."""
    variables = dict(file.variables)
    here, total = torque.slots_on(file.exec_host, node) if file.exec_host else (1, 1)
    tmpdir = _users_own(env.get("TMPDIR"), file.job_id.text, pwd.getpwnam(file.user).pw_uid)
    job = _job(
        file.job_id,
        file.user,
        file.name,
        file.resources,
        file.queue,
        "",
        script_path=None if file.interactive else str(mom_priv / "jobs" / f"{name.removesuffix('.JB')}.SC"),
        work_dir=variables.get("PBS_O_WORKDIR"),
        tmpdir=tmpdir,
        nodefile=_moms_own(env.get("PBS_NODEFILE"), file.job_id.text, mom_priv.parent / "aux"),
        interactive=True,
        slots_here=max(1, here),
        slots_total=max(1, total, here),
    )
    return replace(job, job_file=name, on_demand=True)


def _job(
    job_id: torque.JobId,
    user: str,
    name: str,
    resources: torque.Resources,
    queue: str,
    account: str,
    *,
    script_path: str | None,
    work_dir: str | None,
    tmpdir: str | None,
    nodefile: str | None,
    interactive: bool,
    slots_here: int,
    slots_total: int,
) -> torque.Job:
    import grp

    entry = pwd.getpwnam(user)
    groups = tuple(gid for gid in os.getgrouplist(user, entry.pw_gid) if gid != entry.pw_gid)
    try:
        group = grp.getgrgid(entry.pw_gid).gr_name
    except KeyError:
        group = str(entry.pw_gid)
    return torque.Job(
        id=job_id,
        user=user,
        group=group,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=groups,
        home=entry.pw_dir,
        name=name,
        resources=resources,
        queue=queue,
        account=account,
        script_path=script_path,
        work_dir=work_dir,
        tmpdir=tmpdir,
        nodefile=nodefile,
        interactive=interactive,
        slots_here=slots_here,
        slots_total=slots_total,
    )


def _moms_own(path: str | None, job_id: str, directory: Path) -> str | None:
    """A node file the run hook names, if it is the one mom itself made for this job: its environment is the user's."""
    if not path or os.path.basename(path) != job_id:
        return None
    own = directory / job_id
    return str(own) if os.path.normpath(path) == str(own) and own.is_file() and not own.is_symlink() else None


def _users_own(path: str | None, job_id: str, uid: int) -> str | None:
    """A TMPDIR the run hook names, if it is a plain directory of the user's named after this job, as mom makes it."""
    if not path or os.path.basename(path) != job_id:
        return None
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return path if stat.S_ISDIR(found.st_mode) and found.st_uid == uid else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _slots_in(nodefile: Path, node: str) -> tuple[int, int] | None:
    try:
        names = nodefile.read_text().split()
    except (OSError, UnicodeDecodeError):
        return None
    here = torque.of_host(Counter(names), node)
    return (here, len(names)) if here else None


def job_file_name(job: torque.Job) -> str:
    """The name of mom's .JB: as found, else by the script's own prefix (arrays, long ids), else by the id."""
    if job.job_file:
        return job.job_file
    if job.script_path and job.script_path.endswith(".SC"):
        return os.path.basename(job.script_path)[:-3] + ".JB"
    return f"{job.id.file_prefix}.JB"


def shell_chosen(directory: Path, record: Record, argv: tuple[str, ...]) -> bool:
    """Whether the job's shell was asked for (qsub -S): an image without it is then refused, else /bin/sh serves."""
    try:
        login = pwd.getpwuid(record.uid).pw_shell
    except KeyError:
        return True
    if len(argv) != 1 or argv[0] != login:
        return True
    try:
        if b"<Shell_Path_List" in (directory / record.facts.job_file).read_bytes():
            return True
    except (OSError, KeyError):
        pass  # the .JB of a one-node job may not be written yet (observed)
    return record.facts.script_names_shell


def count_nodes(job: torque.Job) -> int:
    """How many hosts the job's node file names."""
    try:
        return len(set(Path(job.nodefile or "").read_text().split())) if job.nodefile else 1
    except OSError:
        return 1
