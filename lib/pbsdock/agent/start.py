"""Start a job's container as its run hook asks: pinned, launched, compared with the plan, written down."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pbsdock.agent import late_grant, work_dir
from pbsdock.agent.call import read_call
from pbsdock.agent.directories import check_workdir
from pbsdock.agent.launch import cause_in_image, first_program, last_words, launch, launch_error, no_program
from pbsdock.agent.node import Node, ms_since
from pbsdock.agent.pinning import pinned
from pbsdock.agent.programs import Cause
from pbsdock.agent.runs import JobRun
from pbsdock.agent.shell import waited_for
from pbsdock.agent.verify import wrong_with
from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.core.facts import Bound, uptime
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record, State
from pbsdock.engine import spec as container
from pbsdock.engine.base import ContainerSpec, EngineError, Rlimits
from pbsdock.host.process import Caller, await_execution, start_time
from pbsdock.protocol import wire

_REMOVED_S = 10.0
_OVER_S = 2.0  # between the end of a first process and the engine's word on it
_BROKEN = (126, 127)  # ld.so(8) ends with 127
_NOT_EXECUTED = (1, 126, 127, 255)  # what runc ends with after an execve(2) that failed: 1 in 1.1, 255 since


def start_job(node: Node, record: Record, request: wire.Message, caller: Caller) -> tuple[JobRun, socket.socket]:
    """Create and start the job's container; returns it running and its attach stream.

    Raises Refusal for what the user can mend, NodeFault otherwise. Nothing is left behind then and the job is as ready
    as before, unless the engine is away, which is told and left to the release.
    """
    began = time.monotonic()
    late_grant.apply(node, record)
    plan, bound = record.planned, list(record.facts.bound)
    call = _call(node, record, request)
    if plan.stage_in and plan.workdir:
        check_workdir(plan, bound)
    call, bound = work_dir.at_start(record, call, node.rm.words)
    if len(bound) != len(record.facts.bound):
        record.note(bound=tuple(bound))
    rlimits = _rlimits(caller)
    stream = None
    try:
        with pinned(node, node.paths.pins / record.name, plan, bound) as held:
            stream, identifier = _launch(node, record, plan, call, held, rlimits)
            pid = _verified(node, record, plan, identifier, bound)
            if not pid:
                spec = _spec(node, record, plan, call, held, rlimits, True)
                _refuse_unrunnable(node, record, plan, call, spec, identifier, stream)
        _note_start(node, record, identifier, pid, tty=call.tty, began=began)
    except BaseException:
        if stream is not None:
            stream.close()
        record.container_id = None
        _discard(node, record)
        raise
    run = JobRun(record=record, pid=pid, pid_start=record.facts.pid_start)
    node.jobs.add(run)
    return run, stream


def _call(node: Node, record: Record, request: wire.Message) -> container.Call:
    call, lost = read_call(request, node.rm.words.choose_shell)
    facts = record.facts
    call = replace(
        call,
        shell_chosen=node.rm.shell_chosen(record.uid, call.argv, facts.job_file) or facts.script_names_shell,
        interpreter=facts.interpreter,
        env_finds=facts.env_finds,
    )
    if lost:
        node.emit("env.dropped", record, names=",".join(lost)[:500])
    return call


def _note_start(node: Node, record: Record, identifier: str, pid: int, *, tty: bool, began: float) -> None:
    """Write down what runs, before it is given its script. Raises NodeFault."""
    record.container_id = identifier
    now = time.time()
    record.note(
        pid=pid, pid_start=start_time(pid), tty=tty, waited_for=waited_for(pid), started_at=now, alive_at=uptime()
    )
    try:
        record.advance(State.RUNNING, container=identifier, pid=pid, phase="run", ms=ms_since(began))
    except OSError as error:
        raise NodeFault("record-not-written", f"the job was stopped before it began: its record: {error}") from None


def _discard(node: Node, record: Record) -> None:
    """Remove the container of a start that failed, which an engine may have made although it gave no answer."""
    record.note(started_at=None)
    try:
        node.remove_container(record, _REMOVED_S)
    except (HookError, EngineError) as error:  # the release, or the reaper, tries again
        node.emit("release.failed", record, level="warning", reason=f"container: {error}", phase="run")


def discard_half_started(node: Node, record: Record, request: wire.Message) -> None:
    """Make room for a second start, asked for because the agent, or the engine with its streams, was lost in the first.

    A shell that takes the script from its standard input has not got it: that stream went with them. Any other
    command may have begun, and must not run twice. Raises Refusal.
    """
    if record.state is State.READY and node.engine.inspect(record.container_name) is None:
        return
    running = node.jobs.job_run(record.incarnation)
    began = record.state is not State.READY and (running is None or not running.awaits_script())
    if began or len(request.raw("argv")) != 1:
        raise Refusal("agent-lost", "the pbsdock agent of this node was lost while it started the job; submit it again")
    if running is not None:
        with running.lock:
            running.ended, running.channel = wire.Message("again"), None  # its end is nobody's news
        running.over.set()
        node.jobs.drop(running)
    node.remove_container(record, _REMOVED_S)
    if record.state is State.RUNNING:
        record.advance(State.READY)


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
        before_start=lambda: _deliver(node, record, plan),
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
        image_id=record.image_id or "",
        bound=held,
        own_files=record.facts.own_files,
        cgroup_parent=node.cgroups.cgroup_parent(record.cgroup),
        labels=node.labels(record),
        rlimits=rlimits,
        traits=record.facts.image,
        hostname=node.name,
        wrapped=wrapped,
        runtime=node.config.engine.runtime,
    )


def _deliver(node: Node, record: Record, plan: Plan) -> None:
    if not plan.stores or record.facts.credentials:
        return
    try:
        node.stores.deliver(record, plan, node.store_dir(record))
    except OSError as error:
        raise NodeFault("credentials-not-delivered", f"the job's credentials cannot be written: {error}") from None


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
    return found.pid


def _rlimits(caller: Caller) -> dict[str, tuple[int, int]]:
    """The run hook's limits as the kernel holds them: a user's process can lower but not raise them.

    Raises Refusal where the process that asked is no longer there, whose number may be root's by now.
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
