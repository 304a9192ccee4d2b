"""Start what a run hook asks for: the job's container, or a TM task inside it."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pbsdock.agent import work_dir
from pbsdock.agent.node import Node, ms_since
from pbsdock.agent.runs import JobRun, TaskRun
from pbsdock.agent.shell import waited_for
from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.core.facts import Bound, uptime
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record, State
from pbsdock.engine import spec as container
from pbsdock.engine.base import EngineError, Failure, Rlimits
from pbsdock.host import mounts, pins
from pbsdock.host.process import Caller, alive, start_time, supplementary_groups
from pbsdock.protocol import wire

_PID_S = 2.0
_TASKS, _TASKS_PER_CPU = 64, 4  # of one job at a time: each is an exec, a shim's threads and a dozen descriptors
_ENDING_S = 0.3
_CHANGED = (errno.ESTALE, errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EACCES)
_REMOVED_S = 10.0


def read_call(request: wire.Message, shell_option: str) -> tuple[container.Call, list[str]]:
    """The four things believed of a run hook, and the names of variables the Engine API cannot carry."""
    environment, lost = [], []
    for pair in request.raw("env"):
        name, _, value = pair.partition(b"=")
        try:
            environment.append((name.decode(), value.decode()))
        except UnicodeDecodeError:
            lost.append(name.decode("utf-8", "replace"))
    argv = tuple(one.decode("utf-8", "replace") for one in request.raw("argv"))
    if not argv:
        raise Refusal("no-command", "the run hook was called without a command")
    call = container.Call(
        argv=argv,
        environment=tuple(environment),
        cwd=request.text("cwd", "/"),
        umask=request.number("umask", 0o077),
        tty=bool(request.number("tty")),
        shell_option=shell_option,
    )
    return call, lost


def bounds(record: Record) -> list[Bound]:
    """The resolved mounts of a record."""
    return list(record.facts.bound)


def start_job(node: Node, record: Record, request: wire.Message, caller: Caller) -> tuple[JobRun, socket.socket]:
    """Create and start the job's container; returns it running and its attach stream.

    Raises Refusal for what the user can mend, NodeFault otherwise. Nothing is left behind then and the job is as ready
    as before, unless the engine is away, which is told and left to the release.
    """
    began = time.monotonic()
    plan = record.planned
    call, lost = read_call(request, node.rm.words.choose_shell)
    facts = record.facts
    call = replace(
        call,
        shell_chosen=node.rm.shell_chosen(record.uid, call.argv, facts.job_file) or facts.script_names_shell,
        interpreter=facts.interpreter,
    )
    if lost:
        node.emit("env.dropped", record, names=",".join(lost)[:500])
    bound = bounds(record)
    if plan.stage_in and plan.workdir:
        _check_workdir(plan, bound)
    call, bound = work_dir.at_start(record, call, node.rm.words)
    if len(bound) != len(record.facts.bound):
        record.note(bound=tuple(bound))
    rlimits = _rlimits(caller)
    stream = None
    try:
        with _pinned(node, record, plan, bound) as pinned:
            stream, identifier = _launch(node, record, plan, call, pinned, rlimits)
            pid = _verified(node, record, plan, identifier, bound)
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


def _check_workdir(plan: Plan, bound: Sequence[Bound]) -> None:
    """The directory to work in, which what was staged in may have made. Raises Refusal."""
    user = mounts.User.of(plan)
    if lost := mounts.missing([plan.workdir or "/"], bound, user):
        path, inside = lost
        raise Refusal("no-such-directory", f"{path} does not exist in {inside.source} after files were staged in")


@contextmanager
def _pinned(node: Node, record: Record, plan: Plan, bound: Sequence[Bound]) -> Iterator[list[Bound]]:
    """The mounts with pins, which are there for no longer than the engine needs them.

    Raises Refusal for one that is not what was checked any more.
    """
    directory = node.paths.pins / node.work_dir(record).name
    pins.remove(directory)  # of an agent that was lost while it started the job
    user = mounts.User.of(plan)
    of_root = {one.target for one in plan.mounts if one.origin == "nodefile"}
    try:
        try:
            pinned = pins.make([(one, None if one.target in of_root else user) for one in bound], directory)
        except OSError as error:
            if error.errno not in _CHANGED:
                raise NodeFault("pin-failed", f"{error.filename} cannot be mounted: {error.strerror}") from None
            raise Refusal(
                "mount-changed", f"{error.filename} was exchanged after it had been checked; nothing was started"
            ) from None
        yield pinned
    finally:
        try:
            pins.remove(directory)
        except OSError as error:  # the reaper and the release try again
            node.emit("agent.error", level="error", where="pins", reason=f"{directory.name}: {error}")


def _launch(
    node: Node, record: Record, plan: Plan, call: container.Call, bound: Sequence[Bound], rlimits: Rlimits
) -> tuple[socket.socket, str]:
    """Create, attach, start; a container that was made is the caller's to remove, whatever comes of it.

    An image without /bin/sh gets its command bare, with runc's own umask.
    """
    for wrapped in (True, False):
        spec = container.for_job(
            plan,
            call,
            image_id=record.image_id or "",
            bound=bound,
            own_files=record.facts.own_files,
            cgroup_parent=node.cgroups.cgroup_parent(record.cgroup),
            labels=node.labels(record),
            rlimits=rlimits,
            traits=record.facts.image,
            hostname=node.name,
            wrapped=wrapped,
            runtime=node.config.engine.runtime,
        )
        try:
            identifier = node.engine.create(spec, record.container_name)
        except EngineError as error:
            raise _engine_fault(node, plan, error) from None
        stream = None
        try:
            stream = node.engine.attach(identifier)
            # Minted since the prologue, and needed only now: the gateway's time is hidden behind everybody else's.
            _deliver(node, record, plan)
            node.engine.start(identifier)
            return stream, identifier
        except EngineError as error:
            if stream is not None:
                stream.close()
            if error.failure is not Failure.NO_PROGRAM:
                raise _engine_fault(node, plan, error) from None
            if not wrapped:
                raise Refusal(
                    "no-such-program",
                    f"image {plan.image!r} has no {call.argv[0]} that can be run; choose a shell it has with"
                    f" {call.shell_option}",
                ) from None
            node.engine.remove(identifier)
        except BaseException:
            if stream is not None:
                stream.close()
            raise
    raise AssertionError("unreachable")


def _deliver(node: Node, record: Record, plan: Plan) -> None:
    if not plan.stores or record.facts.credentials:
        return
    try:
        node.stores.deliver(record, plan, node.store_dir(record))
    except OSError as error:
        raise NodeFault("credentials-not-delivered", f"the job's credentials cannot be written: {error}") from None


def _engine_fault(node: Node, plan: Plan, error: EngineError) -> NodeFault | Refusal:
    if error.failure is Failure.IMAGE_GONE:
        return NodeFault("image-gone", f"image {plan.image!r} was removed from {node.name} after it had been checked")
    if error.failure is Failure.NO_NETWORK:
        return Refusal("no-such-network", f"network {plan.network!r} does not exist on {node.name}")
    return NodeFault(
        "engine-error", f"the Docker engine of {node.name} could not start the container: {str(error)[:400]}"
    )


def _verified(node: Node, record: Record, plan: Plan, identifier: str, bound: Sequence[Bound]) -> int:
    """Compare what runs with what was planned, before the script is fed to the shell; returns the first pid."""
    found = node.engine.inspect(identifier)
    pid = found.pid if found is not None else 0
    if pid <= 0:
        return 0  # over already: a shell that is no shell; its exit status tells
    try:
        wrong = None
        if not node.cgroups.contains(record.cgroup, pid):
            wrong = "it is outside of the job's cgroup"
        elif lifted := _lifted(node, record, plan):
            wrong = lifted
        elif supplementary_groups(pid) - {plan.gid} != frozenset(plan.groups) - {plan.gid}:
            wrong = "its supplementary groups are not the job owner's"
        elif target := mounts.mismatch(pid, bound):
            wrong = f"{target} is not what was checked"
    except (FileNotFoundError, ProcessLookupError):
        return 0
    # A process that is ending is in no cgroup any more a moment before it is seen to be over.
    deadline = time.monotonic() + _ENDING_S
    while wrong and time.monotonic() < deadline:
        if not alive(pid):
            return 0
        time.sleep(0.005)
    if wrong:
        node.emit("container.mismatch", record, level="error", container=identifier, reason=wrong)
        raise NodeFault("container-mismatch", f"the container was stopped before the job began: {wrong}")
    return pid


def _lifted(node: Node, record: Record, plan: Plan) -> str | None:
    """Whether the limits were let go since they were set: into a slice that was stopped meanwhile the engine starts a
    container all the same, and makes the slice anew without any (observed)."""
    try:
        node.cgroups.verify(record.cgroup, plan.limits)
    except NodeFault as error:
        return str(error)
    return None


def start_task(node: Node, record: Record, request: wire.Message) -> tuple[TaskRun, socket.socket]:
    """Run a TM task inside the job's container; returns it running and its streams."""
    plan = record.planned
    call, _lost = read_call(request, node.rm.words.choose_shell)
    call, _bound = work_dir.at_start(record, call, node.rm.words, is_running=True)
    rlimits: Rlimits = {}
    most = max(_TASKS, _TASKS_PER_CPU * (os.cpu_count() or 1))
    if node.tasks(record) >= most:
        raise Refusal("too-many-tasks", f"job {record.job_id} has {most} tasks on this node, as many as it may")
    for argv in (container.command(call, rlimits, plan.image, record.facts.image), list(call.argv)):
        identifier = node.engine.exec_create(
            record.container_id or record.container_name,
            argv,
            environment=container.environment(plan, call, record.facts.image),
            uid=plan.uid,
            gid=plan.gid,
            directory=container.working_directory(plan, call, bounds(record)),
            tty=call.tty,
        )
        try:
            stream = node.engine.exec_start(identifier, tty=call.tty)
        except EngineError as error:
            if argv[0] == "/bin/sh" and call.argv[0] != "/bin/sh" and error.failure is Failure.NO_PROGRAM:
                continue
            raise NodeFault("engine-error", f"the task could not be started in the container: {error}") from None
        running = TaskRun(record=record, exec_id=identifier)
        try:
            running.pid = _task_pid(node, identifier)
            running.pid_start = start_time(running.pid)
        except BaseException:
            stream.close()
            raise
        finally:
            node.jobs.add(running)  # and counts until it is over
        node.emit("task.started", record, task=identifier[:12], pid=running.pid)
        return running, stream
    raise NodeFault("engine-error", "the task could not be started in the container")


def _task_pid(node: Node, identifier: str) -> int:
    """The first process of an exec; 0 if it is over already. The engine hands over the streams before there is one."""
    deadline = time.monotonic() + _PID_S
    while time.monotonic() < deadline:
        found = node.engine.exec_inspect(identifier)
        if found.pid or found.exit_code is not None:
            return found.pid
        time.sleep(0.005)
    return 0


def finish_task(node: Node, running: TaskRun) -> bool:
    """Tell the run hook how its task ended; False while it still runs."""
    sentences: list[str] = []
    try:
        found = node.engine.exec_inspect(running.exec_id)
        if found.is_running:
            return False
        code = found.exit_code or 0
    except EngineError:
        code = 137  # the engine forgets every exec when it is restarted
        sentences.append(
            "the Docker engine of this node was restarted while this task ran; its exit status is lost, 137 stands"
            " for it"
        )
    with running.lock:
        if running.ended is not None:
            return True
        running.ended = wire.Message("ended", code=code, sentence=[one.encode() for one in sentences])
    node.emit("task.ended", running.record, task=running.exec_id[:12], code=code)
    running.end(running.ended)
    node.jobs.drop(running)
    return True


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
