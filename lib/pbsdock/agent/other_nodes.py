"""What the other nodes of a job tell of it, for ``pbsdock why``: their agents are asked, within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable

from pbsdock.agent import neighbours
from pbsdock.agent.node import Node
from pbsdock.agent.stories import FORGOTTEN, Row
from pbsdock.cluster.channel import is_same_host
from pbsdock.core.story import Story

_ASK_S = 3.0  # for one node
_WITHIN_S = 6.0  # for all of them
_TOO_OFTEN = "you ask too often about jobs on several nodes; ask again in a second"


def rows(node: Node, story: Story, uid: int) -> list[Row]:
    """A row for each other node of the job; one that does not answer has ``state`` "no-answer" and ``problem``.

    *uid* is who asks. Empty for a job of one node, or whose nodes are not known.
    """
    if len(story.hosts) < 2:
        return []
    found = node.looks.rows(story, uid, lambda story: asked(node, story))
    if found is not None:
        return found
    others = [host for host in story.hosts if not is_same_host(host, node.name)]
    return [neighbours.silent(host, "too-often", f"{host} was not asked: {_TOO_OFTEN}") for host in others]


def asked(node: Node, story: Story, clock: Callable[[], float] = time.monotonic) -> list[Row]:
    """The same, by asking them all now."""
    deadline = clock() + _WITHIN_S

    def row(host: str) -> Row:
        left = deadline - clock()
        if left <= 0:
            sentence = f"{host} was not asked: others took {_WITHIN_S:g} s not to answer"
            return neighbours.silent(host, "unreachable", sentence)
        return _of(node, host, story, min(_ASK_S, left))

    found = neighbours.of_others(node, story.hosts, row)
    # A host whose name is not its own may turn out to be this one.
    return [told for _host, told in found if told["node"] != node.name]


def _of(node: Node, host: str, story: Story, timeout_s: float) -> Row:
    asks = {"incarnation": story.incarnation, "uid": story.uid}
    try:
        row: Row = {"node": host, **neighbours.ask(node, host, "why", story.job, timeout_s=timeout_s, **asks)}
    except neighbours.NO_ANSWER as error:
        return neighbours.silent(host, error.code, error.sentence)
    if row.get("state") == FORGOTTEN:
        row["problem"] = f"{row['node']} knows nothing of this job: nothing of it has come there, or it is forgotten"
    return row
