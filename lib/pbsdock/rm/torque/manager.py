"""Torque's pbs_mom on this node, as :class:`pbsdock.rm.base.ResourceManager` wants it."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pbsdock.core.errors import BadValue
from pbsdock.core.pathrules import ClosedPaths
from pbsdock.rm import client_tools
from pbsdock.rm.base import Adoption, ClientTool, Ended, ResourceManager
from pbsdock.rm.torque import server, settings, tools
from pbsdock.rm.torque import sessions as moms_sessions
from pbsdock.rm.torque.args import parse_epilogue_argv, parse_prologue_argv
from pbsdock.rm.torque.facts import LiveJob, Prologue
from pbsdock.rm.torque.ids import parse_job_id
from pbsdock.rm.torque.jobfile import JobFile
from pbsdock.rm.torque.live import JobFiles
from pbsdock.rm.torque.words import WORDS

_SHELL_LINE = re.compile(rb"^#PBS[ \t](?:.*[ \t])?-S", re.MULTILINE)
_SCRIPT = 7  # of a prologue's arguments
_JOB_FILE_S = 5.0  # how long mom's file of a job that has just begun is waited for
_LOOK_AGAIN_S = 60.0  # for pbs_track, where there is none


class Torque(ResourceManager):
    """*mom_priv* is mom's private directory, *node* this host's own name, *client_dir* where the site keeps
    Torque's client programs, "" where they are usually.

    Many methods because ResourceManager has as many."""

    prepares_at_start = False
    moves_tasks = False
    holds_children = True
    polite_end_ms = 600_000  # a script's own trap; pbs_mom's kill delay is shorter

    def __init__(self, mom_priv: Path, node: str, *, client_dir: str = "", files: JobFiles | None = None) -> None:
        self.words = WORDS
        self.closed = ClosedPaths(guarded=(str(mom_priv.parent),), sealed=(str(mom_priv),))
        self._node = node
        self._spool = mom_priv.parent
        self._jobs = mom_priv / "jobs"
        self._client_dir = client_dir
        self._pbs_track, self._looked_at = "", float("-inf")
        self._files = files or JobFiles(self._jobs)

    def job_id(self, text: str) -> str:
        """``12.server`` and the like. Raises BadValue."""
        return parse_job_id(text).text

    def announced(self, argv: Sequence[str], env: Mapping[str, str]) -> Prologue:
        """From the prologue's arguments. Raises BadValue."""
        return Prologue(parse_prologue_argv(argv), env, self._node, self._spool)

    def ended(self, argv: Sequence[str], env: Mapping[str, str]) -> Ended:
        """From the epilogue's arguments; whatever the others are, the first is enough. On a sister the exit status in
        them is always 0 (observed), and counts for nothing. Raises BadValue."""
        job_id = self.job_id(argv[0] if argv else "")
        if env.get("PBS_NODENUM", "0") != "0":
            return Ended(id=job_id, exit_status=None)
        try:
            return Ended(id=job_id, exit_status=parse_epilogue_argv(argv).exit_status)
        except BadValue:
            return Ended(id=job_id, exit_status=None)

    def named(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """The first argument."""
        return argv[0] if argv else ""

    def script_named(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """The prologue's last argument, which an older mom leaves out."""
        return argv[_SCRIPT] if len(argv) > _SCRIPT else ""

    def submitted(self, script: bytes) -> bytes:
        """As it is."""
        return script

    def live(self) -> frozenset[str]:
        """The names of mom's .JB files. Raises OSError."""
        return frozenset(name for name in os.listdir(self._jobs) if name.endswith(".JB"))

    def is_live(self, job_id: str) -> bool:
        """By its .JB, looked for once. Raises BadValue, OSError."""
        parsed = parse_job_id(job_id)
        os.stat(self._jobs)
        return self._files.find(parsed) is not None

    def knows(self, job_id: str) -> bool | None:
        """As qstat says."""
        return server.knows(tools.find("qstat", self._client_dir), job_id)

    def find(self, job_id: str, *, waits: bool = True) -> LiveJob | None:
        """By its .JB, which may come a moment after the job's shell. Raises BadValue."""
        parsed = parse_job_id(job_id)
        pause, deadline = 0.001, time.monotonic() + (_JOB_FILE_S if waits else 0.0)
        while (found := self._files.find(parsed)) is None and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.32)
        return LiveJob(*found, self._node, self._spool, self._jobs) if found else None

    def job_of(self, pid: int, sessions: Sequence[int]) -> str:
        """By the sessions in .JB and .TK, the shell's first: mom writes both a moment after it has begun."""
        pause, deadline = 0.005, time.monotonic() + _JOB_FILE_S
        while True:
            files = self._files.all()
            shells = ((file.job_id.text, frozenset({file.session_id or 0})) for file in files)
            tasks = ((file.job_id.text, self._tasks_of(file)) for file in files)
            if found := moms_sessions.first_of(sessions, shells) or moms_sessions.first_of(sessions, tasks):
                return found
            if all(file.session_id for file in files) or time.monotonic() >= deadline:
                return ""
            time.sleep(pause)
            pause = min(2 * pause, 0.32)

    def _tasks_of(self, file: JobFile) -> frozenset[int]:
        job_id = file.job_id
        return moms_sessions.read_tasks(self._jobs / f"{job_id.file_prefix}.TK", job_id.text)

    def shell_chosen(self, uid: int, argv: Sequence[str], job_file: str) -> bool:
        """Whether it was asked for with qsub -S, or is not the login shell Torque takes otherwise."""
        try:
            login = pwd.getpwuid(uid).pw_shell
        except KeyError:
            return True
        if len(argv) != 1 or argv[0] != login:
            return True
        try:
            return b"<Shell_Path_List" in (self._jobs / job_file).read_bytes()
        except OSError:
            return False  # the .JB of a one-node job may not be written yet (observed)

    def chooses_shell(self, script: bytes) -> bool:
        """Whether a ``#PBS`` line has the option -S."""
        return _SHELL_LINE.search(script) is not None

    def task_client(self) -> tuple[ClientTool | None, str]:
        """Torque's pbsdsh."""
        if found := tools.find("pbsdsh", self._client_dir):
            return client_tools.look_at(found)
        where = (
            f"in torque.client_dir, {self._client_dir}" if self._client_dir else "in the usual places or beside pbs_mom"
        )
        return None, f"pbsdsh is not {where}"

    def adopts(self) -> tuple[str, str]:
        """By pbs_track, looked for anew."""
        if found := tools.find("pbs_track", self._client_dir):
            return found, ""
        where = f"in torque.client_dir, {self._client_dir}" if self._client_dir else "in the usual places"
        beside = (
            "" if self._client_dir else f", nor beside {' or '.join(tools.moms_prefixes()) or 'a pbs_mom that runs'}"
        )
        return "", (
            f"pbs_track is not {where}{beside}: Torque counts no CPU time and memory of containers as the job's, and"
            " suspending a job does not stop its container; install Torque's client programs, or name their directory"
            " in torque.client_dir"
        )

    def heeds_errors(self) -> tuple[bool | None, str]:
        """By qmgr."""
        return settings.heeds_errors(self._client_dir)

    def is_running(self) -> bool:
        """Whether root has a pbs_mom."""
        return bool(tools.moms_prefixes())

    def is_idle(self, job_id: str) -> bool:
        """Never: mom's file is there as long as the job."""
        return False

    def nodes_here(self, job_id: str) -> frozenset[str]:
        """One mom a host, by its name."""
        return frozenset({self._node})

    def is_task(self, pid: int) -> bool:
        """Nothing tells."""
        return False

    def place_of(self, pid: int, job_id: str, uid: int) -> None:
        """Not asked: no task is moved."""

    def take_in(self, first: int, hook: int, job_id: str, uid: int) -> str:
        """Nowhere: Torque counts sessions, see :meth:`adopt`."""
        return ""

    def released(self, job_id: str) -> None:
        """Nothing."""

    def adopters(self, job_id: str, process: int, *, hook: str, has_place: bool) -> list[list[str]]:
        """By pbs_track, as the run hook does it: mom files an adopted task in the place of the newest one it has
        started, which would be the job's shell, so a task by pbsdsh takes one first (:mod:`pbsdock.hook.adopt`)."""
        tracker = self.adopt(0, 0).told.get("pbs_track", "")
        if not tracker:
            return []
        starter = str(Path(tracker).with_name("pbsdsh"))
        if not has_place and not os.access(starter, os.X_OK):
            return []
        tasks = [] if has_place else [[starter, "-n", "0", hook]]
        return [*tasks, [tracker, "-j", job_id, "-a", str(process)]]

    def adopt(self, first: int, hook: int) -> Adoption:
        """By pbs_track, which mom obeys for the job's owner only: the run hook starts it."""
        if not os.access(self._pbs_track, os.X_OK) and time.monotonic() - self._looked_at > _LOOK_AGAIN_S:
            self._pbs_track, self._looked_at = tools.find("pbs_track", self._client_dir), time.monotonic()
        if self._pbs_track:
            return Adoption(told={"pbs_track": self._pbs_track})
        where = self._client_dir or "the usual places, nor beside pbs_mom; torque.client_dir names another"
        return Adoption(told={"pbs_track": ""}, skipped=f"pbs_track is not in {where}")
