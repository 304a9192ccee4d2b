"""The second witness on a sister, where mom's file of a job does not prove that the job lives.

Observed: it stays there when the mother superior is lost. So that node's agent is asked, or else the server. Where
neither gives an answer nothing is changed.
"""

from __future__ import annotations

from pbsdock.agent import neighbours
from pbsdock.agent.findings import Finding, Verdict, judge
from pbsdock.agent.node import Node
from pbsdock.core.errors import BadValue
from pbsdock.core.facts import uptime
from pbsdock.core.record import Record

_ASK_S = 3.0
FORSAKEN = "forsaken"


def forsaken(node: Node, records: list[Record], grace_s: float) -> list[tuple[Record, Finding]]:
    """The records of jobs that have mom's file here and that nobody else knows any more."""
    return [
        (record, Finding(kind="record", name=record.name, job=record.job_id, why=FORSAKEN))
        for record in records
        if is_idle(node, record, grace_s) and is_known(node, record) is False
    ]


def is_idle(node: Node, record: Record, grace_s: float) -> bool:
    """Whether a sister's record counts as alive by mom's file alone: none of the job's tasks runs here."""
    if not record.facts.mother or uptime() - record.facts.alive_at < grace_s or node.tasks(record):
        return False  # and mom's directory need not be read for it
    verdict = judge(record, boot=node.boot, job_files=node.rm.live(), up_s=uptime(), grace_s=grace_s)
    return verdict is Verdict.LIVE


def is_known(node: Node, record: Record) -> bool | None:
    """Whether the mother superior, or else the server, has the job, in this run; None where neither can be asked."""
    try:
        told = neighbours.ask(node, record.facts.hosts[0], "job", record.job_id, timeout_s=_ASK_S)
    except (*neighbours.NO_ANSWER, IndexError):
        try:
            return node.rm.knows(record.job_id)
        except BadValue:
            return None
    if told.get("alive") is None:
        return None
    return bool(told["alive"]) and told.get("incarnation", record.incarnation) == record.incarnation
