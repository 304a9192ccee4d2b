"""``docker wait``, ``stop``, ``kill`` and ``rm``."""

from __future__ import annotations

import signal

from pbsdock.agent import first_process
from pbsdock.agent.children import finish, places
from pbsdock.agent.runs import ChildRun
from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, Until, notice, out
from pbsdock.agent.shim.run import signal_number
from pbsdock.core.child import Child
from pbsdock.core.errors import NodeFault
from pbsdock.core.record import Record
from pbsdock.protocol import init
from pbsdock.shim.commands import Kill, Rm, Stop, Wait
from pbsdock.shim.refusal import FAILED, ShimRefusal


def wait(at: Context, asked: Wait) -> Steps:
    """Print the exit code of each when it is over."""
    code = 0
    for name in asked.containers:
        try:
            child = at.child(name)
        except ShimRefusal as error:
            yield notice(f"Error: {error.sentence}")
            code = FAILED
            continue
        running = _run_of(at, child)
        if running is not None:
            yield Until(running)
            yield out(f"{running.ended.number('code') if running.ended else 0}\n")
        else:
            yield out(f"{child.code}\n")
    return code


def stop(at: Context, asked: Stop) -> Steps:
    """Signal each, and end what is there after its time."""
    code = 0
    for name in asked.containers:
        try:
            child = at.child(name)
        except ShimRefusal as error:
            yield notice(f"Error: {error.sentence}")
            code = FAILED
            continue
        running = _run_of(at, child)
        if running is not None:
            number = signal_number(asked.signal) if asked.signal else child.stop_signal
            seconds = child.stop_timeout if asked.seconds is None else float(asked.seconds)
            _send(at, child, running, number)
            yield Until(running, None if seconds < 0 else seconds)
            if not running.over.is_set():
                finish.kill(at.node, running)
        yield out(f"{name}\n")
    return code


def kill(at: Context, asked: Kill) -> Steps:
    """Signal each."""
    number = signal_number(asked.signal)
    code = 0
    for name in asked.containers:
        try:
            child = at.running(name)
        except ShimRefusal as error:
            yield notice(f"Error: Cannot kill container: {name}: {error.sentence}")
            code = FAILED
            continue
        running = _run_of(at, child)
        if running is not None and number == signal.SIGKILL:
            finish.kill(at.node, running)
        elif running is not None:
            _send(at, child, running, number)
        yield out(f"{name}\n")
    return code


def remove(at: Context, asked: Rm) -> Steps:
    """Forget each; one that runs is ended first, where that is wanted."""
    code = 0
    for name in asked.containers:
        try:
            child = at.child(name)
        except ShimRefusal as error:
            yield notice(f"Error: {error.sentence}")
            code = code if asked.force else FAILED
            continue
        running = _run_of(at, child)
        if running is not None and not asked.force:
            yield notice(
                f"Error: You cannot remove a running container {child.id}. Stop the container before attempting removal"
                " or force remove"
            )
            code = FAILED
            continue
        if running is not None:
            finish.kill(at.node, running)
        at.node.children.forget(_record(at).name, child.key)
        yield out(f"{name}\n")
    return code


def _record(at: Context) -> Record:
    record = at.asker.record
    assert record is not None  # it has a child
    return record


def _run_of(at: Context, child: Child) -> ChildRun | None:
    """Its run, None if it is over."""
    return None if child.is_over else at.node.jobs.child_run(_record(at).incarnation, child.key)


def _send(at: Context, child: Child, running: ChildRun, number: int) -> None:
    """To the command's session; one that ends meanwhile needs none."""
    if number == signal.SIGKILL:
        finish.kill(at.node, running)
        return
    try:
        place = places.init_dir(at.node, _record(at), child.key)
        first_process.send_signal(place, running.pid, first_process.LEADER, number)
    except (NodeFault, OSError, init.InitError, init.RequestError):
        if running.is_alive():
            raise
