"""The end of a TM task, whoever ran it."""

from __future__ import annotations

from collections.abc import Sequence

from pbsdock.agent.protocols import RunsTasks
from pbsdock.agent.runs import TaskRun
from pbsdock.protocol import wire


def conclude(node: RunsTasks, running: TaskRun, shown: str, code: int, sentences: Sequence[str]) -> bool:
    """Tell the run hook how its task ended, and forget the task, which is *shown* so in the event; once, any thread.

    Returns whether this call did.
    """
    with running.lock:
        if running.ended is not None:
            return False
        running.ended = wire.Message("ended", code=code, sentence=[sentence.encode() for sentence in sentences])
    node.emit("task.ended", running.record, task=shown, code=code)
    running.end(running.ended)
    node.jobs.drop(running)
    return True
