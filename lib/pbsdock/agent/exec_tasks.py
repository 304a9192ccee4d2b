"""TM tasks where the engine runs them: the way without a first process of our own (:mod:`pbsdock.agent.tasks`)."""

from __future__ import annotations

import os
import socket
import time

from pbsdock.agent import work_dir
from pbsdock.agent.call import read_call, without_bytes
from pbsdock.agent.protocols import RunsTasks
from pbsdock.agent.runs import ExecRun
from pbsdock.agent.task_end import conclude
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.record import Record
from pbsdock.engine import spec as container
from pbsdock.engine.base import ContainerEngine, EngineError, Failure
from pbsdock.host.process import start_time
from pbsdock.protocol import wire

_PID_S = 2.0
_TASKS, _TASKS_PER_CPU = 64, 4  # of one job at a time: each is an exec, a shim's threads and a dozen descriptors
_LOST = 137
_RESTARTED = (
    f"the Docker engine of this node was restarted while this task ran; its exit status is lost, {_LOST} stands for it"
)


def start_exec(node: RunsTasks, record: Record, request: wire.Message) -> tuple[ExecRun, socket.socket]:
    """Run a TM task inside the job's container; returns it running and its streams. Raises Refusal, NodeFault."""
    plan, bound = record.planned, record.facts.bound
    call, _lost = without_bytes(read_call(request, node.rm.words.choose_shell))
    call, _bound = work_dir.at_start(record, call, node.rm.words, is_running=True)
    most = max(_TASKS, _TASKS_PER_CPU * (os.cpu_count() or 1))
    if node.tasks(record) >= most:
        raise Refusal("too-many-tasks", f"job {record.job_id} has {most} tasks on this node, as many as it may")
    for argv in (container.command(call, {}, plan.image, record.facts.image), list(call.argv)):
        identifier = node.engine.exec_create(
            record.container_id or record.container_name,
            argv,
            environment=container.environment(plan, call, record.facts.image),
            uid=plan.uid,
            gid=plan.gid,
            directory=container.working_directory(plan, call, bound),
            tty=call.tty,
        )
        try:
            stream = node.engine.exec_start(identifier, tty=call.tty)
        except EngineError as error:
            if argv[0] == "/bin/sh" and call.argv[0] != "/bin/sh" and error.failure is Failure.NO_PROGRAM:
                continue
            raise NodeFault("engine-error", f"the task could not be started in the container: {error}") from None
        return _running(node, record, identifier, stream), stream
    raise NodeFault("engine-error", "the task could not be started in the container")


def _running(node: RunsTasks, record: Record, identifier: str, stream: socket.socket) -> ExecRun:
    running = ExecRun(record=record, name=identifier)
    try:
        running.pid = _pid(node.engine, identifier)
        running.pid_start = start_time(running.pid)
    except BaseException:
        stream.close()
        raise
    finally:
        node.jobs.add(running)  # and counts until it is over
    node.emit("task.started", record, task=identifier[:12], pid=running.pid)
    return running


def _pid(engine: ContainerEngine, identifier: str) -> int:
    """The first process of an exec; 0 if it is over already. The engine hands over the streams before there is one."""
    deadline = time.monotonic() + _PID_S
    while time.monotonic() < deadline:
        found = engine.exec_inspect(identifier)
        if found.pid or found.exit_code is not None:
            return found.pid
        time.sleep(0.005)
    return 0


def finish_exec(node: RunsTasks, running: ExecRun) -> bool:
    """Tell the run hook how its task ended; False while it still runs."""
    sentences: list[str] = []
    try:
        found = node.engine.exec_inspect(running.name)
        if found.is_running:
            return False
        code = found.exit_code or 0
    except EngineError:
        code = _LOST  # the engine forgets every exec when it is restarted
        sentences.append(_RESTARTED)
    conclude(node, running, running.name[:12], code, sentences)
    return True
