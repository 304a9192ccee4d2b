"""What this node tells of a job: to its owner, to root, and to the agents of the job's other nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pbsdock.agent.cause import Cause, cause_of, of_all
from pbsdock.agent.history import is_about
from pbsdock.agent.node import Node
from pbsdock.agent.usage import level_of, usage_of
from pbsdock.core.errors import HookError
from pbsdock.core.record import Record, State
from pbsdock.core.redact import known
from pbsdock.core.story import Story, story_of, to_json
from pbsdock.host import shm

Row = dict[str, Any]
NO_ANSWER, FORGOTTEN = "no-answer", "none"  # states of a row without a story
# Of a story, what the job's other nodes are told; the rest is the same on all, or nobody asks for it.
_OF_NODE = (
    "node",
    "incarnation",
    "state",
    "outcome",
    "created_at",
    "told_at",
    "started_at",
    "ended_at",
    "run_s",
    "limits",
    "used",
    "shm_peak_bytes",
    "now",
    "exit",
    "exit_status",
    "manager",
    "cause",
)
_SENTENCES, _CHARACTERS = 4, 500  # of one node's end; its answer has to fit into a line


def here(node: Node, job: str, uid: int | None) -> list[Story]:
    """Of the incarnations of a job whose records are here, by its id or its number; *uid* None: whoever's it is."""
    return [
        _of_record(node, record)
        for record in node.jobs.records()
        if is_about(record.job_id, job) and (uid is None or record.uid == uid)
    ]


def _of_record(node: Node, record: Record) -> Story:
    """With what a job that runs has used so far, and has now."""
    story = story_of(record, time.time())
    if record.state is State.RUNNING:
        with suppress(HookError, OSError):
            level = level_of(node, record)
            found = shm.used(record.facts.pid) if record.facts.pid else None
            level = replace(level, shm_bytes=found[0] if found is not None else None)
            story = replace(story, used=usage_of(node, record), now=level)
    return story


def told(node: Node, story: Story) -> Row:
    """The documented fields of ``pbsdock why --json`` that this node knows by itself."""
    cause = cause_of(story, node.rm.words)
    row = {**to_json(story), "cause": _of_cause(cause)}
    return {**row, "manager": node.rm.words.name, "config": node.paths.config.name}


def in_short(node: Node, story: Story) -> Row:
    """A line's worth of an earlier incarnation."""
    return {
        "incarnation": story.incarnation,
        "job": story.job,
        "created_at": story.created_at,
        "outcome": story.outcome,
        "cause": _of_cause(cause_of(story, node.rm.words)),
    }


def for_others(node: Node, job: str, incarnation: str, uid: int) -> Row:
    """What another node of the job is told of that incarnation of it, if it is that user's; never anybody else's."""
    live = [story for story in here(node, job, uid) if story.incarnation == incarnation]
    found = live or [story for story in node.history.of(job, uid) if story.incarnation == incarnation]
    if not found:
        return {"node": node.name, "state": FORGOTTEN}
    # Secrets that this node knows are for this node to take out.
    row: Row = json.loads(known.clean(json.dumps(row_of(told(node, found[0])))))
    return row


def row_of(of_node: Mapping[str, Any]) -> Row:
    """A node's row of what it has told in full. Pure."""
    row = {name: of_node[name] for name in _OF_NODE}
    if row["exit"]:
        sentences = [sentence[:_CHARACTERS] for sentence in row["exit"]["sentences"][:_SENTENCES]]
        row["exit"] = {**row["exit"], "sentences": sentences}
    return row


def with_nodes(here_told: Mapping[str, Any], others: Sequence[Row]) -> Row:
    """The fields that come of the job's other nodes: ``nodes``, this one first, and the cause where that is theirs.

    Pure. A job of one node has no ``nodes``.
    """
    if not others:
        return {"nodes": []}
    own = Cause(**here_told["cause"])
    causes = [(str(row["node"]), Cause(**row["cause"])) for row in others if row.get("cause")]
    return {"nodes": [row_of(here_told), *others], "cause": _of_cause(of_all(own, causes))}


def _of_cause(cause: Cause) -> dict[str, str]:
    return {"code": cause.code, "sentence": cause.sentence}
