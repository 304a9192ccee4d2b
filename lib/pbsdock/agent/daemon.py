"""Become a daemon that owes nothing to whoever started it, supervise the agent, restart it when it dies.

The starter is a hook of some job, so everything a child inherits has to be shed: supplementary groups, umask, limits,
descriptors, environment, working directory, session, OOM score, signal mask and dispositions, and the cgroups it was
started in (else the end of that job, or a restart of mom's unit, takes the agent along).
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from pbsdock.agent.service import Service
from pbsdock.core.paths import Paths, load
from pbsdock.protocol.link import pings

_RESTART_PAUSE_S = 0.2
_FAST_DEATHS = 20
_TAKE_OVER_S = 15.0
# A killed process keeps its lock until its last thread has ended, which a disk may hold up for seconds. Longer than a
# hook waits until it starts another agent (hook/client.py), so that there is always somebody to take the lock.
_ENDING_S = 5.0


def shed(paths: Paths, *, foreground: bool = False) -> None:
    """Drop what the starting process bequeathed. Raises OSError only where going on would be unsafe."""
    os.setgroups([])
    os.umask(0o077)
    os.chdir("/")
    os.environ.clear()
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", LANG="C.UTF-8", HOME="/root")
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                continue
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is somebody to read the configuration again
    if not foreground:  # a service manager has put us where we belong
        _leave_cgroups()
    for name in ("AS", "DATA", "RSS", "CPU", "FSIZE", "NPROC", "STACK"):
        kind = getattr(resource, f"RLIMIT_{name}")
        try:
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            continue
    wanted = max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        Path("/proc/self/oom_score_adj").write_text("-900")
    except OSError:
        pass  # an unprivileged container around us may forbid it; the agent works all the same
    paths.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)


def _leave_cgroups() -> None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        if kind not in ("cgroup", "cgroup2"):
            continue
        try:
            (Path(fields[4]) / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            continue  # under systemd's delegation the root may be closed; its own unit is then the right place


def close_descriptors(keep: int) -> None:
    """Close everything from 3 on but *keep* and put /dev/null on the standard three."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    top = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, keep)
    os.closerange(keep + 1, min(top, 1 << 20))


def take_lock(paths: Paths) -> int | None:
    """Lock the instance for this process and its children; None if another agent holds it."""
    paths.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(paths.state_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _take_over(paths: Paths) -> int | None:
    """End the agent a hook has started while the service was down: systemd's socket is the door now, and who knocks
    there would wait for ever. Its jobs run on. None if it does not go."""
    try:
        pid = int((paths.run_dir / "agent.pid").read_text())
        if b"pbsdock.agent.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        pass  # it has ended this moment
    return _lock_within(paths, _TAKE_OVER_S)


def _lock_within(paths: Paths, seconds: float, unless: Callable[[], bool] = lambda: False) -> int | None:
    """The lock, waited for: an agent that was killed a moment ago may still be ending. None if it is kept that long, or
    *unless* holds."""
    deadline = time.monotonic() + seconds
    while (lock := take_lock(paths)) is None and time.monotonic() < deadline and not unless():
        time.sleep(0.05)
    return lock


def main(argv: list[str] | None = None) -> int:
    """``--paths FILE [--foreground]``: start the agent; returns at once when it went to the background."""
    arguments = sys.argv[1:] if argv is None else argv
    paths = load(Path(arguments[arguments.index("--paths") + 1]))
    foreground = "--foreground" in arguments
    if os.getuid() != 0:
        sys.stderr.write("pbsdock-agent: must be started as root\n")
        return 1
    if command := _in_force(paths):
        os.execv(command, [command, *(["--foreground"] if foreground else [])])
    if not foreground and os.fork():
        return 0
    service = Service.take(os.environ, os.getpid()) if foreground else Service()
    if not foreground:
        os.setsid()
    shed(paths, foreground=foreground)
    if (lock := take_lock(paths)) is None:
        answers = partial(pings, str(paths.socket), 1.0)
        lock = _take_over(paths) if foreground else _lock_within(paths, _ENDING_S, answers)
    if lock is None:
        return 0 if not foreground else 3
    (paths.run_dir / "agent.pid").write_text(f"{os.getpid()}\n")
    if foreground:
        return _serve(paths, service)
    close_descriptors(lock)
    return _supervise(paths, lock)


def _in_force(paths: Paths) -> str | None:
    """The agent's command of the version in force, if that is not this one: a hook that began before an upgrade would
    otherwise start an agent of the old version after it, for good."""
    home = os.path.realpath(paths.prefix / "current")
    command = f"{home}/bin/pbsdock-agent"
    return command if home != os.path.realpath(paths.home) and os.access(command, os.X_OK) else None


def _supervise(paths: Paths, lock: int) -> int:
    deaths = 0
    worker = 0

    def hang_up(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            if worker:
                os.kill(worker, number)

    signal.signal(signal.SIGHUP, hang_up)
    while True:
        began = time.monotonic()
        # Held back until it is known whom to hand it on to, and the worker knows what to do with it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        child = worker = os.fork()
        if child == 0:
            # The worker dies with its supervisor's lock still held by itself: one agent per node either way.
            os.set_inheritable(lock, False)
            os._exit(_serve(paths))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        stop = False

        def pass_on(number: int, _frame: object, child: int = child) -> None:
            nonlocal stop
            stop = True
            try:
                os.kill(child, number)
            except ProcessLookupError:
                pass

        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGINT, pass_on)
        _pid, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if stop or code == 0:
            return 0
        deaths = deaths + 1 if time.monotonic() - began < 10 else 0
        if deaths > _FAST_DEATHS:
            return 1  # the next hook starts it again and tells if it does not answer
        time.sleep(_RESTART_PAUSE_S * (deaths + 1))


def _serve(paths: Paths, service: Service | None = None) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    library = str(paths.lib)
    if library not in sys.path:
        sys.path.insert(0, library)
    from pbsdock.agent.memory import leave_out_unused

    leave_out_unused()
    from pbsdock.agent.server import serve

    return serve(paths, service or Service())


if __name__ == "__main__":
    sys.exit(main())
