"""An agent that stops where it is told to: the installed one, with every step of a job's way wrapped.

Nothing of this is shipped. The steps are not listed here but found: whatever a node holds that is pbsdock's own (its
engine, ledger, cgroups, images, stores and what comes later) has its public methods wrapped, and so have the node's own
and every entry of the teardown's table. A step is the outermost of these calls that a job's request makes; its name is
``PHASE:PART.METHOD#N``, N-th call of that name in the phase. Run with the interpreter and library of an instance, as
its hooks would: ``-I -S launcher.py LIBRARY CONTROL_DIRECTORY NAME --paths FILE``.

The control directory holds ``trace`` (while it exists every step is appended to it), ``boot`` and ``clock`` (what the
agent takes for the boot id, and seconds its clock is off), and ``arm``: one line ``POINT WHEN ACT``, taken once.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path
from types import FunctionType
from typing import Any

LIBRARY, CONTROL = sys.argv[1], Path(sys.argv[2])
sys.path.insert(0, LIBRARY)

from pbsdock.agent import (  # noqa: E402 - found only through the line above
    daemon,
    finish,
    node,
    own_files,
    stage,
    standing,
    start,
    teardown,
    watch,
)
from pbsdock.agent.children import adopt as child_adopt  # noqa: E402
from pbsdock.agent.children import start as child_start  # noqa: E402
from pbsdock.agent.health_flag import HealthFlag  # noqa: E402
from pbsdock.agent.jobs import Jobs  # noqa: E402
from pbsdock.agent.passes import Passes  # noqa: E402
from pbsdock.agent.planning import Planning  # noqa: E402
from pbsdock.agent.pulse import Pulse  # noqa: E402
from pbsdock.agent.requests import root, running  # noqa: E402
from pbsdock.agent.requests.root import RootRequests  # noqa: E402
from pbsdock.agent.requests.users import UserRequests  # noqa: E402
from pbsdock.agent.shim import run as docker_run  # noqa: E402
from pbsdock.agent.shim.dialogue import Dialogue  # noqa: E402
from pbsdock.agent.streams import Streams  # noqa: E402
from pbsdock.config.tables import Config  # noqa: E402
from pbsdock.core.ledger import Ledger  # noqa: E402
from pbsdock.core.paths import Paths  # noqa: E402
from pbsdock.engine.docker import http as engine_http  # noqa: E402
from pbsdock.engine.docker import link as engine_link  # noqa: E402
from pbsdock.events.stream import EventStream  # noqa: E402
from pbsdock.host import pins  # noqa: E402

# What a node holds that does nothing to the world, or only tells of it, or closes what is open.
_PLAIN = (Config, EventStream, HealthFlag, Jobs, Passes, Paths, Planning, Pulse, Streams)
_PATIENCE_S = 60.0
_real_time = time.time


class Here(threading.local):
    """Where this thread is on a job's way."""

    phase = ""
    depth = 0
    job = ""
    asked = 0  # of the engine, in this step
    changed = 0  # of the world, by Python's own audit events
    telling = False  # of itself, which is no step of a job's
    answer = ""  # what becomes of the engine's next answer: "" or "before" or "after"

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()


here = Here()


def _note(line: str) -> None:
    here.telling = True
    try:
        fd = os.open(CONTROL / "trace", os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)
    finally:
        here.telling = False


def _armed(point: str, when: str) -> str:
    """The act that is due here, if any; it is taken once, whoever comes first."""
    here.telling = True
    try:
        text = (CONTROL / "arm").read_text()
        wanted_point, wanted_when, act = text.split()
        if (wanted_point, wanted_when) != (point, when):
            return ""
        os.rename(CONTROL / "arm", CONTROL / "reached")
    except (OSError, ValueError):  # none; or no descriptor is left to look by, which must not become a fault of its own
        return ""
    finally:
        here.telling = False
    return act


def _fault(point: str, when: str) -> None:
    act = _armed(point, when)
    if act == "kill-worker":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "kill-agent":
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "engine-error":
        here.answer = "before"
    elif act == "pause":
        here.telling = True
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                os.rename(CONTROL / "go", CONTROL / "gone")
                break
            except OSError:
                time.sleep(0.005)  # not yet; or no descriptor is left for a look, which is the fault itself
        here.telling = False


def _step(part: str, method: Any) -> Any:
    name = f"{part}.{method.__name__.lstrip('_')}"

    @functools.wraps(method)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if not here.phase or here.depth:
            return method(*arguments, **options)
        here.counts[name] += 1
        # Whether the end of the container or the epilogue is the first to tear down is a matter of milliseconds.
        phase = "release" if name.startswith("release.") else here.phase
        point = f"{phase}:{name}#{here.counts[name]}"
        here.depth, here.asked, here.changed, here.answer = 1, 0, 0, ""
        try:
            _fault(point, "before")
            if _armed(point, "answer"):  # falsified on its way back, so it has to be known now
                here.answer = "after"
            result = method(*arguments, **options)
            if (CONTROL / "trace").exists():
                _note(f"step {point} {here.asked} {here.changed}")
            _fault(point, "after")
            return result
        finally:
            here.depth, here.answer = 0, ""

    wrapped.is_step = True  # type: ignore[attr-defined]
    return wrapped


