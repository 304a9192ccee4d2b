"""A job's facts from what its user cannot forge: the prologue's arguments, mom's .JB, the passwd database."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pbsdock.core.ticket import run_of
from pbsdock.rm.base import Job
from pbsdock.rm.torque.args import PrologueArgs
from pbsdock.rm.torque.grant import gpus_on, grant_of
from pbsdock.rm.torque.ids import JobId
from pbsdock.rm.torque.jobfile import JobFile, hosts_of, names_of, of_host, slots_on
from pbsdock.rm.torque.resources import Resources
from pbsdock.rm.torque.tasks import TaskRequest
from pbsdock.rm.torque.words import WORDS

_SURELY_FITS = 1900  # bytes of a Resource_List in mom's buffer of 2,048, beside the neednodes= it adds


@dataclass(frozen=True, slots=True)
class Prologue:
    """A job as its prologue on the mother superior was called for it."""

    args: PrologueArgs
    env: Mapping[str, str]
    node: str
    spool: Path

    @property
    def id(self) -> str:
        """The job's id."""
        return self.args.job_id.text

    @property
    def safe(self) -> str:
        """The id as a name for files of our own."""
        return self.args.job_id.safe

    @property
    def user(self) -> str:
        """The owner's name; whether there is such a user is not looked up."""
        return self.args.user

    @property
    def name(self) -> str:
        """The job's name."""
        return self.args.name

    @property
    def script_path(self) -> str:
        """Where the script is; an interactive job has none there."""
        return self.args.script_path

    @property
    def job_file(self) -> str:
        """The name its .JB will have: by the script's own prefix (arrays, long ids), else by the id."""
        path = self.args.script_path
        if path.endswith(".SC"):
            return os.path.basename(path)[:-3] + ".JB"
        return f"{self.args.job_id.file_prefix}.JB"

    @property
    def wrong(self) -> str:
        """What of the resources cannot be understood."""
        return self.args.wrong

    def job(self) -> Job:
        """Look up the user and the node file. Raises KeyError for an unknown user."""
        args, env = self.args, self.env
        slots = _number(env.get("PBS_NUM_PPN")) or 1
        total = _number(env.get("PBS_NP")) or slots
        nodefile = env.get("PBS_NODEFILE")
        names = _names_in(nodefile)
        if here := of_host(Counter(names), self.node):
            slots, total = here, len(names)
        return _job(
            args.job_id,
            args.user,
            args.name,
            args.resources,
            args.queue,
            script_path=args.script_path,
            work_dir=env.get("PBS_O_WORKDIR"),
            tmpdir=env.get("TMPDIR"),
            nodefile=nodefile,
            gpufile=_gpufile(self.spool, self.id),
            node=self.node,
            names=names,
            interactive=not os.path.lexists(args.script_path),
            job_file=self.job_file,
            slots_here=min(slots, total),
            slots_total=max(total, slots),
        )


