"""How mom runs a hook: which it accepts, with what, how long, and what its exit code means.

``run_pelog`` in Torque's ``src/resmom/prolog.c``; descriptors, umask and groups were observed.
"""

from __future__ import annotations

import os
import select
import signal
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pbsdock.trial.environment import for_hooks
from pbsdock.trial.launcher import kill_session
from pbsdock.trial.process import Process, Spec, spawn
from pbsdock.trial.request import Job
from pbsdock.trial.spool import Spool

# Torque's own -1 and -4, moved out of the way of signal numbers.
NOT_RUN = -1001  # status of a hook that mom refuses to run
TIMED_OUT = -1004  # status of a hook killed at its alarm
_MARGIN = 10.0  # mom kills this much before a longer alarm
_HOLD_MS = 200  # how long a hook's descendants may take to close what they got from mom
_AS_USER = ("prologue.user", "epilogue.user")


def alarm(seconds: float) -> float:
    """When mom's alarm really fires."""
    return seconds - _MARGIN if seconds > _MARGIN else seconds


def accepted(path: Path, *, as_user: bool) -> bool:
    """Whether mom runs this file: root's, regular, readable and executable, and nobody else's to write."""
    found = path.stat()
    needed = stat.S_IRUSR | stat.S_IXUSR | (stat.S_IROTH | stat.S_IXOTH if as_user else 0)
    return (
        found.st_uid == 0
        and stat.S_ISREG(found.st_mode)
        and found.st_mode & needed == needed
        and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def status_of(process: Process, alarm_s: float, kill_again_s: float) -> int | None:
    """Wait for a hook's end, and kill its session at the alarm."""
    if not process.ended(alarm_s):
        kill_session(process.pid, signal.SIGKILL)
        if not process.ended(kill_again_s):
            kill_session(process.pid, signal.SIGKILL)
            process.ended(kill_again_s)
        return TIMED_OUT
    return process.returncode


class Hooks:
    """The hooks of one mom_priv, run for one job."""

    def __init__(self, spool: Spool, job: Job, alarm_s: float, kill_again_s: float) -> None:
        self.spool = spool
        self.job = job
        self.alarm_s = alarm(alarm_s)
        self.kill_again_s = kill_again_s
        self.last: Process | None = None
        self.pipes: dict[str, int] = {}  # reading ends of what a hook's descendants may hold

    def run(self, name: str, arguments: Sequence[str], terminal: int | None = None) -> int | None:
        """Run a hook to its end. Returns its status, negative for a signal; None if there is none."""
        path = self.spool.mom_priv / name
        as_user = name in _AS_USER
        try:
            if not accepted(path, as_user=as_user):
                return NOT_RUN
        except FileNotFoundError:
            return None
        process = self.last = self._start(path, arguments, terminal, as_user=as_user)
        return status_of(process, self.alarm_s, self.kill_again_s)

    def job_descriptors(self, stack: ExitStack, terminal: int | None) -> dict[int, int]:
        """Those of the job itself; 9 to 14 are mom's, and stay open in everything the job starts."""
        upward = _pipe(stack)
        self._watch("run", upward[0])
        if terminal is not None:
            return {0: terminal, 1: terminal, 2: terminal, 13: upward[1]}
        out, err = self._outputs(stack)
        script, downward = _pipe(stack), _pipe(stack)
        os.write(script[1], f"{self.spool.script}\n".encode())  # its end comes with the stack's
        return {
            0: script[0],
            1: out,
            2: err,
            9: script[0],
            10: downward[0],
            11: downward[0],
            12: out,
            13: err,
            14: upward[1],
        }

    def held(self) -> tuple[str, ...]:
        """The hooks whose descendants still hold mom's descriptors: a real mom's pipes would never close."""
        names = []
        for name, fd in list(self.pipes.items()):
            poller = select.poll()
            poller.register(fd, 0)  # a hang-up is always reported
            if not poller.poll(_HOLD_MS):
                names.append(name)
            self.forget(name)
        return tuple(names)

    def _start(self, path: Path, arguments: Sequence[str], terminal: int | None, *, as_user: bool) -> Process:
        entry, before = self.job.entry, path.name.startswith("prologue")
        with ExitStack() as stack:
            fds = self._before(path.name, stack, terminal) if before else self._after(stack)
            return spawn(
                Spec(
                    program=str(path),
                    argv=[str(path), *arguments],
                    env=for_hooks(self.job),
                    cwd=entry.pw_dir if as_user else str(self.spool.mom_priv),
                    umask=0o077 if before else 0o022,
                    uid=entry.pw_uid if as_user else 0,
                    gid=entry.pw_gid if as_user else 0,
                    groups=self.job.groups,
                    fds=fds,
                )
            )

    def _before(self, name: str, stack: ExitStack, terminal: int | None) -> dict[int, int]:
        """A prologue's descriptors: the spool files or the terminal, and 9 to 14 left over from mom."""
        out, err = self._outputs(stack)
        script, downward, upward = (_pipe(stack) for _ in range(3))
        self._watch(name, upward[0])
        shown = (out, err) if terminal is None else (terminal, terminal)
        return {
            1: shown[0],
            2: shown[1],
            9: script[0],
            10: downward[0],
            11: downward[0],
            12: out,
            13: err,
            14: upward[1],
        }

    def _after(self, stack: ExitStack) -> dict[int, int]:
        """An epilogue's: the spool files, but nothing of an interactive job's terminal (/dev/null)."""
        out, err = self._outputs(stack)
        return {10: out, 11: err} if self.job.interactive else {1: out, 2: err, 10: out, 11: err}

    def _outputs(self, stack: ExitStack) -> tuple[int, int]:
        return append(self.spool.out, stack), append(self.spool.err, stack)

    def _watch(self, name: str, reading: int) -> None:
        self.forget(name)
        self.pipes[name] = os.dup(reading)

    def forget(self, name: str) -> None:
        """Stop to watch the pipe of a hook."""
        fd = self.pipes.pop(name, None)
        if fd is not None:
            os.close(fd)


def append(path: Path, stack: ExitStack) -> int:
    """A descriptor on a spool file; without O_CREAT, which the kernel may refuse in a directory anyone can write to."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _pipe(stack: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    stack.callback(os.close, read)
    stack.callback(os.close, write)
    return read, write
