"""Whose fault a failed prologue is: the node's, if it confirms it without the job, or in the end the job's own."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pbsdock.agent import health
from pbsdock.agent.attempts import MOST
from pbsdock.agent.node import Node
from pbsdock.agent.refusals import keep_refused
from pbsdock.core.errors import BadValue, HookError, NodeFault, Refusal
from pbsdock.core.record import Record
from pbsdock.engine.base import EngineError
from pbsdock.rm.base import Announced

_BUSY_S = 5.0


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
    raise fault


def fault_of(error: Exception, node: str) -> NodeFault:
    """The fault that an error is, until somebody has looked: ``agent-error`` for what nobody foresaw. Pure."""
    if isinstance(error, NodeFault):
        return error
    if isinstance(error, OSError | HookError | EngineError):  # a full disk, no descriptors left
        return NodeFault("prepare-failed", f"the agent of {node} cannot prepare jobs: {error}")
    return NodeFault("agent-error", f"the agent of {node} could not prepare the job: {type(error).__name__}")


def _refused_unseen(node: Node, announced: Announced, error: Refusal) -> Record:
    """A refusal for a job that need not even have a user here: then whoever has its script."""
    try:
        uid = pwd.getpwnam(announced.user).pw_uid
    except KeyError:
        uid = os.lstat(announced.script_path).st_uid
    record = Record.new(
        job_id=announced.id, safe=announced.safe, uid=uid, user=announced.user, node=node.owner, boot_id=node.boot
    )
    record.script_path = announced.script_path
    record.note(job_file=announced.job_file)
    return keep_refused(node, record, error)