@dataclass(frozen=True, slots=True)
class LiveJob:
    """A job whose .JB of that *name* was found in *jobs*; *spool* is Torque's home on this node."""

    name: str
    file: JobFile
    node: str
    spool: Path
    jobs: Path

    @property
    def id(self) -> str:
        """The job's id."""
        return self.file.job_id.text

    @property
    def uid(self) -> int | None:
        """Its owner."""
        return self.file.uid

    @property
    def wrong(self) -> str:
        """What of the resources cannot be understood."""
        return self.file.wrong

    @property
    def has_more(self) -> bool:
        """-L and -n are in no argument, and of a long Resource_List mom leaves out what does not fit."""
        length = sum(len(f"{name}={value},") for name, value in self.file.resources.raw)
        return bool(self.file.tasks) or self.file.exclusive or length > _SURELY_FITS

    @property
    def hosts(self) -> tuple[str, ...]:
        """Of exec_host."""
        return hosts_of(self.file.exec_host)

    @property
    def is_sister(self) -> bool:
        """By the place of this node in the host list, which the mother superior has at 0."""
        return bool(self.file.node_id)

    @property
    def slots(self) -> int:
        """Of exec_host."""
        return slots_on(self.file.exec_host, self.node)[0] if self.file.exec_host else 0

    @property
    def directive(self) -> str:
        """Of qsub -v."""
        return dict(self.file.variables).get("PBSDOCK", "")

    @property
    def run(self) -> str:
        """By the job's cookie, made anew for each run; it is no secret on a node (the .JB is 0644, observed)."""
        return run_of(self.file.cookie, self.id)

    def job(self, env: Mapping[str, str]) -> Job:
        """*env* is the run hook's, used for TMPDIR and the node file only. Raises KeyError for an unknown user."""
        file = self.file
        here, total = slots_on(file.exec_host, self.node) if file.exec_host else (1, 1)
        if not here and "+" not in file.exec_host:  # one host by another of its names
            here = total
        nodefile = _moms_own(env.get("PBS_NODEFILE"), self.id, self.spool / "aux")
        return _job(
            file.job_id,
            file.user,
            file.name,
            file.resources,
            file.queue,
            script_path=None if file.interactive else str(self.jobs / f"{self.name.removesuffix('.JB')}.SC"),
            work_dir=dict(file.variables).get("PBS_O_WORKDIR"),
            tmpdir=_users_own(env.get("TMPDIR"), self.id, pwd.getpwnam(file.user).pw_uid),
            nodefile=nodefile,
            gpufile=_gpufile(self.spool, self.id),
            node=self.node,
            names=_names_in(nodefile) or names_of(self.file.exec_host),
            interactive=True,
            job_file=self.name,
            slots_here=max(1, here),
            slots_total=max(1, total, here),
            tasks=file.tasks,
            exclusive=file.exclusive,
        )


def _job(
    job_id: JobId,
    user: str,
    name: str,
    resources: Resources,
    queue: str,
    *,
    script_path: str | None,
    work_dir: str | None,
    tmpdir: str | None,
    nodefile: str | None,
    gpufile: str | None,
    node: str,
    names: Sequence[str],
    interactive: bool,
    job_file: str,
    slots_here: int,
    slots_total: int,
    tasks: Sequence[TaskRequest] = (),
    exclusive: bool = False,
) -> Job:
    entry = pwd.getpwnam(user)
    groups = tuple(gid for gid in os.getgrouplist(user, entry.pw_gid) if gid != entry.pw_gid)
    try:
        group = grp.getgrgid(entry.pw_gid).gr_name
    except KeyError:
        group = str(entry.pw_gid)
    slots = Counter(names)
    hosts = tuple(slots)
    return Job(
        id=job_id.text,
        safe=job_id.safe,
        user=user,
        group=group,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=groups,
        home=entry.pw_dir,
        name=name,
        queue=queue,
        script_path=script_path,
        work_dir=work_dir,
        tmpdir=tmpdir,
        nodefile=nodefile,
        gpufile=gpufile,
        interactive=interactive,
        job_file=job_file,
        grant=grant_of(
            resources,
            slots_here=slots_here,
            slots_total=slots_total,
            hosts=hosts,
            host_slots=tuple(slots.values()),
            gpu_ids=gpus_on(_names_in(gpufile), node),
            tasks=tasks,
            node=node,
            exclusive=exclusive,
        ),
        words=WORDS,
    )


def _gpufile(spool: Path, job_id: str) -> str | None:
    """Mom's list of the job's GPUs, as $PBS_GPUFILE names it: written before the prologue, where there are any."""
    path = spool / "aux" / f"{job_id}gpu"
    try:
        return str(path) if stat.S_ISREG(path.lstat().st_mode) else None
    except OSError:  # none; or an id as long as a name may be, for which mom can have none either
        return None


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


def _names_in(nodefile: str | None) -> Sequence[str]:
    """The host of every slot of the job; none if the file cannot be read."""
    try:
        return Path(nodefile).read_text().split() if nodefile else []
    except (OSError, UnicodeDecodeError):
        return []