def _wrap_class(part: str, kind: type) -> None:
    for name, method in list(vars(kind).items()):
        if isinstance(method, FunctionType) and not name.startswith("_") and not hasattr(method, "is_step"):
            setattr(kind, name, _step(part, method))


def _phase(phase: str, function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        here.counts, here.depth, before, here.phase = Counter(), 0, here.phase, phase
        try:
            return function(*arguments, **options)
        finally:
            here.phase = before

    return wrapped


def _wrap_node() -> None:
    made = node.Node.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        for part, value in vars(self).items():
            kind = type(value)
            if kind.__module__.startswith("pbsdock.") and not isinstance(value, _PLAIN):
                _wrap_class(part, kind)

    _wrap_class("ledger", Ledger)  # behind the registry of jobs
    node.Node.__init__ = init  # type: ignore[method-assign]
    for name in ("mark", "unmark"):
        setattr(node.Node, name, _step("node", getattr(node.Node, name)))
    chosen = node.choose

    def choose(*arguments: Any, **options: Any) -> Any:
        backend = chosen(*arguments, **options)
        _wrap_class("cgroups", type(backend))
        return backend

    node.choose = choose
    own_files.write = _step("own_files", own_files.write)
    # The modules' functions that change something of their own; what their threads do has phases of its own.
    for module, names in (
        (pins, ("make", "remove")),
        (stage, ("begin_in", "await_in", "begin_out")),
        (standing, ("begin",)),
        (start, ("_open",)),
        (child_start, ("_own_files", "_open", "remove_files")),
        (child_adopt, ("begin",)),
        (docker_run, ("finish", "kill")),
    ):
        for name in names:
            setattr(module, name, _step(module.__name__.rpartition(".")[2], getattr(module, name)))
    teardown.ACTS = tuple((name, _step(f"release.{name}", act)) for name, act in teardown.ACTS)


_INJECTED = "an error of the engine, injected"


def _wrap_engine() -> None:
    ask, take_over, put = engine_http.Pool.ask, engine_link.take_over, HTTPConnection.putrequest

    def due() -> str:
        here.asked += 1
        when, here.answer = here.answer, ""
        return when

    def asked(self: Any, *arguments: Any) -> tuple[int, bytes]:
        when = due()
        found = ask(self, *arguments) if when != "before" else (0, b"")
        return (500, b'{"message": "%s"}' % _INJECTED.encode()) if when else found

    def taken(*arguments: Any) -> tuple[int, str, socket.socket]:
        when = due()
        found = take_over(*arguments) if when != "before" else (0, "", socket.socket(socket.AF_UNIX))
        return (500, _INJECTED, found[2]) if when else found

    def putrequest(self: Any, *arguments: Any, **options: Any) -> None:
        here.changed += 1  # whom it is said to, and over which kept-alive connection, no audit event tells
        put(self, *arguments, **options)

    engine_http.Pool.ask = asked  # type: ignore[method-assign]
    engine_link.take_over = taken
    HTTPConnection.putrequest = putrequest  # type: ignore[method-assign]


def _wrap_phases() -> None:
    RootRequests.prepare = _phase("prologue", RootRequests.prepare)  # type: ignore[method-assign]
    UserRequests.start = _phase("run", UserRequests.start)  # type: ignore[method-assign]
    RootRequests.release = _phase("epilogue", RootRequests.release)  # type: ignore[method-assign]
    Dialogue.go_on = _phase("child", Dialogue.go_on)  # type: ignore[method-assign]
    standing._make = _phase("stand", standing._make)
    stage._stage_in = _phase("stage-in", stage._stage_in)
    stage._stage_out = _phase("stage-out", stage._stage_out)
    finish._tidy = _phase("tidy", finish._tidy)  # after a stage-out in a thread of its own
    noted = _phase("end", finish.finish)
    for module in (root, running, watch):
        module.finish = noted  # type: ignore[attr-defined]


_CHANGES = frozenset(
    {
        "_thread.start_new_thread",
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.chown",
        "os.chmod",
        "os.truncate",
        "os.posix_spawn",
        "os.fork",
        "subprocess.Popen",
        "socket.connect",
        "socket.bind",
    }
)


def _watch_strays() -> None:
    """Note what a job's request does to the world outside of any step: it would be a step nobody injects into."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not here.phase or here.telling:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in _CHANGES:
            return
        if here.depth:
            here.changed += 1
        elif (CONTROL / "trace").exists():
            _note(f"stray {here.phase} {event} {arguments[:2]!r}")

    sys.addaudithook(hook)


def _wrap_world() -> None:
    boot = node.boot_id
    node.boot_id = lambda: _said("boot") or boot()
    time.time = lambda: _real_time() + float(_said("clock") or 0.0)


_last: dict[str, str] = {}


def _said(name: str) -> str:
    """What it says now; without a descriptor to look by what it said last: asking for the time fails nowhere else."""
    try:
        _last[name] = (CONTROL / name).read_text().strip()
    except FileNotFoundError:
        _last[name] = ""
    except OSError:
        pass
    return _last.get(name, "")


_wrap_node()
_wrap_engine()
_wrap_phases()
_wrap_world()
_watch_strays()
sys.exit(daemon.main(sys.argv[4:]))
