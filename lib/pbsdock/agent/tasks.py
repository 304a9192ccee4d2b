"""TM tasks: processes that the scheduler starts on a node of the job, run by the first process of its container.

The run hook of a task asks the first process itself, and hears from it how the task ended.
"""

from __future__ import annotations

import errno
import secrets

from pbsdock.agent import first_process, work_dir
from pbsdock.agent.call import read_call
from pbsdock.agent.node import Node
from pbsdock.agent.not_run import not_run
from pbsdock.agent.runs import TaskRun
from pbsdock.agent.start import Admission, admit, command_for
from pbsdock.agent.starting import limits_of
from pbsdock.agent.task_end import conclude
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.record import Record
from pbsdock.host.process import Caller
from pbsdock.protocol import init, wire

_MOST = 1000  # of one job at a time; the first process takes 1,024
_SIGKILL = 9


def start_task(node: Node, record: Record, request: wire.Message, caller: Caller) -> tuple[TaskRun, Admission]:
    """Let a TM task's run hook have it run inside the job's container. Raises Refusal, NodeFault."""
    call = read_call(request, node.rm.words.choose_shell)
    call, _bound = work_dir.at_start(record, call, node.rm.words, is_running=True)
    if len(node.jobs.tasks_of(record.incarnation)) >= _MOST:
        raise Refusal("too-many-tasks", f"job {record.job_id} has {_MOST} tasks on this node, as many as it may")
    if node.rm.moves_tasks:
        node.rm.place_of(caller.pid, record.job_id, record.uid)
    command = command_for(node, record, call, record.facts.pid)
    running = TaskRun(record=record, name=f"task-{secrets.token_hex(8)}")
    admission = admit(node, running, running.name, command, limits_of(caller))
    node.jobs.add(running)
    node.emit("task.started", record, task=running.name)
    return running, admission


def finish_task(node: Node, running: TaskRun) -> None:
    """Tell the run hook that its task is over, as it has said itself; the task of one that is gone is killed, as mom
    would kill a bare one."""
    record, end = running.record, running.said
    directory = node.init_dir(record)
    if end is None and (end := first_process.read_end(directory, running.name)) is None:
        try:
            first_process.send_signal(directory, record.facts.pid, running.name, _SIGKILL)
        except (NodeFault, OSError, init.RequestError):
            pass  # the job is over, and took it along
        end = init.Answer(init.ENDED, _SIGKILL)
    sentences: list[str] = []
    if end.kind != init.ENDED:
        sentences.append(not_run(record.planned, end))
    code = first_process.exit_code(end, not_run=127 if end.number == errno.ENOENT else 126)
    if conclude(node, running, running.name, code, sentences):
        first_process.forget_end(directory, running.name)
