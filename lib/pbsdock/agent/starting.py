"""What every start of a job's container has in common, whoever starts its command: the call, limits, the record."""

from __future__ import annotations

import time
from dataclasses import replace

from pbsdock.agent.call import read_call
from pbsdock.agent.node import Node, ms_since
from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.core.facts import uptime
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record, State
from pbsdock.engine import spec as container
from pbsdock.engine.base import EngineError, Rlimits
from pbsdock.host.process import Caller, start_time
from pbsdock.protocol import wire

REMOVED_S = 10.0


def call_of(node: Node, record: Record, request: wire.Message) -> container.Call:
    """What the run hook of a job's own command asks for."""
    call = read_call(request, node.rm.words.choose_shell)
    facts = record.facts
    return replace(
        call,
        shell_chosen=node.rm.shell_chosen(record.uid, call.argv, facts.job_file) or facts.script_names_shell,
        interpreter=facts.interpreter,
        env_finds=facts.env_finds,
    )


def limits_of(caller: Caller) -> Rlimits:
    """The run hook's limits as the kernel holds them: a user's process can lower but not raise them.

    Raises Refusal where the process that asked is no longer there, whose number may be root's by now; NodeFault.
    """
    try:
        with open(f"/proc/{caller.pid}/limits", encoding="ascii") as file:
            found = container.parse_limits(file.read())
        is_theirs = caller.is_still_there()
    except (OSError, ValueError) as error:
        raise NodeFault("no-limits", f"the run hook's limits cannot be read: {error}") from None
    if not is_theirs:
        raise Refusal("run-hook-gone", "the run hook that asked for the job's start is gone; nothing was started")
    return found


def deliver(node: Node, record: Record, plan: Plan) -> None:
    """Put the job's credentials where the container has them, unless they are there. Raises NodeFault."""
    if not plan.stores or record.facts.credentials:
        return
    try:
        node.stores.deliver(record, plan, node.store_dir(record))
    except OSError as error:
        raise NodeFault("credentials-not-delivered", f"the job's credentials cannot be written: {error}") from None


def note_start(node: Node, record: Record, identifier: str, pid: int, *, tty: bool, began: float) -> None:
    """Write down what runs, before it is given anything to run. Raises NodeFault."""
    record.container_id = identifier
    now = time.time()
    record.note(pid=pid, pid_start=start_time(pid), tty=tty, started_at=now, alive_at=uptime())
    try:
        record.advance(State.RUNNING, container=identifier, pid=pid, phase="run", ms=ms_since(began))
    except OSError as error:
        raise NodeFault("record-not-written", f"the job was stopped before it began: its record: {error}") from None


def discard(node: Node, record: Record) -> None:
    """Remove the container of a start that failed, which an engine may have made although it gave no answer."""
    record.container_id = None
    record.note(started_at=None)
    try:
        node.remove_container(record.container_name, REMOVED_S)
    except (HookError, EngineError) as error:  # the release, or the reaper, tries again
        node.emit("release.failed", record, level="warning", reason=f"container: {error}", phase="run")
