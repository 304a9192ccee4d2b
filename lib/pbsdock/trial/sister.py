"""What a sister's pbs_mom does for a job: joins it, starts its tasks, leaves it.

Measured on Torque 6.1 with two nodes: hooks run in mom's own process, so that this node's mom does nothing else
meanwhile; ``prologue.parallel`` has no descriptors but /dev/null, umask 0022 and root's group alone;
``epilogue.parallel`` has stdout and stderr closed, HUP, INT and TERM blocked, and 0 as session and exit status.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pbsdock.trial import environment
from pbsdock.trial.hooks import NOT_RUN, accepted, alarm, append, status_of
from pbsdock.trial.launcher import kill_all, kill_session
from pbsdock.trial.namespaces import EmulatedNode
from pbsdock.trial.process import Process, Spec
from pbsdock.trial.request import Job, Request, mom_config
from pbsdock.trial.spool import Spool, job_file

_UMASK = 0o022
_ROOTS_GROUPS = (0,)
_BLOCKED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_DRAIN_S = 5.0  # how long output of tasks that are over may take


class Sister:
    """A node's part in one job; *number* is its place in the host list, 1 ..."""

    def __init__(self, node: EmulatedNode, request: Request, spool: Spool, number: int) -> None:
        self.node, self.request, self.spool, self.number = node, request, spool, number
        self.job: Job = spool.job
        self.config = mom_config(node.path(request.mom_priv))
        alarm_s = request.prologue_alarm_s
        self.alarm_s = alarm(float(self.config.get("prologalarm", "300")) if alarm_s is None else alarm_s)
        self.tasks: list[Process] = []
        self.prologue_status: int | None = None
        self.epilogue_status: int | None = None
        self.seconds: dict[str, float] = {}
        self.joined = False
        self._relays: list[threading.Thread] = []

    @property
    def job_file(self) -> Path:
        """The sister's own .JB, as a path of this host."""
        return self.node.path(self.spool.job_file)

    @property
    def task_file(self) -> Path:
        """The same for .TK."""
        return self.node.path(self.spool.task_file)

    # -- hooks --------------------------------------------------------------------------------------------------------

    def join(self) -> bool:
        """Run the prologues, then write .JB and .TK; whether the sister has joined the job."""
        with self.node.mom:
            self._make_tmpdir()
            arguments = [*self._names(), self.job.resource_text, self.job.queue, "", str(self.spool.script)]
            status = self._hook("prologue.parallel", arguments)
            if not status:
                second = self._hook("prologue.user.parallel", arguments)
                status = second if second is not None else status
            self.prologue_status = status
            # As on the mother, death by a signal counts as success; a hook that mom refuses or that is late does not.
            self.joined = not status or NOT_RUN < status < 0
            if self.joined:
                self._record()
            else:
                self._purge()
        return self.joined

    def leave(self, *, hooks: bool = True) -> None:
        """Kill the tasks without any grace, run the epilogues, remove the files. *hooks* False: an aborted start."""
        with self.node.mom:  # who comes second waits until the first is done
            if not self.joined:
                return
            self.joined = False
            sessions = [task.pid for task in self.tasks]
            for session in sessions:
                kill_session(session, signal.SIGTERM)
            kill_all(*sessions)
            for relay in self._relays:
                relay.join(_DRAIN_S)
            if hooks:
                arguments = [*self._names(), "0", self.job.resource_text, "", self.job.queue, "", "0"]
                arguments.append(str(self.spool.script))
                self._hook("epilogue.user.parallel", arguments)
                self.epilogue_status = self._hook("epilogue.parallel", arguments)
            self._purge()

    def _names(self) -> list[str]:
        return [self.job.id.text, self.job.entry.pw_name, self.job.group, self.job.name]

    def _hook(self, name: str, arguments: Sequence[str]) -> int | None:
        """Run a hook on this node to its end; its status, None if there is none."""
        path = self.spool.mom_priv / name
        as_user = ".user" in name
        if self.request.bare:
            return None
        try:
            if not accepted(self.node.path(path), as_user=as_user):
                return NOT_RUN
        except FileNotFoundError:
            return None
        entry, before = self.job.entry, name.startswith("prologue")
        process = self.node.spawn(
            Spec(
                program=str(path),
                argv=[str(path), *arguments],
                env=environment.for_hooks(self.job, self.number),
                cwd=entry.pw_dir if as_user else str(self.spool.mom_priv),
                umask=_UMASK,
                uid=entry.pw_uid if as_user else 0,
                gid=entry.pw_gid if as_user else 0,
                groups=_ROOTS_GROUPS if before and not as_user else self.job.groups,
                fds={},
                closed=() if before else (1, 2),
                blocked=() if before else _BLOCKED,
            )
        )
        status = status_of(process, self.alarm_s, self.request.kill_again_s)
        self.seconds[name] = process.seconds
        return status

    # -- tasks --------------------------------------------------------------------------------------------------------

    def spawn(
        self, number: int, slot: int, argv: Sequence[str], asked: Mapping[str, str], outputs: tuple[int, int] | None
    ) -> Process:
        """Start task *number*, which writes to *outputs*, or over TCP to the job's own files as by way of pbs_demux."""
        starter = None if self.request.bare else self.config.get("job_starter")
        entry = self.job.entry
        with self.node.mom, ExitStack() as stack:
            if not self.joined:
                raise RuntimeError(f"{self.node.name} has left the job {self.job.id.text}")
            out, err = outputs or (self._to_job(self.spool.out, stack), self._to_job(self.spool.err, stack))
            task = self.node.spawn(
                Spec(
                    program=starter or argv[0],
                    argv=[*([starter] if starter else []), *argv],
                    env=environment.for_task(self.job, number, asked, node=self.number, slot=slot),
                    cwd=entry.pw_dir,
                    umask=self.request.umask,
                    uid=entry.pw_uid,
                    gid=entry.pw_gid,
                    groups=self.job.groups,
                    fds={1: out, 2: err},
                    limits=self.job.limits,
                    failed=254,
                )
            )
            self.tasks.append(task)
        return task

    def _to_job(self, path: Path, stack: ExitStack) -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        stack.callback(near.close)
        relay = threading.Thread(target=_demux, args=(far, path), daemon=True)
        relay.start()
        self._relays.append(relay)
        return near.fileno()

    # -- files --------------------------------------------------------------------------------------------------------

    def _make_tmpdir(self) -> None:
        if self.job.tmp:
            directory = self.node.path(self.job.tmp)
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)
            os.chown(directory, self.job.entry.pw_uid, self.job.entry.pw_gid)

    def _record(self) -> None:
        """Write .JB, which has no session_id on a sister, and .TK. There is neither a .SC nor a node file."""
        text = job_file(self.job, None, 0, self.spool.start_time, self.number)
        new = self.job_file.with_suffix(".JB.new")
        for path, data, mode in ((new, text, 0o644), (self.task_file, "", 0o600)):
            path.write_text(data)
            path.chmod(mode)
        new.rename(self.job_file)

    def _purge(self) -> None:
        for path in (self.job_file, self.task_file):
            path.unlink(missing_ok=True)
        if self.job.tmp:
            shutil.rmtree(self.node.path(self.job.tmp), ignore_errors=True)


def _demux(stream: socket.socket, path: Path) -> None:
    """Append to a spool file what a task sends, until nobody has the other end any more."""
    with ExitStack() as stack, stream:
        fd = append(path, stack)
        while data := stream.recv(65536):
            os.write(fd, data)
