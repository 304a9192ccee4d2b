"""The record of a job without a container of its own, made when it starts its first child: cgroup, files, children."""

from __future__ import annotations

import time
from dataclasses import replace

from pbsdock.agent import prepare
from pbsdock.agent.blame import told_fault
from pbsdock.agent.children.start import STEP
from pbsdock.agent.node import Node
from pbsdock.agent.refusals import new_record
from pbsdock.agent.release import release
from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.core.facts import uptime
from pbsdock.core.record import Record, State
from pbsdock.engine.base import EngineError
from pbsdock.policy.decide import without_container
from pbsdock.rm.base import Job

_WAIT_S = 60.0


def record_of(node: Node, job: Job) -> Record:
    """The job's record, made now if there is none. Raises Refusal, NodeFault."""
    with node.job_lock(job.id, _WAIT_S):
        found = node.jobs.newest(job.id)
        if found is not None:
            if found.facts.bare and found.state is State.READY:
                return found
            raise Refusal("job-over", f"job {job.id} is over; nothing more is started in it")
        node.drain.check(node.name)
        record = new_record(node, replace(job, on_demand=True))
        record.note(bare=True, asked_at=time.monotonic(), first_process=True, started_at=time.time())
        record.plan = plan = prepare.with_cpus_of_its_own(
            node, node.config, job, without_container(job, node.config, node.host()), record
        )
        record.begin(("files", "cgroup", STEP))
        node.planned_by[record.incarnation] = node.config
        try:
            node.jobs.create(record)
        finally:
            node.promised.pop(record.incarnation, None)  # its record tells of them now
        try:
            node.mark(record)
            node.work_dir(record).mkdir(mode=0o700, parents=True)
            node.cgroups.create(record.cgroup, plan.limits)
            node.emit("cgroup.created", record, cgroup=record.cgroup)
            record.note(alive_at=uptime())
            record.advance(State.READY, phase="run")
        except (HookError, EngineError, OSError) as error:
            record.note(fault=told_fault(error, node.name))
            release(node, record, why="prologue-failed")
            if isinstance(error, HookError):
                raise
            raise NodeFault("prepare-failed", f"no container can be started on {node.name}: {error}") from error
        return record
