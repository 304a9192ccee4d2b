"""The records of jobs: new ones, and those that say why a job is refused, for its run hook to tell."""

from __future__ import annotations

from pbsdock.agent.node import Node
from pbsdock.agent.release import release
from pbsdock.agent.tickets import Bearer
from pbsdock.core.errors import Refusal
from pbsdock.core.record import Record
from pbsdock.rm.base import Job


def new_record(node: Node, job: Job, bearer: Bearer | None = None) -> Record:
    """A new incarnation, with the names of all there will ever be of it; not yet written.

    On a sister it has the mother superior's name for it, by which events of all nodes belong together.
    """
    record = Record.new(job_id=job.id, safe=job.safe, uid=job.uid, user=job.user, node=node.owner, boot_id=node.boot)
    if bearer is not None:
        record.incarnation = bearer.ticket.incarnation
        record.note(mother=bearer.ticket.mother, run=bearer.ticket.run, ticket=bearer.text)
    record.container_name = f"pbsdock-{record.safe}-{record.incarnation}"
    record.cgroup = record.name
    if job.script_path:
        record.script_path = job.script_path
    hosts = job.grant.hosts
    record.note(job_file=job.job_file, nodes=max(1, len(hosts)), hosts=hosts, on_demand=job.on_demand)
    return record


def refused(node: Node, job: Job, error: Refusal, asked: str = "", bearer: Bearer | None = None) -> Record:
    """Refuse a job of which nothing exists yet; *asked* is its directive as written. Raises OSError."""
    record = new_record(node, job, bearer)
    record.note(asked=asked, decided=node.rules.refused(job, error))
    return keep_refused(node, record, error)


def keep_refused(node: Node, record: Record, error: Refusal) -> Record:
    """Refuse by a record that is new. Raises OSError."""
    record.refuse(error)
    node.jobs.create(record)
    node.mark(record)
    node.emit("job.refused", record, code=error.code, sentence=error.sentence, phase="prologue")
    return record


def refuse(node: Node, record: Record, error: Refusal) -> Record:
    """Refuse a job that is prepared in part or whole: everything of it is released, the sentence stays."""
    release(node, record, why="refused", keep=True)
    if record.plan is not None:
        record.note(decided=(*record.facts.decided, *node.rules.refused(record.plan, error)))
    record.refuse(error)
    return record
