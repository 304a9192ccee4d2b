"""What a run hook relays while its job's container lives, where the engine passes on the job's streams.

The way with a first process of our own is :mod:`pbsdock.hook.direct`.
"""

from __future__ import annotations

import errno
import os
import select
import time

from pbsdock.hook.adopt import Adoption
from pbsdock.hook.agent_link import REFUSED, AgentLink, say
from pbsdock.hook.signals import CHILD, WINDOW, Signals
from pbsdock.hook.streams import Streams
from pbsdock.protocol import wire

_ADOPT_AFTER_S = 0.5
_TOO_LARGE = 128 + 25  # SIGXFSZ, which a bare job's shell reports for a writer past its limit (setrlimit(2))
_NOT_WRITTEN = 74  # EX_IOERR of sysexits.h


class Relay:
    """What goes between agent, engine, Torque and this process while the job's container lives."""

    def __init__(
        self,
        request: wire.Message,
        answer: wire.Message,
        hook: str,
        poller: select.poll,
        agent: AgentLink,
        signals: Signals,
    ) -> None:
        self._task = answer.text("task")
        self._tty = bool(request.number("tty"))
        self._ended: wire.Message | None = None
        self._streams = Streams(poller, tty=self._tty)
        self._job_id = request.text("job")
        self._poller = poller
        self._agent = agent
        self._signals = signals
        self._adoption = Adoption(self._job_id, hook)
        self._adoption.plan(answer.text("pbs_track"), answer.number("pid"), self._task)
        self._parent = os.getppid()

    def run(self, fds: list[int]) -> wire.Message:
        """Relay the streams *fds* until the container is over; returns the agent's message of its end."""
        self._streams.open(fds)
        self._poller.register(self._signals.wake, select.POLLIN)
        self._agent.watch()
        # Mom takes a sample every 45 s: a job that ends before this pause has nothing to be counted, and its start
        # does not have to share the CPU with another program's.
        adopt_at = time.monotonic() + _ADOPT_AFTER_S
        while True:
            if not self._agent.is_open:
                self._rejoin()
            if self._ended is not None and not self._streams.are_open:
                break
            timeout = self._timeout()
            if self._adoption.is_due:
                if time.monotonic() >= adopt_at:
                    if not self._adoption.run_next():
                        self._tell("adopted", status=127)
                elif timeout is None:
                    timeout = 100
            ready = self._poller.poll(timeout)
            if not ready and self._streams.are_open and self._ended is not None:
                break  # the engine keeps a stream open although the container is over: nothing more will come
            if self._signals.are_pending or any(fd == self._signals.wake for fd, _ in ready):
                self._pass_signals()
            for fd, _events in ready:
                if self._agent.is_of(fd):
                    for message, handed_over in self._agent.receive():
                        self._understand(message, handed_over)
                elif self._streams.handle(fd):
                    self._tell("eof")
        self._adoption.stop()
        return _with_losses(self._ended, self._streams.failed)

    def _timeout(self) -> int | None:
        """Milliseconds until something is to be done although nothing has come; None: never."""
        if self._ended is not None:
            # Seen now and then: the engine keeps the stream open. A deleted job has mom's kill delay, 2 s, to end.
            return 1000 if self._signals.fatal else 5000
        return None if self._agent.is_open else 200

    def _tell(self, op: str, **fields: int) -> None:
        self._agent.tell(wire.Message(op, job=self._job_id, task=self._task, **fields))

    def _pass_signals(self) -> None:
        for number in self._signals.take():
            if number == CHILD:
                if (status := self._adoption.reap()) is not None:
                    self._tell("adopted", status=status)
            elif number == WINDOW:
                if self._tty:
                    from pbsdock.hook.terminal import window

                    rows, columns = window()
                    self._tell("resize", rows=rows, columns=columns)
            else:
                self._signals.note(number)
                # An adopted session gets the signal from mom itself, unless mom was restarted since and forgot it.
                # Once its streams are over it may be staging out, which mom does not know of.
                if not self._adoption.done or not self._streams.are_open or os.getppid() != self._parent:
                    self._tell("signal", signal=number)

    def _understand(self, message: wire.Message, fds: list[int]) -> None:
        if message.op == "ended":
            self._ended = message
        elif message.op == "notice":
            say(message.text("sentence"))
        elif message.op == "refused" and message.text("code") == "no-such-job":
            self._ended = _refused(message.text("sentence"))
        for fd in fds:
            os.close(fd)

    def _rejoin(self) -> None:
        if self._ended is not None:
            return
        attached = int(self._streams.are_open)
        self._agent.rejoin(wire.Message("rejoin", job=self._job_id, task=self._task, attached=attached))
        if not self._agent.is_open and self._agent.is_given_up:
            self._ended = _refused("the pbsdock agent on this node is gone; the job's end is unknown")


def _with_losses(ended: wire.Message, failed: dict[int, int]) -> wire.Message:
    """The end, which is no success where output was lost: a bare job's own write would have failed."""
    for fd, number in failed.items():
        name = "standard error" if fd == 2 else "standard output"
        said = f"the job's {name} was cut off: {os.strerror(number)}"
        ended.fields["sentence"] = [*ended.raw("sentence"), said.encode()]
        if ended.number("code") == 0:
            ended.fields["code"] = [str(_TOO_LARGE if number == errno.EFBIG else _NOT_WRITTEN).encode()]
    return ended


def _refused(sentence: str) -> wire.Message:
    return wire.Message("ended", code=REFUSED, sentence=sentence)
