"""``docker cp``: by the client, as the user, into and out of the root of a child that runs."""

from __future__ import annotations

import os

from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, Tell
from pbsdock.host.process import alive
from pbsdock.protocol import wire
from pbsdock.shim.commands import Cp
from pbsdock.shim.refusal import FAILED, ShimRefusal


def copy(at: Context, asked: Cp) -> Steps:
    """Give the client the container's root, where it has the user's rights. Raises ShimRefusal."""
    child = at.child(asked.container)
    if child.is_over:
        raise ShimRefusal(
            f"{child.name} is over, and its files are gone with it; copy while it runs, or mount a directory with"
            " --volume for what is to stay",
            FAILED,
        )
    try:
        root = os.open(f"/proc/{child.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        raise ShimRefusal(f"Container {child.id} is not running", FAILED) from None
    if not alive(child.pid, child.pid_start):  # the number may be another's already, and the root another container's
        os.close(root)
        raise ShimRefusal(f"Container {child.id} is not running", FAILED)
    message = wire.Message(
        "cp",
        direction=asked.direction,
        source=os.fsencode(asked.source),
        target=os.fsencode(asked.target),
        link=int(asked.follow_link),
        archive=int(asked.archive),
    )
    answer = yield Tell(message, (root,), is_answered=True)
    if answer is None or answer.op != "copied":
        raise ShimRefusal(answer.text("reason") if answer is not None else "no answer", FAILED)
    return 0
