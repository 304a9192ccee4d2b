"""Start a job as its run hook asks: the waiting container is compared with the plan, its gate opened, its run hook let
in, which then has the job's command run by the container's first process."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pbsdock.agent import door, first_process, late_grant, standing, task_tools, work_dir
from pbsdock.agent.attached import start_attached
from pbsdock.agent.container_root import looking
from pbsdock.agent.directories import check_workdir
from pbsdock.agent.node import Node
from pbsdock.agent.preflight import Command, checked, image_as_met
from pbsdock.agent.prepare import ASKED
from pbsdock.agent.runs import JobRun, Run
from pbsdock.agent.stand import Standing
from pbsdock.agent.starting import REMOVED_S, call_of, deliver, discard, limits_of, note_start
from pbsdock.agent.verify import close_devices, wrong_with
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.record import Record, State
from pbsdock.core.ticket import VARIABLE
from pbsdock.engine import spec as container
from pbsdock.engine.base import Rlimits
from pbsdock.host.process import Caller
from pbsdock.protocol import init, wire


@dataclass(frozen=True, slots=True)
class Admission:
    """What a run hook is given: a descriptor, its receiver's to close, and fields of the answer."""

    fd: int
    told: Mapping[str, list[bytes]]


class _Over(Exception):
    """The waiting container ended meanwhile."""


def start_job(node: Node, record: Record, request: wire.Message, caller: Caller) -> tuple[JobRun, Admission]:
    """Start the job; returns it running, and what its run hook needs.

    Raises Refusal for what the user can mend, NodeFault otherwise. Nothing is left behind then and the job is as ready
    as before, unless the engine is away, which is told and left to the release.
    """
    began = time.monotonic()
    late_grant.apply(node, record)
    plan, bound = record.planned, list(record.facts.bound)
    call = call_of(node, record, request)
    if plan.stage_in and plan.workdir:
        check_workdir(plan, bound)
    call, bound = work_dir.at_start(record, call, node.rm.words)
    if len(bound) != len(record.facts.bound):
        record.note(bound=tuple(bound))
    limits = limits_of(caller)
    if not record.facts.first_process:
        node.remove_container(record.container_name, REMOVED_S)  # of a start in which the agent was lost
        run, stream = start_attached(node, record, call, limits, began)
        return run, Admission(stream.detach(), {})
    try:
        pid, command, within = _at_the_gate(node, record, call, bound, limits, caller, began)
    except BaseException:
        discard(node, record)
        raise
    assert command is not None
    run = JobRun(record=record, pid=pid, pid_start=record.facts.pid_start)
    node.jobs.add(run)
    return run, _admission(node, record, first_process.LEADER, command, within)


def start_for_tasks(node: Node, record: Record, caller: Caller) -> None:
    """Let tasks into a container where the job has no command of its own, as on a sister; *caller* is the first one's
    run hook, whose limits are the manager's. Raises Refusal, NodeFault; the job is as ready as before then."""
    began = time.monotonic()
    record.note(tasks_only=True)
    try:
        limits = limits_of(caller)
        pid, _command, _within = _at_the_gate(node, record, None, record.facts.bound, limits, caller, began)
    except BaseException:
        discard(node, record)
        raise
    node.jobs.add(JobRun(record=record, pid=pid, pid_start=record.facts.pid_start))


def start_again(node: Node, record: Record, request: wire.Message, caller: Caller) -> tuple[Run, Admission]:
    """For a run hook whose agent was lost before it answered: its command has not been asked for, or once.

    Raises Refusal.
    """
    run = node.jobs.job_run(record.incarnation)
    if run is None or not record.facts.first_process:
        raise Refusal("agent-lost", "the pbsdock agent of this node was lost while it started the job; submit it again")
    call = call_of(node, record, request)
    limits = limits_of(caller)
    return run, admit(node, run, first_process.LEADER, command_for(node, record, call, run.pid), limits)


def admit(node: Node, run: Run, name: str, command: Command, limits: Rlimits) -> Admission:
    """Let a run hook have *command* run by that *name*. Raises NodeFault."""
    try:
        within = first_process.within(run.record.facts.pid, limits)
    except OSError:
        raise NodeFault("first-process", "the job's container is over") from None
    return _admission(node, run.record, name, command, within)


def _admission(
    node: Node, record: Record, name: str, command: Command, within: Mapping[int, tuple[int, int]]
) -> Admission:
    """Raises NodeFault."""
    try:
        fd = first_process.open_directory(node.init_dir(record))
    except OSError:
        raise NodeFault("first-process", "the job's container is over") from None
    return Admission(
        fd,
        {
            "name": [name.encode()],
            "argv": [os.fsencode(word) for word in command.argv],
            "env": [os.fsencode(f"{variable}={value}") for variable, value in command.environment.items()],
            "directory": [os.fsencode(command.directory)],
            "limit": [b"%d %d %d" % (number, soft, hard) for number, (soft, hard) in within.items()],
        },
    )


