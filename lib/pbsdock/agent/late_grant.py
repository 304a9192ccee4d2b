"""What a job was granted that its prologue could not know: looked up before anything of the user's runs.

A prologue's arguments have neither Torque's ``-L`` nor its ``-n``, and not all of a long resource list; the manager's
own file of the job, which is there once the prologue is over, has it all.
"""

from __future__ import annotations

import time
from dataclasses import replace

from pbsdock.agent.node import Node, ms_since
from pbsdock.config.tables import LimitsConfig
from pbsdock.core.cpus import parse_cpus
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.plan import Limits
from pbsdock.core.record import Record
from pbsdock.policy.decide import effective
from pbsdock.policy.limits import regranted, with_cpus


def apply(node: Node, record: Record) -> None:
    """Bring the plan, the job's cgroup, and its container if that is there, to what the manager's file grants.

    A container that is there and whose /dev/shm has another size is made anew. Done again it changes nothing.

    Raises Refusal for what the job cannot have here, NodeFault; the limits in force are
    then the ones of before.
    """
    if record.facts.on_demand:  # planned from that file
        return
    began = time.monotonic()
    plan = record.planned
    live = node.rm.find(record.job_id)
    if live is None:
        if record.facts.job_file in node.rm.live():
            return  # in a form of before -L, which Torque had until its version 5
        raise NodeFault("no-job-file", f"{node.rm.words.name} has no file of job {record.job_id} on {node.name}")
    if not live.has_more:
        return
    if live.wrong:
        sentence = f"what the job asks for with {node.rm.words.request} cannot be understood: {live.wrong}"
        raise Refusal("bad-resources", sentence)
    try:
        job = live.job({})
    except KeyError:
        raise NodeFault("unknown-user", f"user {record.user!r} of job {record.job_id} is not known here") from None
    settings = effective(node.config_of(record), job).limits
    limits = regranted(plan, job, settings, node.host())
    try:
        limits = _with_cpus(node, record, limits, settings)
        if limits == plan.limits:
            return
        waiting = node.jobs.standing_of(record)
        if waiting is not None:
            waiting.over.wait()
        node.cgroups.create(record.cgroup, limits)
        if waiting is not None and waiting.is_ready and limits.shm_bytes == plan.limits.shm_bytes:
            node.engine.limit(waiting.container, limits)
        else:
            node.jobs.drop_standing(record)  # one is made whose /dev/shm has the right size
        record.plan = replace(plan, limits=limits)
        record.save()
    except OSError as error:
        raise NodeFault("record-not-written", f"the job was stopped before it began: its record: {error}") from None
    finally:
        node.promised.pop(record.incarnation, None)
    node.emit(
        "cgroup.changed",
        record,
        memory_bytes=limits.memory_bytes,
        cpu_millis=limits.cpu_millis,
        cpuset=limits.cpuset,
        ms=ms_since(began),
    )


def _with_cpus(node: Node, record: Record, limits: Limits, settings: LimitsConfig) -> Limits:
    """CPUs of its own where the site wants that: those it has, or others if it is to have more; all that are free
    where that is not enough, since a cpuset that is there is not given up."""
    before = record.planned.limits
    own = parse_cpus(before.cpuset or "")
    if limits.cpu_millis == (len(own) * 1000 if own else before.cpu_millis):
        return replace(limits, cpu_millis=before.cpu_millis, cpuset=before.cpuset)
    with node.cpu_lock:
        free = sorted({*node.free_cpus(), *own})
        limits = with_cpus(limits, settings, free)
        if own and not limits.cpuset:
            limits = replace(limits, cpu_millis=None, cpuset=",".join(map(str, free)))
        node.promised[record.incarnation] = frozenset(parse_cpus(limits.cpuset or ""))
    return limits
