"""A job from its prologue to its epilogue, in mom's order."""

from __future__ import annotations

import fcntl
import os
import pty
import pwd
import signal
import struct
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pbsdock.core.waiting import readable
from pbsdock.trial import environment, node_check
from pbsdock.trial.hooks import NOT_RUN, TIMED_OUT, Hooks, append
from pbsdock.trial.launcher import kill_all, kill_session
from pbsdock.trial.process import Process, Spec, spawn
from pbsdock.trial.request import ABORT, NOT_JOINED, REQUEUE, Outcome, Request, mom_config, resolve
from pbsdock.trial.spool import Spool

_DELIVERIES = 2  # mom walks the session two to four times for one signal (observed)
_NO_SHELL = "PBS: exec of shell '{program}' failed\n"


class Trial:
    """One job under way. ``finish`` or ``result`` must be called; all methods may be called from any thread.

    Many methods because this is all that tests, bench and ``pbsdock try`` see of a job: a property for each of mom's
    files, and a method for each of mom's steps, so that a test can stop between any two.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.config = mom_config(request.mom_priv)
        self.job = resolve(request, self.config)
        self.spool = Spool(request.mom_priv, self.job, join=request.join)
        alarm_s = request.prologue_alarm_s
        if alarm_s is None:
            alarm_s = float(self.config.get("prologalarm", "300"))
        self.hooks = Hooks(self.spool, self.job, alarm_s, request.kill_again_s)
        self.leader: Process | None = None
        self.tasks: list[Process] = []
        self.terminal: int | None = None  # master of an interactive job's terminal
        self.slave: int | None = None
        self.screen = bytearray()
        self.seconds: dict[str, float] = {}
        self.prologue_status: int | None = None
        self.started = 0
        self._task_lock = threading.Lock()
        self._outcome: Outcome | None = None

    @property
    def job_id(self) -> str:
        """The job id as Torque writes it."""
        return self.job.id.text

    @property
    def entry(self) -> pwd.struct_passwd:
        """The user's passwd entry."""
        return self.job.entry

    @property
    def groups(self) -> tuple[int, ...]:
        """All the user's groups, the login group included."""
        return self.job.groups

    @property
    def script_path(self) -> Path:
        """The .SC file."""
        return self.spool.script

    @property
    def job_file(self) -> Path:
        """The .JB file."""
        return self.spool.job_file

    @property
    def nodefile(self) -> Path:
        """The PBS_NODEFILE."""
        return self.spool.nodefile

    @property
    def out_path(self) -> Path:
        """The job's stdout while it runs."""
        return self.spool.out

    @property
    def err_path(self) -> Path:
        """The job's stderr while it runs."""
        return self.spool.err

    # -- hooks --------------------------------------------------------------------------------------------------

    def prepare_files(self) -> None:
        """Make mom's files, and the terminal of an interactive job."""
        self.spool.make(self.request.script)
        if self.job.interactive and self.terminal is None:
            self.terminal, self.slave = pty.openpty()
            size = struct.pack("4H", *self.request.window, 0, 0)
            fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
            os.fchown(self.slave, self.job.entry.pw_uid, self.job.entry.pw_gid)

    def _hook(self, name: str, arguments: Sequence[str]) -> int | None:
        if self.request.bare:
            return None
        status = self.hooks.run(name, arguments, self.slave)
        if status is not None and self.hooks.last is not None:
            self.seconds[name] = self.hooks.last.seconds
        return status

    def _arguments(self) -> list[str]:
        return [self.job_id, self.job.entry.pw_name, self.job.group, self.job.name]

    def prologue(self) -> int | None:
        """Run prologue, then prologue.user as the user; the first failure counts. None: neither exists."""
        arguments = [*self._arguments(), self.job.resource_text, self.job.queue, "", str(self.spool.script)]
        status = self._hook("prologue", arguments)
        if exit_status(status, interactive=False) is None:
            second = self._hook("prologue.user", arguments)
            status = second if second is not None else status
        self.prologue_status = status
        return status

    def epilogue(self, status: int) -> int | None:
        """Run epilogue.user as the user, then epilogue; returns the latter's status, which mom only logs."""
        leader = self.leader
        arguments = [
            *self._arguments(),
            str(leader.pid if leader else 0),
            self.job.resource_text,
            self._used(),
            self.job.queue,
            "",
            str(status),
            str(self.spool.script),
        ]
        self._hook("epilogue.user", arguments)
        return self._hook("epilogue", arguments)

    def _used(self) -> str:
        """resources_used; a job that never ran has none."""
        if self.leader is None:
            return ""
        cpu = int(self.leader.cpu_seconds)
        wall = int(self.seconds.get("run", 0))
        return (
            f"cput={_clock(cpu)},vmem={self.leader.peak_kib}kb,walltime={_clock(wall)},mem={self.leader.peak_kib}kb,"
            "energy_used=0"
        )

    # -- the job ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the job's shell as the user, through the job starter if mom's config names one."""
        starter = self._starter()
        shell = self.job.shell
        name = f"-{os.path.basename(shell)}" if self.request.login and not starter else shell
        began = time.monotonic()
        with ExitStack() as stack:
            self.leader = spawn(
                self._spec(
                    [*starter, name],
                    shell,
                    environment.for_job(self.job),
                    self.hooks.job_descriptors(stack, self.slave),
                    terminal=self.job.interactive,
                    demux=len(self.job.placement) > 1,
                ),
                before=self.spool.record,
            )
        self.started = max(1, self.started)
        self.seconds["start"] = began

    def _starter(self) -> list[str]:
        starter = None if self.request.bare else self.config.get("job_starter")
        return [starter] if starter else []

    def _spec(
        self,
        argv: Sequence[str],
        program: str,
        env: Mapping[str, str],
        fds: Mapping[int, int],
        *,
        terminal: bool = False,
        demux: bool = False,
    ) -> Spec:
        starter, entry = self._starter(), self.job.entry
        return Spec(
            program=starter[0] if starter else program,
            argv=argv,
            env=env,
            cwd=self.job.variables.get("PBS_O_INITDIR", entry.pw_dir),
            umask=self.request.umask,
            uid=entry.pw_uid,
            gid=entry.pw_gid,
            groups=self.job.groups,
            fds=fds,
            limits=self.job.limits,
            terminal=terminal,
            witness=str(self.spool.job_file),
            demux=demux,
            complaint=_NO_SHELL,
            failed=254,
        )

    def tm_spawn(self, argv: Sequence[str], env: Mapping[str, str] | None = None, stdout: int | None = None) -> Process:
        """Start a TM task on this node, as pbsdsh does; output goes to the job's own unless *stdout* is given."""
        with self._task_lock, ExitStack() as stack:
            if stdout is None:
                fds = {1: append(self.spool.out, stack), 2: append(self.spool.err, stack)}
            else:
                fds = {1: stdout, 2: stdout}
            full = environment.for_task(self.job, len(self.tasks) + 2, env or {})
            task = spawn(self._spec([*self._starter(), *argv], argv[0], full, fds))
            self.tasks.append(task)
        return task

    def task(self, argv: Sequence[str], stdout: int) -> Process:
        """``tm_spawn`` with nothing asked for."""
        return self.tm_spawn(argv, stdout=stdout)

    @property
    def leader_pid(self) -> int:
        """The process id of the job's shell, which is the job's session id too."""
        assert self.leader is not None, "the job has not been started"
        return self.leader.pid

    # -- signals ------------------------------------------------------------------------------------------------

    def _sessions(self) -> list[int]:
        return [process.pid for process in (self.leader, *self.tasks) if process is not None]

    def signal(self, number: int) -> None:
        """Signal every process of the job's sessions, more than once, as mom's walks do."""
        for _ in range(_DELIVERIES):
            for session in self._sessions():
                kill_session(session, number)

    def qdel(self) -> None:
        """TERM to the sessions; KILL to the rest as soon as the leader is gone, or after the kill delay."""
        assert self.leader is not None
        self.signal(signal.SIGTERM)
        self.leader.ended(self.request.kill_delay_s)
        self._kill_rest()

    def _kill_rest(self) -> None:
        kill_all(*self._sessions())

    # -- the end ------------------------------------------------------------------------------------------------

    def wait(self) -> int:
        """Wait for the leader; returns the exit status as Torque records it. Walltime is enforced."""
        assert self.leader is not None
        limit = self.job.resources.walltime if self.request.enforce_walltime else None
        if not self.leader.ended(limit):
            with ExitStack() as stack:
                message = f"=>> PBS: job killed: walltime {limit} exceeded limit {limit}\n"
                os.write(append(self.spool.err, stack), message.encode())
            self.qdel()
        status = self.leader.torque_status
        self.seconds.pop("start", None)
        self.seconds["run"] = self.leader.seconds
        self._kill_rest()
        return ABORT if self.leader.error else status

    def finish(self, status: int, node_down: str | None = None) -> Outcome:
        """Run the epilogue and only then hand out the output and remove mom's files."""
        if self._outcome is not None:
            return self._outcome
        epilogue_status = self.epilogue(status)
        stdout, stderr = self.spool.output()
        held = self.hooks.held()
        self.spool.remove()
        if self.job.interactive:
            stdout = self._last_words()
        self._outcome = Outcome(
            job_id=self.job_id,
            exit_status=status,
            stdout=stdout,
            stderr=stderr,
            held=held,
            prologue_status=self.prologue_status,
            epilogue_status=epilogue_status,
            seconds=self.seconds,
            started=self.started,
            session_id=self.leader.pid if self.leader else None,
            node_down=node_down,
        )
        return self._outcome

    def result(self) -> Outcome:
        """Wait for the job's end and finish it, unless its prologue has ended it already."""
        return self._outcome or self.finish(self.wait())

    def _last_words(self) -> bytes:
        """Close the terminal; returns all that was written to it."""
        if self.slave is not None:
            os.close(self.slave)
        if self.terminal is not None:
            while readable(self.terminal, 0.0):
                try:
                    self.screen += os.read(self.terminal, 65536)
                except OSError:  # nobody has the other end any more
                    break
            os.close(self.terminal)
        self.slave = self.terminal = None
        return bytes(self.screen)

    def verdict(self) -> int | None:
        """All that comes before the job's shell; the job's exit status if that ends it, else None."""
        return exit_status(self.prologue(), interactive=self.job.interactive)

    def begin(self) -> Outcome | None:
        """Prologue and start, again after a requeue as often as the request says; an Outcome if it never started."""
        while True:
            self.started += 1
            self.prepare_files()
            verdict = self.verdict()
            if verdict is None:
                self.start()
                return None
            if not self.request.bare:
                self.spool.record(None, verdict)
            outcome = self.finish(verdict, node_check.down(self.config, self.request.mom_priv))
            if verdict not in (REQUEUE, NOT_JOINED) or outcome.node_down or self.started >= self.request.requeue_limit:
                return outcome
            self._outcome = None


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def exit_status(status: int | None, *, interactive: bool) -> int | None:
    """The job's exit status after a prologue's *status*; None if the job runs.

    A prologue that died of a signal counts as one that succeeded: mom looks at its exit code alone (observed).
    """
    if status is None or status == 0 or (status < 0 and status not in (NOT_RUN, TIMED_OUT)):
        return None
    return ABORT if status == 1 or interactive else REQUEUE


def start(request: Request) -> Trial:
    """Take one job as far as its running shell. If the prologue ended it, ``result`` has the outcome at once."""
    trial = Trial(request)
    trial.begin()
    return trial


def run_job(request: Request) -> Outcome:
    """Run one job from prologue to epilogue."""
    return start(request).result()
