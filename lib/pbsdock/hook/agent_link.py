"""A run hook's connection to the agent, over the agent's restarts."""

from __future__ import annotations

import os
import select
import time

from pbsdock.hook.signals import Signals
from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone, BadAnswer, Link, connect

TYPE_CHECKING = False  # importing `typing` would cost a hook seven milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

_GIVE_UP_S = 600.0
_ATTEMPTS = 3
REFUSED = 125  # exit status of a job that was not started
REQUEUE = 190  # the same by no fault of the job's: Slurm's RequeueExit


def say(text: str) -> None:
    """Write one line to the job's stderr; a closed stderr is not an error."""
    try:
        os.write(2, f"pbsdock: {text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


class AgentLink:
    """The connection of the moment, or none. A message to an agent that is away is dropped; the rejoin tells it all."""

    def __init__(self, socket_path: str, poller: select.poll, signals: Signals) -> None:
        self._socket_path = socket_path
        self._poller = poller
        self._signals = signals
        self._link: Link | None = None
        self._lost_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._link is not None

    @property
    def is_given_up(self) -> bool:
        """Whether the agent has been away for ten minutes."""
        return self._link is None and self._lost_at is not None and time.monotonic() - self._lost_at > _GIVE_UP_S

    def ask_for_start(self, request: wire.Message, meanwhile: Callable[[], object]) -> tuple[wire.Message, list[int]]:
        """Ask; an agent that is lost meanwhile is asked again once it is back, and lets nothing run twice.

        *meanwhile* is called while the agent is at work. Returns the answer and its descriptors. Raises AgentGone;
        BadAnswer for an answer that would be the same again.
        """
        for attempt in range(_ATTEMPTS):
            link = self._link = connect(self._socket_path, wait_s=60.0, timeout_s=900.0)
            try:
                link.send(request)
                meanwhile()
                answer = self._answer(link)
            except BadAnswer:
                raise
            except AgentGone:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                link.sock.settimeout(60.0)
                return answer
            request.fields["again"] = [b"1"]
        raise AssertionError("unreachable")

    def _answer(self, link: Link) -> tuple[wire.Message, list[int]]:
        waiting = False
        while True:
            if waiting and not link.pending:
                self._wait(link)
            message, fds = link.recv()
            if message.op == "waiting":
                waiting = True  # for what may take long; there is no container yet to pass a signal on to
            elif message.op == "notice":
                say(message.text("sentence"))
            else:
                return message, fds

    def _wait(self, link: Link) -> None:
        """Wait for the agent's next message; a signal that ends a job ends this process, as it would a bare job's."""
        poller = select.poll()
        poller.register(link.fileno(), select.POLLIN)
        poller.register(self._signals.wake, select.POLLIN)
        while True:
            ready = poller.poll()
            self._signals.die_if_fatal()
            if any(fd != self._signals.wake for fd, _ in ready):
                return
            self._signals.quiet()

    def watch(self) -> None:
        """Let the poller look at the connection."""
        if self._link is not None:
            self._poller.register(self._link.fileno(), select.POLLIN)

    def is_of(self, fd: int) -> bool:
        """Whether *fd* is the connection's."""
        return self._link is not None and fd == self._link.fileno()

    def tell(self, message: wire.Message) -> None:
        """Send a message."""
        if self._link is not None:
            try:
                self._link.send(message)
            except AgentGone:
                self._lose()

    def receive(self) -> list[tuple[wire.Message, list[int]]]:
        """The messages that have come, with their descriptors; none if the agent has gone."""
        found: list[tuple[wire.Message, list[int]]] = []
        link = self._link
        try:
            while link is not None:
                found.append(link.recv())
                if not link.pending:
                    break
        except AgentGone:
            self._lose()
        return found

    def rejoin(self, message: wire.Message) -> None:
        """Try to connect again and send *message*."""
        try:
            self._link = Link(self._socket_path, 60.0)
            self._link.send(message)
        except AgentGone:
            self._link = None
        else:
            self.watch()

    def _lose(self) -> None:
        if self._link is not None:
            try:
                self._poller.unregister(self._link.fileno())
            except KeyError:
                pass
            self._link.close()
            self._link = None
            self._lost_at = time.monotonic()
