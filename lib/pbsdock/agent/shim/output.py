"""``docker logs``: what a child that runs with ``--detach`` has written."""

from __future__ import annotations

from contextlib import suppress

from pbsdock.agent.channel import ClientGone
from pbsdock.agent.children import logs as files
from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, Tell
from pbsdock.core.child import Child
from pbsdock.protocol import wire
from pbsdock.shim.commands import Logs
from pbsdock.shim.refusal import FAILED, ShimRefusal


def logs(at: Context, asked: Logs) -> Steps:
    """Have the client copy the files, and with *follow* go on until the child is over. Raises ShimRefusal, OSError."""
    child = at.child(asked.container)
    record = at.asker.record
    assert record is not None  # it has a child
    if not child.detached:
        raise ShimRefusal(
            f"{child.name} ran in the foreground: its output went to where docker run's own goes; start it with"
            " --detach for docker logs",
            FAILED,
        )
    fds = files.open_to_read(at.node, record, child, asked.tail)
    message = wire.Message("copy", follow=int(asked.follow and not child.is_over))
    message.fields["stream"] = [b"1", b"2"][: len(fds)]
    if asked.follow and not child.is_over:
        _tell_at_the_end(at, child, record.incarnation, message)
    yield Tell(message, fds, is_answered=True)
    return 0


def _tell_at_the_end(at: Context, child: Child, incarnation: str, message: wire.Message) -> None:
    """Let the client know that there will be no more; what is over already needs no following."""
    running = at.node.jobs.child_run(incarnation, child.key)
    if running is None:
        message.fields["follow"] = [b"0"]
        return

    def tell() -> None:
        with suppress(ClientGone):
            at.session.answer(wire.Message("over"))

    running.when_over(tell)
