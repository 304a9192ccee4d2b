"""One client of the agent's: who it is, what it may hear, and the run it waits for."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pbsdock.agent.channel import Channel, ClientGone
from pbsdock.agent.node import Node
from pbsdock.agent.protocols import Conversation
from pbsdock.agent.quota import UserQuota
from pbsdock.agent.runs import Run
from pbsdock.core.errors import BadValue, HookError, NodeFault, Refusal
from pbsdock.core.redact import known
from pbsdock.engine.base import EngineError
from pbsdock.host.process import start_time
from pbsdock.protocol import wire

_ALIVE_S = 20.0  # how long a root hook is left without a message, of which both its clients take 120 s at least
_READ_S = 10.0  # how long a client may take to read an answer

Respond = Callable[["Session", wire.Message], None]


class Peer:
    """Who is at the other end, as the kernel says (unix(7), SO_PEERCRED)."""

    def __init__(self, connection: socket.socket) -> None:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.pid, self.uid, self.gid = struct.unpack("3i", raw)
        self.started = start_time(self.pid)


class Session:
    """From accept to the end of the connection; one request at a time."""

    def __init__(self, node: Node, channel: Channel, peer: Peer, quota: UserQuota, *, is_door: bool = False) -> None:
        """*is_door*: it came by the socket that containers have."""
        self.is_door = is_door
        self.node = node
        self.channel = channel
        self.peer = peer
        self.quota = quota
        self.running: Run | None = None
        self.dialogue: Conversation | None = None

    @property
    def waits(self) -> bool:
        """Whether its run has not ended, or its command: only such a client has a reason to be silent for long."""
        if self.dialogue is not None and not self.dialogue.is_over:
            return True
        return self.running is not None and not self.running.over.is_set()

    def handle(self, message: wire.Message, respond: Respond) -> None:
        """Have one request responded to, and tell the client what is in the way. Raises ClientGone."""
        try:
            respond(self, message)
        except Refusal as error:
            self.answer(wire.Message("refused", code=error.code, sentence=error.sentence))
        except NodeFault as error:
            self.answer(wire.Message("fault", code=error.code, sentence=error.sentence))
        except (EngineError, HookError) as error:
            self.answer(wire.Message("fault", code="engine-error", sentence=str(error)))
        except BadValue as error:  # told, not hung up on: a hook would take silence for a dead agent
            self.node.emit("client.refused", level="warning", uid=self.peer.uid, reason=str(error))
            self.answer(wire.Message("refused", code="bad-request", sentence=str(error)))
        except (ClientGone, wire.WireError):
            raise
        except Exception as error:  # a full disk, no descriptors, a slip of ours: the client is there, and is told
            self._unforeseen(message.op, error)

    def _unforeseen(self, op: str, error: Exception) -> None:
        self.node.emit("agent.error", level="error", where=op, uid=self.peer.uid, reason=repr(error)[:500])
        what = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        sentence = f"the pbsdock agent of {self.node.name} could not do this: {what}"
        self.answer(wire.Message("fault", code="agent-error", sentence=sentence))

    def answer(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        """Send *message*, known secrets cut out of its sentences, and descriptors. Raises ClientGone."""
        if "sentence" in message.fields:
            message.fields["sentence"] = [
                known.clean(sentence.decode("utf-8", "replace")).encode("utf-8", "replace")
                for sentence in message.fields["sentence"]
            ]
        if fds:
            message.fields["fds"] = [str(len(fds)).encode()]  # the kernel may deliver them with an earlier message
        self.channel.send(message, fds, wait_s=_READ_S)

    def notify(self, sentence: str) -> None:
        """Tell the user something while the request goes on, if they are there."""
        try:
            self.answer(wire.Message("notice", sentence=sentence))
        except ClientGone:
            pass

    @contextmanager
    def kept_waiting(self) -> Iterator[None]:
        """Let a root hook know now and then, by a notice without a sentence, that it is still at work for it.

        How long a hook may wait is mom's to say, who ends it ($prologalarm): one that gave up before would let the
        job's directories go while its results are staged out.
        """
        over = threading.Event()

        def tell() -> None:
            while not over.wait(_ALIVE_S):
                self.notify("")

        with suppress(RuntimeError):  # no thread more can be had
            threading.Thread(target=tell, name="alive", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def answer_end(self, running: Run, over: wire.Message) -> None:
        """Tell how a run has ended."""
        self.answer(over)
        running.record.note(untold=())  # now it is; the epilogue need not

    def must_be_free(self, *, is_again: bool = False, of: Run | None = None) -> None:
        """One run a connection: whoever may start many must hold as many connections, which are counted.

        Raises Refusal.
        """
        mine = self.running
        if mine is not None and mine is not of and not is_again and not mine.over.is_set():
            raise Refusal("one-run-a-connection", "what was started by this connection still runs")

    def leave(self) -> None:
        """The client is gone: what it waited for is told to whoever comes back for it."""
        if self.dialogue is not None:
            self.dialogue.leave()
        if self.running is not None:
            self.running.leave(self.channel)
