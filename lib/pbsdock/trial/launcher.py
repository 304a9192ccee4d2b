"""The process that forks what pbs_mom would fork: hooks, the job's shell, TM tasks.

A program of its own, run by path with the standard library alone. Between fork and exec a child takes on another
identity, session, limits and descriptors; that is safe in a process of one thread, and in nobody else's. Each request
is one datagram that carries descriptors: a socket for the answers, a file with the specification, the child's own.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import termios
import time
from typing import Any

_ABOVE = 100  # descriptors are first moved above every number a specification can name
_MOST_FDS = 64
_SET_NAME = 15


def in_session(session: int) -> list[int]:
    """The processes of a session, zombies left out."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if len(fields) > 3 and int(fields[3]) == session and fields[0] not in (b"Z", b"X"):
                found.append(int(entry))
    return found


def kill_session(session: int, number: int) -> int:
    """Signal every process of a session, as mom does; returns how many there were."""
    members = in_session(session)
    for pid in members:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return len(members)


def kill_all(*sessions: int) -> None:
    """SIGKILL until nobody is left: a process can fork while its session is being walked."""
    for _ in range(100):
        if not sum(kill_session(session, signal.SIGKILL) for session in sessions):
            return
        time.sleep(0.005)


class _Child:
    """One child, from fork to the answer that tells its end."""

    def __init__(self, pid: int, answers: socket.socket, witness: str | None) -> None:
        self.pid = pid
        self.answers = answers
        self.witness = witness
        self.pidfd = os.pidfd_open(pid)

    def tell(self, fds: list[int] | None = None, **message: object) -> None:
        """Send an answer; an asker that is gone is ignored."""
        try:
            socket.send_fds(self.answers, [json.dumps(message).encode()], fds or [])
        except OSError:
            pass

    def ended(self) -> None:
        """Collect the exit status and report it."""
        _, status, used = os.wait4(self.pid, 0)
        self.tell(
            status=os.waitstatus_to_exitcode(status),
            ended=time.monotonic(),
            cpu=used.ru_utime + used.ru_stime,
            peak_kib=used.ru_maxrss,
        )
        os.close(self.pidfd)
        self.answers.close()

    def abandon(self) -> None:
        """Kill the child's session, because the asker is gone."""
        kill_all(self.pid)
        if self.witness:
            try:
                os.unlink(self.witness)
            except OSError:
                pass


def _say(text: str) -> None:
    try:
        os.write(2, text.encode(errors="surrogateescape"))
    except OSError:
        pass


def _arrange(spec: dict[str, Any], high: list[int]) -> None:
    """Become what *spec* describes: session, descriptors, limits, identity, directory."""
    os.setsid()
    for target, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        null = os.open("/dev/null", flags | os.O_CLOEXEC)
        if null != target:
            os.dup2(null, target, inheritable=True)
    for target, index in spec["fds"]:
        os.dup2(high[index], target, inheritable=True)
    for target in spec["closed"]:
        os.close(target)
    signal.pthread_sigmask(signal.SIG_BLOCK, spec["blocked"])
    if spec["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for name, value in spec["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    os.umask(spec["umask"])
    os.setgroups(spec["groups"])
    os.setresgid(spec["gid"], spec["gid"], spec["gid"])
    os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    try:
        os.chdir(spec["cwd"])
    except OSError as error:
        _say(f"PBS: chdir to '{spec['cwd'][:256]}' failed: {error.strerror}\n")
        raise


def _fork_demux(kept: list[int]) -> None:
    """What a job of several nodes finds beside it: pbs_demux, a child it never started (``src/resmom/pbs_demux.c``)."""
    parent = os.getpid()
    if os.fork() == 0:
        for fd in range(3, max(_ABOVE, *kept)):
            if fd not in kept:
                try:
                    os.close(fd)
                except OSError:
                    continue
        os.closerange(_ABOVE, _ABOVE + _MOST_FDS * 2)
        import ctypes  # here alone: it would cost every start of the launcher

        ctypes.CDLL(None).prctl(_SET_NAME, b"pbs_demux", 0, 0, 0)
        while os.getppid() == parent:
            time.sleep(10)
        os._exit(0)


def _child(spec: dict[str, Any], fds: list[int], status: int) -> None:
    """What the child does; never returns."""
    try:
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in fds]
        status = fcntl.fcntl(status, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
        _arrange(spec, high)
        if spec["hold"] is not None and not os.read(high[spec["hold"]], 1):
            os._exit(254)
        os.write(status, json.dumps({"began": time.monotonic()}).encode())
    except OSError as error:
        os.write(status, json.dumps({"error": str(error)}).encode())
        os._exit(254)
    if spec["demux"]:
        _fork_demux([target for target, _ in spec["fds"]])
    try:
        os.execve(spec["program"], spec["argv"], dict(spec["env"]))
    except OSError as error:
        _say(spec["complaint"].format(program=spec["program"], why=error.strerror))
        os._exit(spec["failed"])


def _spawn(fds: list[int]) -> _Child:
    answers = socket.socket(fileno=fds[0])
    spec = json.loads(os.pread(fds[1], os.fstat(fds[1]).st_size, 0))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _child(spec, fds[2:], write)
        finally:
            os._exit(254)
    os.close(write)
    child = _Child(pid, answers, spec["witness"])
    child.tell([child.pidfd], pid=pid)
    said = os.read(read, 4096)
    os.close(read)
    for fd in fds[1:]:
        os.close(fd)
    child.tell(**(json.loads(said) if said else {"error": "it ended before it began"}))
    return child


def serve(requests: socket.socket) -> None:
    """Fork on request and report each end, until the asker is gone; then kill what still runs."""
    children: dict[int, _Child] = {}
    poller = select.poll()
    poller.register(requests, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd != requests.fileno():
                poller.unregister(fd)
                children.pop(fd).ended()
                continue
            message, fds, _, _ = socket.recv_fds(requests, 16, _MOST_FDS)
            if not message:
                for child in children.values():
                    child.abandon()
                return
            for passed in fds:
                os.set_inheritable(passed, False)
            child = _spawn(fds)
            children[child.pidfd] = child
            poller.register(child.pidfd, select.POLLIN)


def _plain_signals() -> None:
    """Signals as every child is to have them; set once here, since a child inherits them."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        ignored = number == signal.SIGPIPE  # by mom, in whatever it starts (observed)
        try:
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # the C library keeps two for itself
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


if __name__ == "__main__":
    _plain_signals()
    main_socket = socket.socket(fileno=int(sys.argv[1]))
    main_socket.set_inheritable(False)
    gc.freeze()  # a child shares the pages until it execs
    serve(main_socket)
