"""Ask the launcher for processes, and follow them. Safe in a program of many threads: nothing is forked here."""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbsdock.trial import launcher

_MESSAGE = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A process as mom would make it. ``fds``: the child's number to ours; what is not named is closed or /dev/null."""

    program: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    umask: int
    uid: int
    gid: int
    groups: Sequence[int]
    fds: Mapping[int, int]
    limits: Mapping[str, int] = field(default_factory=dict)  # names as in RLIMIT_AS, without the prefix
    terminal: bool = False  # descriptor 0 becomes the controlling terminal
    witness: str | None = None  # removed if we die first: a .JB says that the job is alive
    closed: Sequence[int] = ()  # descriptors, of 0 to 2, that the child does not even have as /dev/null
    blocked: Sequence[int] = ()  # signals
    demux: bool = False  # a child of its own beside the program, as pbs_demux is
    complaint: str = "execv of {program} failed: {why}\n"
    failed: int = 255  # exit code when the program cannot be executed


class Process:
    """A child of the launcher, leader of its own session; the methods are those of ``subprocess.Popen``."""

    def __init__(self, answers: socket.socket, *, elsewhere: bool = False) -> None:
        """*elsewhere*: the launcher is in a PID namespace of its own."""
        self._answers = answers
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.error: str | None = None  # why it never came to its program
        self.began = self.ended_at = time.monotonic()
        self.cpu_seconds = 0.0
        self.peak_kib = 0
        first, fds = self._receive()
        self._pidfd = fds[0]
        os.set_inheritable(self._pidfd, False)
        self.pid_there = int(first["pid"])
        self.pid = _pid_here(self._pidfd) if elsewhere else self.pid_there  # -1 if it is over already

    def _receive(self, flags: int = 0) -> tuple[dict[str, Any], list[int]]:
        fds = array.array("i")
        # Not socket.recv_fds: it drops the flags it is given.
        data, extra, _, _ = self._answers.recvmsg(_MESSAGE, socket.CMSG_LEN(fds.itemsize), flags)
        if not data:
            raise RuntimeError("the process that stands for pbs_mom has died; its jobs are ended")
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content)
        return json.loads(data), list(fds)

    def started(self) -> None:
        """Wait until the child has become its program."""
        answer, _ = self._receive()
        self.began = float(answer.get("began", self.began))
        self.error = answer.get("error")

    def ended(self, seconds: float | None = None) -> bool:
        """Wait up to *seconds* (None: for ever) for the end."""
        if self.returncode is not None:
            return True
        poller = select.poll()
        poller.register(self._answers, select.POLLIN)
        poller.poll(None if seconds is None else max(0.0, seconds * 1000))
        with self._lock:
            if self.returncode is None:
                try:
                    answer, _ = self._receive(socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return False
                self.ended_at, self.cpu_seconds = float(answer["ended"]), float(answer["cpu"])
                self.peak_kib = int(answer["peak_kib"])
                self.returncode = int(answer["status"])
        return True

    def poll(self) -> int | None:
        """The exit code if it has ended, negative for a signal; else None."""
        return self.returncode if self.ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        if not self.ended(timeout):
            raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal this process alone, never one that has inherited its number."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    @property
    def seconds(self) -> float:
        """From just before the program was executed to its end."""
        return self.ended_at - self.began

    @property
    def torque_status(self) -> int:
        """The exit status as Torque writes it: 256 + n for signal n."""
        code = self.wait()
        return code if code >= 0 else 256 - code

    def __del__(self) -> None:
        pidfd = getattr(self, "_pidfd", None)
        if pidfd is not None:
            os.close(pidfd)


def _pid_here(pidfd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.removeprefix("Pid:"))
    return -1


class _Launcher:
    """One launcher for each process that tries jobs, started when first needed."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.owner = os.getpid()
        self.requests = ours
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(launcher.__file__)), str(theirs.fileno())],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                start_new_session=True,
            )

    def alive(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None


_current: _Launcher | None = None
_lock = threading.Lock()


def _launcher() -> _Launcher:
    global _current
    with _lock:
        if _current is None or not _current.alive():
            _current = _Launcher()
        return _current


def spawn(
    spec: Spec, before: Callable[[int], None] | None = None, launcher_there: socket.socket | None = None
) -> Process:
    """Start a process. *before* is called with its pid while it still waits to execute its program.

    *launcher_there* is the socket of the launcher of an emulated node; None: here.
    """
    fds = list(dict.fromkeys(spec.fds.values()))
    gate = os.pipe() if before else None
    passed = [*fds, gate[0]] if gate else fds
    body = {
        "program": spec.program,
        "argv": list(spec.argv),
        "env": list(spec.env.items()),
        "cwd": spec.cwd,
        "umask": spec.umask,
        "uid": spec.uid,
        "gid": spec.gid,
        "groups": list(spec.groups),
        "fds": [(target, fds.index(ours)) for target, ours in spec.fds.items()],
        "limits": dict(spec.limits),
        "terminal": spec.terminal,
        "witness": spec.witness,
        "closed": list(spec.closed),
        "blocked": list(spec.blocked),
        "demux": spec.demux,
        "complaint": spec.complaint,
        "failed": spec.failed,
        "hold": len(fds) if gate else None,
    }
    try:
        process = _request(body, passed, launcher_there)
        if before and gate:
            before(process.pid)
            os.write(gate[1], b"x")
    finally:
        for fd in gate or ():
            os.close(fd)
    process.started()
    return process


def _request(body: Mapping[str, object], fds: Sequence[int], there: socket.socket | None) -> Process:
    """A memory file carries the specification: an environment can be larger than any datagram."""
    answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, open(os.memfd_create("pbsdock-trial"), "wb") as file:
        file.write(json.dumps(body).encode())
        file.flush()
        requests = there or _launcher().requests
        socket.send_fds(requests, [b"spawn"], [theirs.fileno(), file.fileno(), *fds])
    return Process(answers, elsewhere=there is not None)
