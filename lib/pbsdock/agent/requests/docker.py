"""What the ``docker`` client of a job asks for: one command a connection, carried out as a dialogue."""

from __future__ import annotations

import os

from pbsdock.agent.call import read_answer
from pbsdock.agent.children.finish import failed, finish
from pbsdock.agent.children.inner import DEFAULT_UMASK
from pbsdock.agent.quota import Held
from pbsdock.agent.session import Session
from pbsdock.agent.shim import commands
from pbsdock.agent.shim.context import Asked
from pbsdock.core.errors import Refusal
from pbsdock.host.process import Caller
from pbsdock.protocol import init, wire
from pbsdock.shim.request_names import CALLED

_FREE_BYTES = 32 << 10  # of a command line and its environment: as many as there are connections may be held


class DockerRequests:
    """One method a request; they raise what :meth:`pbsdock.agent.session.Session.handle` tells the client."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.node = session.node

    def docker(self, message: wire.Message) -> None:
        """Begin a command."""
        if not self.node.config.shim.enabled:
            raise Refusal("shim-off", "this site gives jobs no docker command")
        if not self.node.rm.holds_children:
            sentence = f"{self.node.rm.words.name} could not limit and end containers that a job starts itself"
            raise Refusal("shim-off", f"jobs have no docker command here: {sentence}")
        if self.session.dialogue is not None:
            raise Refusal("one-command-a-connection", "a connection carries one docker command")
        peer = self.session.peer
        called = os.path.basename(message.text("called", CALLED))
        argv = [os.fsdecode(word) for word in message.raw("argv")]
        asked = Asked(
            argv=tuple(argv),
            called_as=CALLED if called == self.node.config.shim.name else called,
            environment={
                os.fsdecode(name): os.fsdecode(value)
                for name, _, value in (pair.partition(b"=") for pair in message.raw("env"))
            },
            directory=message.text("cwd", "/"),
            umask=message.number("umask", DEFAULT_UMASK) & 0o777,
            terminals=frozenset(word.decode("ascii", "replace") for word in message.raw("tty")),
        )
        caller = Caller(peer.pid, peer.uid, peer.started)
        dialogue = commands.begin(self.session, caller, asked)
        # The words are kept as long as the command goes on, when the request itself has long been answered.
        if (size := sum(map(len, (*message.raw("argv"), *message.raw("env"))))) > _FREE_BYTES:
            held = Held(self.session.quota, peer.uid)
            if not held.grow(2 * size):
                raise Refusal(
                    "too-much-under-way",
                    f"the arguments and the environment of this docker command have {size} bytes, and your other"
                    " commands have theirs: wait for some of these to end",
                )
            dialogue.when_over = held.release
        self.session.dialogue = dialogue
        self.session.answer(wire.Message("waiting"))
        dialogue.go_on()

    def answer(self, message: wire.Message) -> None:
        """Go on with a command."""
        if self.session.dialogue is None:
            raise Refusal("no-command", f"nothing was asked that {message.op!r} would answer")
        self.session.dialogue.go_on(message)

    def over(self, message: wire.Message) -> None:
        """How a container has ended whose client has lost the agent it had asked."""
        incarnation, _, key = message.text("child").partition("/")
        running = self.node.jobs.child_run(incarnation, key)
        end = read_answer(message) if message.text("kind") else None
        if running is not None and running.record.uid == self.session.peer.uid:
            running.said = end or running.said
            code = finish(self.node, running)
        else:
            code = self._known_code(incarnation, key, end)
        self.session.answer(wire.Message("exit", code=code))

    def _known_code(self, incarnation: str, key: str, end: init.Answer | None) -> int:
        """Of a child that this agent has found over before its client came back, which may itself have been told by
        the first process. Raises Refusal."""
        if end is not None:
            return end.code if end.kind == init.ENDED else failed(end)[0]
        for record in self.node.jobs.records():
            if record.incarnation == incarnation and record.uid == self.session.peer.uid:
                child = self.node.children.child(record.name, key)
                if child is not None and child.is_over:
                    return child.code
        raise Refusal("not-running", "the container is not running")
