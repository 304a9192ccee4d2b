"""Start a job whose command is the container's first process: the engine starts it and passes on its streams.

The way without a first process of our own (:mod:`pbsdock.agent.start`), for sites that choose it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from functools import partial

from pbsdock.agent.call import without_bytes
from pbsdock.agent.launch import cause_in_image, first_program, last_words, launch, launch_error, no_program
from pbsdock.agent.node import Node
from pbsdock.agent.pinning import pinned
from pbsdock.agent.programs import Cause
from pbsdock.agent.runs import JobRun
from pbsdock.agent.standing import made_for
from pbsdock.agent.starting import deliver, discard, note_start
from pbsdock.agent.verify import close_devices, wrong_with
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record
from pbsdock.engine import spec as container
from pbsdock.engine.base import ContainerSpec, Rlimits
from pbsdock.host.process import await_execution

_OVER_S = 2.0  # between the end of a first process and the engine's word on it
_BROKEN = (126, 127)  # ld.so(8) ends with 127
_NOT_EXECUTED = (1, 126, 127, 255)  # what runc ends with after an execve(2) that failed: 1 in 1.1, 255 since


def start_attached(
    node: Node, record: Record, call: container.Call, rlimits: Rlimits, began: float
) -> tuple[JobRun, socket.socket]:
    """Create and start the job's container; returns it running and its attach stream.

    Raises Refusal for what the user can mend, NodeFault otherwise. Nothing is left behind then and the job is as ready
    as before, unless the engine is away, which is told and left to the release.
    """
    plan, bound = record.planned, record.facts.bound
    call, lost = without_bytes(call)
    if lost:
        node.emit("env.dropped", record, names=",".join(lost)[:500])
    stream = None
    try:
        with pinned(node, node.paths.pins / record.name, plan, bound) as held:
            stream, identifier = _launch(node, record, plan, call, held, rlimits)
            pid = _verified(node, record, plan, identifier, bound)
            if not pid:
                spec = _spec(node, record, plan, call, held, rlimits, True)
                _refuse_unrunnable(node, record, plan, call, spec, identifier, stream)
        note_start(node, record, identifier, pid, tty=call.tty, began=began)
    except BaseException:
        if stream is not None:
            stream.close()
        discard(node, record)
        raise
    run = JobRun(record=record, pid=pid, pid_start=record.facts.pid_start)
    node.jobs.add(run)
    return run, stream


def _launch(
    node: Node, record: Record, plan: Plan, call: container.Call, held: Sequence[Bound], rlimits: Rlimits
) -> tuple[socket.socket, str]:
    spec = partial(_spec, node, record, plan, call, held, rlimits)

    def unrunnable(program: str) -> Refusal:
        cause = cause_in_image(node.engine, record.container_name, spec(True), program)
        return no_program(plan, call, program, cause)

    return launch(
        node.engine,
        record.container_name,
        spec,
        # Minted since the prologue, and needed only now: the gateway's time is hidden behind everybody else's.
        before_start=lambda: deliver(node, record, plan),
        failed=lambda error: launch_error(error, plan, node.name),
        no_program=unrunnable,
    )


def _refuse_unrunnable(
    node: Node,
    record: Record,
    plan: Plan,
    call: container.Call,
    spec: ContainerSpec,
    identifier: str,
    stream: socket.socket,
) -> None:
    """runc starts a program whose loader or interpreter is missing, or that is another machine's, and only then has
    execve(2) fail. Raises Refusal where a first process that is over at once was none for that reason, or was a shell
    that ended before it was given the job's script, as one does that lacks a library."""
    deadline = time.monotonic() + _OVER_S
    while (found := node.engine.inspect(identifier)) is not None and found.is_running:
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)
    if found is None or found.exit_code not in _NOT_EXECUTED:
        return
    program = first_program(spec)
    cause = cause_in_image(node.engine, record.container_name, spec, program)
    if cause is None and found.exit_code in _BROKEN and not spec.entrypoint and len(call.argv) == 1:
        if words := last_words(stream, tty=spec.tty):
            cause = Cause("program-broken", f"{program} cannot be run; it says: {words}")
    if cause is not None:
        raise no_program(plan, call, program, cause)


def _spec(
    node: Node,
    record: Record,
    plan: Plan,
    call: container.Call,
    held: Sequence[Bound],
    rlimits: Rlimits,
    wrapped: bool,
) -> ContainerSpec:
    return container.for_job(
        plan,
        call,
        bound=held,
        rlimits=rlimits,
        traits=record.facts.image,
        wrapped=wrapped,
        made=made_for(node, record),
    )


def _verified(node: Node, record: Record, plan: Plan, identifier: str, bound: Sequence[Bound]) -> int:
    """Compare what runs with what was planned; returns the first pid, 0 if that is over already: a shell that is no
    shell, whose exit status tells. Raises NodeFault."""
    found = node.engine.inspect(identifier)
    if found is None or found.pid <= 0:
        return 0
    await_execution(found.pid)
    wrong = wrong_with(found.pid, plan, bound, node.cgroups, record.cgroup)
    if wrong is None:
        return 0
    if wrong:
        node.emit("container.mismatch", record, level="error", container=identifier, reason=wrong)
        raise NodeFault("container-mismatch", f"the container was stopped before the job began: {wrong}")
    try:
        close_devices(found.pid)
    except OSError:
        return 0
    return found.pid
