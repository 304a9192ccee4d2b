"""What a job has used on all its nodes, added up on its mother superior once it is over."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pbsdock.agent import neighbours
from pbsdock.agent.node import Node
from pbsdock.core.facts import Usage
from pbsdock.core.record import Record
from pbsdock.core.story import OVER

_ASK_S = 2.0
_WITHIN_S = 5.0  # a sister is told of the job's end a moment before
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """``told`` of ``nodes`` have told what was used there; sizes in bytes. The peaks need not have been at one time."""

    nodes: int
    told: int
    cpu_seconds: float
    memory_peak_bytes: int


def total(usages: Sequence[Mapping[str, Any] | None]) -> Total:
    """Of what each node has told, None for one that has not. Pure."""
    known = [usage for usage in usages if usage is not None]
    return Total(
        nodes=len(usages),
        told=len(known),
        cpu_seconds=round(sum(usage.get("cpu_seconds") or 0.0 for usage in known), 3),
        memory_peak_bytes=sum(usage.get("memory_peak_bytes") or 0 for usage in known),
    )


def of_job(node: Node, record: Record) -> Total:
    """Ask all sisters at a time. One that does not answer keeps this from ending for no more than a few seconds."""
    own = record.facts.usage or Usage()
    mine = {"cpu_seconds": own.cpu_seconds, "memory_peak_bytes": own.memory_peak_bytes}
    theirs = neighbours.of_others(node, record.facts.hosts, lambda host: _of_sister(node, host, record))
    return total([mine, *(usage for _host, usage in theirs)])


def _of_sister(node: Node, host: str, record: Record) -> Mapping[str, Any] | None:
    """None for one that cannot be asked, or has none of the job."""
    deadline = time.monotonic() + _WITHIN_S
    while True:
        try:
            told = neighbours.ask(node, host, "job", record.job_id, timeout_s=_ASK_S, incarnation=record.incarnation)
        except neighbours.NO_ANSWER:
            return None
        if told.get("incarnation") != record.incarnation:
            return None
        usage: Mapping[str, Any] = told.get("usage") or {}
        if (told.get("state") == OVER and usage) or time.monotonic() > deadline:
            return usage or None
        time.sleep(_PAUSE_S)
