"""Slurm's slurmd on this node, as :class:`pbsdock.rm.base.ResourceManager` wants it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pbsdock.core.errors import BadValue, NodeFault
from pbsdock.core.pathrules import ClosedPaths
from pbsdock.rm.base import Adoption, ClientTool, Ended, ResourceManager
from pbsdock.rm.slurm import cgroup, prolog_file, unified
from pbsdock.rm.slurm.client import Clients
from pbsdock.rm.slurm.control import PATH, Control
from pbsdock.rm.slurm.facts import SlurmJob
from pbsdock.rm.slurm.idle import IdleJobs
from pbsdock.rm.slurm.ids import parse_job_id
from pbsdock.rm.slurm.spool import script_path, spools
from pbsdock.rm.slurm.words import WORDS

_SOCKET = re.compile(r".+_([0-9]{1,10})\.[0-9]{1,10}")  # NODE_JOB.STEP, of the slurmstepd of each step
_TOOLS = "/run/pbsdock/tools"  # in the container (pbsdock.agent.task_tools)
_EXIT = re.compile(r"([0-9]{1,3}):([0-9]{1,3})")


class Slurm(ResourceManager):
    """*spool* is slurmd's spool directory, *told* where the Prolog writes down what it is told of jobs, *conf* is
    slurm.conf; *owner* is whose what the Prolog has written must be.

    Many methods because ResourceManager has as many."""

    prepares_at_start = True  # the script is on the node from then on
    moves_tasks = True  # their steps' cgroups are where Slurm counts, limits and ends them
    holds_children = True  # they are moved into the step of the process that asks for them
    polite_end_ms = 0

    def __init__(
        self,
        spool: Path,
        told: Path,
        conf: Path,
        *,
        sysfs: Path = cgroup.SYSFS,
        owner: int = 0,
        control: Control | None = None,
    ) -> None:
        self.words = WORDS
        self.closed = ClosedPaths(guarded=(), sealed=(*map(str, spools(spool)), str(told)))
        self.control = control or Control(conf)
        self._spool = spool
        self._told = told
        self._sysfs = sysfs
        self._owner = owner
        self._clients = Clients(conf, _TOOLS, PATH)
        self._idle = IdleJobs(told, self.control.knows)

    def job_id(self, text: str) -> str:
        """``12``, or ``12.0`` for a step of it. Raises BadValue."""
        return parse_job_id(text)

    def announced(self, argv: Sequence[str], env: Mapping[str, str]) -> SlurmJob:
        """By its number, which is the first argument. Raises BadValue, NodeFault."""
        job_id = self.job_id(argv[0] if argv else "")
        told = self._read(job_id)
        if told is None:
            raise NodeFault(
                "no-prolog",
                f"nothing is known here of job {job_id}: pbsdock's Prolog was not run for it, see Prolog in slurm.conf",
            )
        return self._job(told)

    def _read(self, job_id: str) -> prolog_file.PrologFile | None:
        """Raises BadValue, NodeFault."""
        try:
            return prolog_file.read(self._told, job_id, owner=self._owner)
        except OSError as error:
            raise NodeFault(
                "no-prolog", f"what the Prolog of job {job_id} has written cannot be read: {error}"
            ) from None

    def _job(self, told: prolog_file.PrologFile) -> SlurmJob:
        here = prolog_file.nodes_here(self._told, told.job_id)
        return SlurmJob(told, self._spool, self.control, self._sysfs, here)

    def ended(self, argv: Sequence[str], env: Mapping[str, str]) -> Ended:
        """From the Epilog's arguments: the number, and ``SLURM_JOB_EXIT_CODE2`` (CODE:SIGNAL). Raises BadValue."""
        job_id = self.job_id(argv[0] if argv else "")
        match = _EXIT.fullmatch(argv[1]) if len(argv) > 1 else None
        if match is None:
            return Ended(id=job_id, exit_status=None)
        code, signal = int(match[1]), int(match[2])
        return Ended(id=job_id, exit_status=128 + signal if signal else code)

    def named(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """The first argument."""
        return argv[0] if argv else ""

    def script_named(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """By the number."""
        try:
            job_id = parse_job_id(argv[0] if argv else "")
        except BadValue:
            return ""
        try:
            told = self._read(job_id)
        except (BadValue, NodeFault):
            told = None
        return script_path(self._spool, told.node if told is not None else "", job_id)

    def live(self) -> frozenset[str]:
        """The numbers of the jobs that have cgroups, or a slurmstepd. Raises OSError."""
        return cgroup.jobs(self._sysfs) | self._with_steps()

    def _with_steps(self) -> set[str]:
        """The numbers of the jobs that have a slurmstepd. Raises OSError."""
        names = [name for spool in spools(self._spool) for name in os.listdir(spool)]
        return {match[1] for name in names if (match := _SOCKET.fullmatch(name))}

    def is_idle(self, job_id: str) -> bool:
        """By what its Prolog has written, and the controller's word."""
        return self._idle.lives(job_id)

    def is_live(self, job_id: str) -> bool:
        """Raises BadValue, OSError."""
        return parse_job_id(job_id) in self.live()

    def find(self, job_id: str, *, waits: bool = True) -> SlurmJob | None:
        """By what its Prolog has written. Raises BadValue."""
        job_id = parse_job_id(job_id)
        try:
            told = self._read(job_id) if self.is_live(job_id) else None
        except (OSError, NodeFault):
            return None
        if told is None:
            return None
        job = self._job(told)
        return job if cgroup.owner_of(job_id, {told.node, *job.here}, self._sysfs) in (told.uid, None) else None

    def knows(self, job_id: str) -> bool | None:
        """As squeue says."""
        return self.control.knows(job_id)

    def job_of(self, pid: int, sessions: Sequence[int]) -> str:
        """By the cgroups that the kernel says it is in."""
        try:
            steps = cgroup.steps_of(cgroup.paths_of(pid))
        except OSError:
            return ""
        jobs = {step.job for step in steps.values()}
        return jobs.pop() if len(jobs) == 1 else ""

    def submitted(self, script: bytes) -> bytes:
        """Less the line that the TaskProlog has put in front."""
        first, _, rest = script.partition(b"\n")
        return rest if first.startswith(b"#!") and first.endswith(b"/hooks/slurm/run") else script

    def shell_chosen(self, uid: int, argv: Sequence[str], job_file: str) -> bool:
        """Always: the script is executed, and its first line names the interpreter."""
        return True

    def chooses_shell(self, script: bytes) -> bool:
        """By no line of Slurm's own."""
        return False

    def task_client(self) -> tuple[ClientTool | None, str]:
        """srun, and the other commands."""
        try:
            return self._clients.find()
        except OSError as error:
            return None, f"srun cannot be given to containers: {error}"

    def adopts(self) -> tuple[str, str]:
        """By a move into the step's cgroups, which needs no program but slurmd's own plugins."""
        if unified.is_here(self._sysfs) and not unified.has_pids(self._sysfs):
            return "", (
                "this host's cgroup version 2 has no controller of processes (pids): containers of Slurm jobs are not"
                " started, as nothing would limit their processes; leave it out of the kernel's cgroup_disable"
            )
        return "cgroup.procs", ""

    def heeds_errors(self) -> tuple[bool | None, str]:
        """By HealthCheckProgram."""
        settings = self.control.settings()
        if settings is None:
            return None, "slurmctld gives no answer to scontrol show config"
        program = settings.get("healthcheckprogram", "")
        if program.rpartition("/")[2] in ("health-check",):
            return True, f"HealthCheckProgram is {program}"
        return False, f"HealthCheckProgram is {program or 'not set'}: a node that is out of order goes on taking jobs"

    def is_running(self) -> bool:
        """Whether root has a slurmd."""
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if Path(f"/proc/{entry}/comm").read_text() == "slurmd\n" and os.stat(f"/proc/{entry}").st_uid == 0:
                        return True
                except OSError:
                    continue
        return False

    def nodes_here(self, job_id: str) -> frozenset[str]:
        """Those whose Prologs have run here."""
        return prolog_file.nodes_here(self._told, job_id)

    def is_task(self, pid: int) -> bool:
        """By its cgroups."""
        return cgroup.is_task(pid)

    def place_of(self, pid: int, job_id: str, uid: int) -> None:
        """In a step of that job. Raises Refusal, NodeFault."""
        cgroup.steps_of_hook(pid, job_id, uid)

    def take_in(self, first: int, hook: int, job_id: str, uid: int) -> str:
        """Into the cgroups of the run hook's own step. Raises Refusal, NodeFault."""
        return cgroup.take_in(first, hook, job_id, uid, self._sysfs)

    def released(self, job_id: str) -> None:
        """Its cgroups that slurmstepd could not remove, once it has no step any more."""
        try:
            has_step = job_id in self._with_steps()
        except OSError:
            return
        if not has_step:
            cgroup.clear(job_id, self._sysfs)

    def adopters(self, job_id: str, process: int, *, hook: str, has_place: bool) -> list[list[str]]:
        """None."""
        return []

    def adopt(self, first: int, hook: int) -> Adoption:
        """Nothing: :meth:`take_in` has. Signals are for the leader alone, as slurmstepd sends them."""
        return Adoption(told={"leader_alone": "1"})