def command_for(node: Node, record: Record, call: container.Call, pid: int) -> Command:
    """What *call* comes to in the container of first process *pid*. Raises NodeFault if that is over."""
    try:
        return _command(node, record, call, pid)
    except OSError:
        raise NodeFault("first-process", "the job's container is over") from None


def _at_the_gate(
    node: Node,
    record: Record,
    call: container.Call | None,
    bound: Sequence[Bound],
    limits: Rlimits,
    caller: Caller,
    began: float,
) -> tuple[int, Command | None, Mapping[int, tuple[int, int]]]:
    """The first process, what it is to run, and the limits it was opened with. Raises Refusal, NodeFault."""
    for _attempt in (1, 2):
        # Minted since the prologue, and needed only now: the gateway's time is hidden behind everybody else's.
        deliver(node, record, record.planned)
        waiting = standing.take(node, record, bound)
        try:
            command, within = _open(node, record, call, waiting, limits, caller)
        except (_Over, OSError, NodeFault) as error:
            if waiting.is_ready:
                if isinstance(error, NodeFault):
                    raise
                sentence = f"the container's first process cannot be looked at: {error}"
                raise NodeFault("first-process", sentence) from None
            node.jobs.drop_standing(record)
            continue  # an engine that was restarted has ended it
        is_terminal = call is not None and call.tty
        note_start(node, record, waiting.container, waiting.pid, tty=is_terminal, began=began)
        return waiting.pid, command, within
    raise NodeFault("first-process", "the container's first process ended before the job began")


def _open(
    node: Node, record: Record, call: container.Call | None, waiting: Standing, limits: Rlimits, caller: Caller
) -> tuple[Command | None, Mapping[int, tuple[int, int]]]:
    """Compare, check, let in. Raises _Over, OSError if it ended meanwhile; Refusal, NodeFault."""
    plan, pid = record.planned, waiting.pid
    with first_process.connected(node.init_dir(record), pid) as connection:
        wrong = wrong_with(pid, plan, waiting.bound, node.cgroups, record.cgroup)
        if wrong is None:
            raise _Over
        if not wrong and not first_process.is_program_of(pid, first_process.program(node.paths)):
            wrong = "its first process is not pbsdock's"
        if wrong:
            node.emit("container.mismatch", record, level="error", container=waiting.container, reason=wrong)
            raise NodeFault("container-mismatch", f"the container was stopped before the job began: {wrong}")
        close_devices(pid)
        command = None if call is None else _runnable(node, record, call, waiting)
        hold = init.HOLD_NONE if not node.rm.moves_tasks else init.HOLD_TASKS if command else init.HOLD_ALL
        # Where only tasks come the first process outlives the steps: it stays in the job's cgroup of pbsdock's own.
        if hold != init.HOLD_ALL and (counted_in := node.rm.take_in(pid, caller.pid, record.job_id, record.uid)):
            record.note(counted_in=counted_in)
        within = first_process.within(pid, limits)
        first_process.open_gate(connection, within, hold)
    return command, within


def _runnable(node: Node, record: Record, call: container.Call, waiting: Standing) -> Command:
    """What *call* comes to in the waiting container. Raises OSError if that is over, Refusal for what cannot be run."""
    plan, command = record.planned, _command(node, record, call, waiting.pid)
    targets = [mount.target for mount in waiting.bound] + [tmpfs.target for tmpfs in plan.tmpfs]
    with looking(waiting.pid) as look:
        image = image_as_met(plan, look, command.environment, targets)
        return checked(plan, call, command, record.facts.image, image)


def _command(node: Node, record: Record, call: container.Call, pid: int) -> Command:
    """Raises OSError if the first process is over."""
    plan = record.planned
    own = (pair.partition("=") for pair in container.environment(plan, call, record.facts.image))
    ticket = {VARIABLE: record.facts.ticket} if record.facts.ticket else {}
    if node.rm.moves_tasks and record.facts.on_demand and not record.facts.mother and len(record.facts.asked) < ASKED:
        ticket["PBSDOCK"] = record.facts.asked  # for the steps that are started from in here
    chosen = {**first_process.environment_of(pid), **{name: value for name, _, value in own}, **ticket}
    return Command(
        argv=call.argv,
        environment=door.environment(record, task_tools.environment(node, record, chosen)),
        directory=container.working_directory(plan, call, record.facts.bound),
    )


def is_of_leader(record: Record, request: wire.Message) -> bool:
    """Whether a request that is made again, since its agent was lost, is for the job's own command."""
    return record.state is State.RUNNING and request.text("tasknum") in ("", "1")
