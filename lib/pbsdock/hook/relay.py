"""What a run hook relays while its job's container lives."""

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
        self._streams = Streams(poller, tty=self._tty, last_words=_last_words(request, self._task))
        self._request = request
        self._job_id = request.text("job")
        self._poller = poller
        self._agent = agent
        self._signals = signals
        self._adoption = Adoption(self._job_id, hook)
        self._adoption.plan(answer, self._task)
        self._parent = os.getppid()
        self._again = False  # whether a second start was asked for and is under way

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
        is_waited_for = not self._streams.are_open and self._ended is None
        if message.op == "ended":
            self._ended = message
        elif message.op == "notice":
            say(message.text("sentence"))
        elif (message.op == "refused" and message.text("code") == "no-such-job") or (
            self._again and message.op in ("refused", "fault")
        ):
            self._ended = _refused(message.text("sentence"))
        elif message.op == "again" and is_waited_for:
            self._start_again()
        elif self._again and message.op == "started" and fds and not self._streams.are_open:
            self._again = False
            self._adoption.plan(message, self._task)
            self._streams.open_again(fds, restored=False)
        elif message.op == "attached" and fds and is_waited_for:
            if sentence := message.text("sentence"):
                say(sentence)
            self._streams.open_again(fds, restored=True)
        else:
            for fd in fds:
                os.close(fd)

    def _start_again(self) -> None:
        """Ask for a new container: the shell in the old one never got what it is to run."""
        if self._streams.sent is None:
            self._ended = _refused(
                "the Docker engine of this node was restarted while the job started; submit it again"
            )
            return
        self._again = True
        self._adoption.forget()
        self._request.fields["again"] = [b"1"]
        self._agent.tell(self._request)

    def _rejoin(self) -> None:
        if self._ended is not None:
            return
        attached = int(self._streams.are_open)
        rejoin = wire.Message("rejoin", job=self._job_id, task=self._task, attached=attached)
        self._agent.rejoin(self._request if self._again else rejoin)
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


def _last_words(request: wire.Message, task: str) -> bytes:
    """What ends a shell that has run its script as the end of its input would, with the script's status: an engine
    restarted with live-restore does not pass that end on (observed with Docker 20.10)."""
    argv = request.raw("argv")
    if request.number("tty") or task or len(argv) != 1:
        return b""
    return b"exit $status\n" if argv[0].endswith((b"csh", b"fish")) else b"exit $?\n"
