"""What a job's owner, or root, is told of it: while it is there, and as long as it is remembered."""

from __future__ import annotations

import json

from pbsdock.agent import other_nodes, stories
from pbsdock.agent.session import Session
from pbsdock.core.errors import BadValue, Refusal
from pbsdock.core.redact import known
from pbsdock.core.story import Story
from pbsdock.protocol import wire

_EARLIER = 8  # incarnations of which a line is told


def why(session: Session, message: wire.Message) -> None:
    """Tell the newest incarnation of a job, on all its nodes, and in short those before it. Raises Refusal.

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
    here = stories.here(node, job, asker)
    if message.number("live") and here:
        before: list[Story] = []
    else:
        seen = {story.incarnation for story in here}
        before = [story for story in node.history.of(job, asker) if story.incarnation not in seen]
    found = sorted((*here, *before), key=lambda story: story.created_at, reverse=True)
    if not found:
        whose = "" if uid == 0 else " of yours"
        raise Refusal(
            "no-such-job",
            f"{node.name} knows no job {job}{whose}: ask on the node where it ran, of a job that had a #DOCKER line,"
            f" within {node.config.history.days:g} days",
        )
    newest, earlier = found[0], found[1 : 1 + _EARLIER]
    told = stories.told(node, newest)
    told |= stories.with_nodes(told, other_nodes.rows(node, newest, uid))
    told["earlier"] = [stories.in_short(node, story) for story in earlier]
    session.answer(wire.Message("why", json=known.clean(json.dumps(told))))
