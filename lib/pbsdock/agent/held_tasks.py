"""Tasks that the first process holds until they are where the manager counts, limits and ends them.

Its child has told its process id and waits to become its program. Whoever asks for it says which process that is, and
is believed in nothing: the kernel tells whose child it is, and what number it has in the container.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pbsdock.agent import first_process
from pbsdock.agent.node import Node
from pbsdock.agent.runs import TaskRun
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.protocol import init

_SIGKILL = 9


def let_go(node: Node, running: TaskRun, pid: int, hook: int) -> None:
    """Move process *pid*, by which the task is held, to where its run hook *hook* is, and let it go on. One that has
    gone on already is left alone: a run hook that has lost its agent tells of it once more.

    Raises Refusal, NodeFault; the task is over then, unless *pid* is none.
    """
    record = running.record
    if not (inside := _number_inside(pid, record.facts.pid)):
        return
    try:
        node.rm.take_in(pid, hook, record.job_id, record.uid)
        with suppress(OSError):  # CPUs that its cpuset has not
            os.sched_setaffinity(pid, os.sched_getaffinity(hook))
        with first_process.connected(node.init_dir(record), record.facts.pid) as connection:
            connection.send(init.encode_go(running.name, inside))
            answer = connection.receive()
        if answer.kind != init.DONE:
            raise Refusal("not-held", f"process {pid} is not what is held of job {record.job_id} by that name")
    except (Refusal, NodeFault):
        with suppress(NodeFault, OSError, init.InitError, init.RequestError):  # its container is over
            first_process.send_signal(node.init_dir(record), record.facts.pid, running.name, _SIGKILL)
        raise


def _number_inside(pid: int, first: int) -> int:
    """The number that a child of the first process *first*, which has run nothing yet, has in the container; 0 for one
    that has become its program.

    Raises Refusal.
    """
    try:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        is_held = os.path.samestat(os.stat(f"/proc/{pid}/exe"), os.stat(f"/proc/{first}/exe"))
        if int(status["PPid"]) == first:
            return int(status["NSpid"].split()[-1]) if is_held else 0
    except (OSError, ValueError, KeyError):
        pass
    raise Refusal("not-held", f"process {pid} is not held by the container's first process")
