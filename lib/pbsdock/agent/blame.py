"""Whose fault a failed prologue is: the node's, if it confirms it without the job, or in the end the job's own."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pbsdock.agent import health
from pbsdock.agent.attempts import MOST
from pbsdock.agent.node import Node
from pbsdock.agent.refusals import keep_refused
from pbsdock.core.errors import BadValue, HookError, NodeFault, Refusal
from pbsdock.core.record import Record
from pbsdock.core.story import story_of
from pbsdock.core.trail import Fault
from pbsdock.engine.base import EngineError
from pbsdock.rm.base import Announced

_BUSY_S = 5.0
_SAME_S = 60.0  # the same fault of the same job so shortly after is told once


def failed(node: Node, argv: Sequence[str], env: Mapping[str, str], error: Exception) -> Record:
    """After a prologue that did not come through: whose fault it is.

    The node goes out of service if it confirms the fault without this job. Raises the fault as a NodeFault, for the
    job to be queued again; from the third time for one reason on it is the job's own, and a record in state
    ``refused``.
    """
    fault = fault_of(error, node.name)
    if fault.code == "agent-error" and fault is not error:
        node.emit("agent.error", level="error", where="prepare", reason=repr(error)[:500])
    job_id = node.rm.named(argv, env)
    if fault.code == "drained":  # no failure of anybody's, and not counted as one
        node.emit("job.fault", level="warning", code=fault.code, sentence=fault.sentence, job=job_id)
        _remember(node, argv, env, fault)
        raise fault
    confirmed = fault.sentence if node.health_flag.is_set_for(fault.code) else health.look(node, fault.code)
    node.emit("job.fault", level="error", code=fault.code, sentence=fault.sentence, job=job_id)
    if confirmed:
        node.health_flag.set(NodeFault(fault.code, confirmed))
    elif (count := node.attempts.failed(job_id, fault.code)) >= MOST:
        with suppress(BadValue, OSError, HookError), node.job_lock(job_id, _BUSY_S):
            said = f"preparing job {job_id} on {node.name} has failed {count} times for one reason: {fault.sentence}"
            record = _refused_unseen(node, node.rm.announced(argv, env), Refusal("failed-again", said))
            node.attempts.forget(job_id)
            return record
    _remember(node, argv, env, fault)
    raise fault


def fault_of(error: Exception, node: str) -> NodeFault:
    """The fault that an error is, until somebody has looked: ``agent-error`` for what nobody foresaw. Pure."""
    if isinstance(error, NodeFault):
        return error
    if isinstance(error, OSError | HookError | EngineError):  # a full disk, no descriptors left
        return NodeFault("prepare-failed", f"the agent of {node} cannot prepare jobs: {error}")
    return NodeFault("agent-error", f"the agent of {node} could not prepare the job: {type(error).__name__}")


def told_fault(error: BaseException, node: str) -> Fault:
    """An error as a record keeps it. Pure."""
    if not isinstance(error, Exception):
        error = NodeFault("agent-error", f"the agent of {node} was ended")
    fault = error if isinstance(error, HookError) else fault_of(error, node)
    return Fault(code=fault.code, sentence=fault.sentence, blame=fault.blame.value)


def _remember(node: Node, argv: Sequence[str], env: Mapping[str, str], fault: NodeFault) -> None:
    """Keep the fault of a prologue that had made no record of the job, or whose record did not know of it."""
    with suppress(BadValue, OSError, HookError):
        record = _unseen(node, node.rm.announced(argv, env))
        before = node.history.of(record.job_id, record.uid)[:1]
        if before and (known := before[0].fault) is not None and time.time() - before[0].told_at < _SAME_S:
            if known.code == fault.code:
                return
        record.note(fault=told_fault(fault, node.name))
        node.history.keep(story_of(record, time.time(), removed_for="prologue-failed", over_from=record.state.value))


def _refused_unseen(node: Node, announced: Announced, error: Refusal) -> Record:
    return keep_refused(node, _unseen(node, announced), error)


def _unseen(node: Node, announced: Announced) -> Record:
    """The record of a job that need not even have a user here: then it is whoever's its script is."""
    try:
        uid = pwd.getpwnam(announced.user).pw_uid
    except KeyError:
        uid = os.lstat(announced.script_path).st_uid
    record = Record.new(
        job_id=announced.id, safe=announced.safe, uid=uid, user=announced.user, node=node.owner, boot_id=node.boot
    )
    record.script_path = announced.script_path
    record.note(job_file=announced.job_file)
    return record
