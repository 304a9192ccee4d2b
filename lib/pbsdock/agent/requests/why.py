"""What a job's owner, or root, is told of it: while it is there, and as long as it is remembered."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pbsdock.agent.cause import cause_of
from pbsdock.agent.history import is_about
from pbsdock.agent.node import Node
from pbsdock.agent.session import Session
from pbsdock.agent.teardown import usage_of
from pbsdock.core.errors import BadValue, HookError, Refusal
from pbsdock.core.record import Record, State
from pbsdock.core.redact import known
from pbsdock.core.story import Story, story_of, to_json
from pbsdock.host import shm
from pbsdock.host.cgroup import managers
from pbsdock.protocol import wire

_EARLIER = 8  # incarnations of which a line is told


def why(session: Session, message: wire.Message) -> None:
    """Tell the newest incarnation of a job, and in short those before it. Raises Refusal.

    With *live* in the message those before it are left out: that is for who asks once a second. Another user's job is
    refused as one that is not there.
    """
    node, uid = session.node, session.peer.uid
    if uid and not node.questions.admit(uid):
        raise Refusal("too-often", "you ask too often; ask again in a second")
    try:
        job = node.rm.job_id(message.text("job"))
    except BadValue as error:
        raise Refusal("bad-job-id", str(error)) from None
    asker = None if uid == 0 else uid
    here = [_of_record(node, record) for record in _records(node, job, asker)]
    if message.number("live") and here:
        before: list[Story] = []
    else:
        seen = {story.incarnation for story in here}
        before = [story for story in node.history.of(job, asker) if story.incarnation not in seen]
    stories = sorted((*here, *before), key=lambda story: story.created_at, reverse=True)
    if not stories:
        whose = "" if uid == 0 else " of yours"
        raise Refusal(
            "no-such-job",
            f"{node.name} knows no job {job}{whose}: ask on the node where it ran, of a job that had a #DOCKER line,"
            f" within {node.config.history.days:g} days",
        )
    newest, earlier = stories[0], stories[1 : 1 + _EARLIER]
    told = {**_told(node, newest), "earlier": [_in_short(node, story) for story in earlier]}
    session.answer(wire.Message("why", json=known.clean(json.dumps(told))))


def _records(node: Node, job: str, uid: int | None) -> list[Record]:
    return [
        record for record in node.jobs.records() if is_about(record.job_id, job) and (uid is None or record.uid == uid)
    ]


def _of_record(node: Node, record: Record) -> Story:
    """With what a job that runs has used so far, and has now."""
    story = story_of(record, time.time())
    if record.state is State.RUNNING:
        with suppress(HookError, OSError):
            level = node.cgroups.level(record.cgroup)
            if record.facts.counted_in:
                level = managers.level(level, record.facts.counted_in)
            found = shm.used(record.facts.pid) if record.facts.pid else None
            level = replace(level, shm_bytes=found[0] if found is not None else None)
            story = replace(story, used=usage_of(node, record), now=level)
    return story


def _told(node: Node, story: Story) -> dict[str, Any]:
    cause = cause_of(story, node.rm.words)
    told = {**to_json(story), "cause": {"code": cause.code, "sentence": cause.sentence}}
    return {**told, "manager": node.rm.words.name, "config": node.paths.config.name}


def _in_short(node: Node, story: Story) -> dict[str, Any]:
    cause = cause_of(story, node.rm.words)
    return {
        "incarnation": story.incarnation,
        "job": story.job,
        "created_at": story.created_at,
        "outcome": story.outcome,
        "cause": {"code": cause.code, "sentence": cause.sentence},
    }
