"""``docker wait``, ``stop``, ``kill`` and ``rm``."""

from __future__ import annotations

import signal

from pbsdock.agent import first_process
from pbsdock.agent.children import finish, places
from pbsdock.agent.runs import ChildRun
from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, Until, each, notice, out
from pbsdock.agent.shim.run import signal_number
from pbsdock.core.child import Child
from pbsdock.core.errors import NodeFault
from pbsdock.core.record import Record
from pbsdock.protocol import init
from pbsdock.shim.commands import Kill, Rm, Stop, Wait
from pbsdock.shim.refusal import FAILED


def wait(at: Context, asked: Wait) -> Steps:
    """Print the exit code of each when it is over."""

    def act(_name: str, child: Child) -> Steps:
        running = _run_of(at, child)
        if running is not None:
            yield Until(running)
            yield out(f"{running.ended.number('code') if running.ended else 0}\n")
        else:
            yield out(f"{child.code}\n")
        return 0

    return (yield from each(asked.containers, at.child, act))


def stop(at: Context, asked: Stop) -> Steps:
    """Signal each, and end what is there after its time."""

    def act(name: str, child: Child) -> Steps:
        running = _run_of(at, child)
        if running is not None:
            number = signal_number(asked.signal) if asked.signal else child.stop_signal
            seconds = child.stop_timeout if asked.seconds is None else float(asked.seconds)
            _send(at, child, running, number)
            yield Until(running, None if seconds < 0 else seconds)
            if not running.over.is_set():
                finish.kill(at.node, running)
        yield out(f"{name}\n")
        return 0

    return (yield from each(asked.containers, at.child, act))


def kill(at: Context, asked: Kill) -> Steps:
    """Signal each."""
    number = signal_number(asked.signal)

    def act(name: str, child: Child) -> Steps:
        running = _run_of(at, child)
        if running is not None:
            _send(at, child, running, number)
        yield out(f"{name}\n")
        return 0

    told = "Error: Cannot kill container: {name}: {sentence}"
    return (yield from each(asked.containers, at.running, act, missing=told))


def remove(at: Context, asked: Rm) -> Steps:
    """Forget each; one that runs is ended first, where that is wanted."""

    def act(name: str, child: Child) -> Steps:
        running = _run_of(at, child)
        if running is not None and not asked.force:
            yield notice(
                f"Error: You cannot remove a running container {child.id}. Stop the container before attempting removal"
                " or force remove"
            )
            return FAILED
        if running is not None:
            finish.kill(at.node, running)
        at.node.children.forget(_record(at).name, child.key)
        yield out(f"{name}\n")
        return 0

    return (yield from each(asked.containers, at.child, act, code_of_missing=0 if asked.force else FAILED))


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
