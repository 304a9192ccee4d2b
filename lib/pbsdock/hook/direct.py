"""A run hook whose job is run by the container's first process: that has the job's own descriptors, and nothing of the
job's passes through here but a terminal's bytes, and its end."""

from __future__ import annotations

import errno
import os
import select
import time

from pbsdock.hook.adopt import Adoption
from pbsdock.hook.agent_link import REFUSED, AgentLink, say
from pbsdock.hook.signals import CHILD, CONTINUE, WINDOW, Signals
from pbsdock.protocol import init, wire

TYPE_CHECKING = False  # importing `typing` would cost a hook seven milliseconds
if TYPE_CHECKING:
    from pbsdock.hook.terminal import Pty

_ADOPT_AFTER_S = 0.5
_CONNECT_S = 60.0
_JOINS, _JOIN_PAUSE_S = 20, 0.05
_AGENT_AWAY_S = 5.0  # how long the end waits for an agent that is away: it has only sentences to add
_AGENT_AT_WORK_S = 120.0
_HEARD_S = 1.0


class Direct:
    """From the request to the first process to the job's end."""

    def __init__(
        self,
        request: wire.Message,
        answer: wire.Message,
        directory: int,
        hook: str,
        poller: select.poll,
        agent: AgentLink,
        signals: Signals,
    ) -> None:
        self.end: init.Answer | None = None  # as the first process tells it
        self._told: wire.Message | None = None  # as the agent does
        self._has_joined = False
        self._held = 0  # the task's process, which waits until root lets it go on
        self._is_lost = False  # the first process is gone without a word
        self._answer = answer
        self._name = answer.text("name")
        self._task = answer.text("task")
        self._run = _asked_for(request, answer)
        self._job_id = request.text("job")
        self._is_leader_alone = bool(answer.number("leader_alone"))
        self._socket = f"/proc/self/fd/{directory}/{init.SOCKET}"
        self._connection: init.Connection | None = None
        self._pty: Pty | None = None
        self._poller = poller
        self._agent = agent
        self._signals = signals
        self._adoption = Adoption(self._job_id, hook)
        self._parent = os.getppid()
        self._over_at = self._told_at = 0.0  # monotonic seconds

    def run(self) -> wire.Message:
        """Have the command run and wait until it is over; returns the agent's message of its end, or one in its place.

        Raises InitError, RequestError if nothing could be started.
        """
        connection = self._connection = init.Connection(self._socket, _CONNECT_S)
        connection.run(self._run)
        self._poller.register(connection.fileno(), select.POLLIN)
        self._poller.register(self._signals.wake, select.POLLIN)
        self._agent.watch()
        adopt_at = time.monotonic() + _ADOPT_AFTER_S
        while self._told is None or self._is_about_to_hear():
            if not self._agent.is_open:
                self._rejoin()
            if self._is_told_enough():
                break
            timeout = self._timeout()
            if self._adoption.is_due:
                if time.monotonic() >= adopt_at:
                    if not self._adoption.run_next():
                        self._tell("adopted", status=127)
                else:
                    timeout = 100
            ready = self._poller.poll(timeout)
            if self._signals.are_pending or any(fd == self._signals.wake for fd, _ in ready):
                self._pass_signals()
            for fd, _events in ready:
                self._handle(fd)
        self._adoption.stop()
        return self._told or _by_itself(self.end)

    def _is_told_enough(self) -> bool:
        """Whether the end is known and the agent has had its time to add to it."""
        if self.end is None and not self._is_lost:
            return False
        if self._agent.is_given_up:
            return True
        if self._is_lost or self._answer.number("results"):
            return False
        waits_s = _AGENT_AT_WORK_S if self._agent.is_open else _AGENT_AWAY_S
        return time.monotonic() - self._over_at > waits_s

    def _is_about_to_hear(self) -> bool:
        """Whether the first process may still tell what the agent has found out some other way."""
        return self._connection is not None and time.monotonic() - self._told_at < _HEARD_S

    def _timeout(self) -> int | None:
        """Milliseconds until something is to be done although nothing has come; None: never."""
        if not self._agent.is_open:
            return 200
        return 1000 if self.end is not None or self._told is not None else None

    def _handle(self, fd: int) -> None:
        if self._agent.is_of(fd):
            for message, handed_over in self._agent.receive():
                for extra in handed_over:
                    os.close(extra)
                self._understand(message)
        elif self._connection is not None and fd == self._connection.fileno():
            self._hear(self._connection)
        elif self._pty is not None:
            self._pty.handle(fd)

    # -- the first process ------------------------------------------------------------------------------------------

    def _hear(self, connection: init.Connection) -> None:
        try:
            answer = connection.receive()
            while self._take(answer, connection) and connection.pending:
                answer = connection.receive()
        except init.InitError:
            self._join_again()

    def _take(self, answer: init.Answer, connection: init.Connection) -> bool:
        """Understand an answer; returns whether more may come."""
        if answer.kind == init.PID:
            if not self._has_joined:  # else process 1 itself has sent it, whose session it is not
                self._adoption.plan(self._answer.text("pbs_track"), answer.host_pid, self._task)
                if self._answer.number("held"):
                    self._held = answer.host_pid
                    self._tell("held", pid=self._held)
            if answer.terminal >= 0:
                from pbsdock.hook.terminal import Pty

                self._pty = Pty(answer.terminal, self._poller)
        elif answer.kind == init.FAILED and (answer.step, answer.number) == ("id", errno.EEXIST):
            self._has_joined = True
            connection.send(init.encode_join(self._name))  # an agent was lost when this had been asked for
        elif answer.kind == init.ENDED or (answer.kind == init.FAILED and answer.step != "id"):
            self._conclude(answer)
            return False
        return True

    def _conclude(self, end: init.Answer | None) -> None:
        self.end, self._is_lost, self._over_at = end, end is None, time.monotonic()
        self._adoption.forget()
        if self._connection is not None:
            self._poller.unregister(self._connection.fileno())
            self._connection.close()
            self._connection = None
        if self._pty is not None:
            self._pty.drain()
            self._pty = None
        self._agent.tell(_over(self._job_id, self._task, self.end))

    def _join_again(self) -> None:
        """The connection broke: ask on another one, or take it that all is over."""
        if self._connection is not None:
            self._poller.unregister(self._connection.fileno())
            self._connection.close()
            self._connection = None
        self._has_joined = True
        for _attempt in range(_JOINS if self._told is None else 0):
            try:
                connection = init.Connection(self._socket, _CONNECT_S)
                connection.send(init.encode_join(self._name))
            except init.InitError:
                time.sleep(_JOIN_PAUSE_S)
                continue
            self._connection = connection
            self._poller.register(connection.fileno(), select.POLLIN)
            return
        self._conclude(None)

    def _send_signal(self, number: int) -> None:
        if self._connection is not None:
            try:
                self._connection.send(init.encode_signal(self._name, number, alone=self._is_leader_alone))
            except init.InitError:
                self._hear(self._connection)  # the end may have come before

    def _pass_signals(self) -> None:
        for number in self._signals.take():
            if number == CHILD:
                if (status := self._adoption.reap()) is not None:
                    self._tell("adopted", status=status)
            elif number == WINDOW:
                if self._pty is not None:
                    self._pty.resize()
            elif self._connection is None:
                self._signals.note(number)
                self._tell("signal", signal=number)  # results may be being staged out, which mom does not know of
            else:
                # An adopted session gets the signal from mom itself, unless mom was restarted since and forgot it.
                if not self._adoption.done or os.getppid() != self._parent:
                    self._send_signal(number)
                if number == CONTINUE:
                    self._tell("signal", signal=number)

    # -- the agent --------------------------------------------------------------------------------------------------

    def _tell(self, op: str, **fields: int) -> None:
        self._agent.tell(wire.Message(op, job=self._job_id, task=self._task, **fields))

    def _understand(self, message: wire.Message) -> None:
        if message.op == "ended":
            self._told, self._told_at = message, time.monotonic()
        elif message.op == "notice":
            say(message.text("sentence"))
        elif message.op in ("refused", "fault") and (self.end is not None or self._is_lost):
            self._told = _by_itself(self.end)  # an agent that does not know the job has nothing to add

    def _rejoin(self) -> None:
        self._agent.rejoin(wire.Message("rejoin", job=self._job_id, task=self._task, attached=1))
        if self._agent.is_open and (self.end is not None or self._is_lost):
            self._agent.tell(_over(self._job_id, self._task, self.end))
        elif self._agent.is_open and self._held:
            self._tell("held", pid=self._held)


def _asked_for(request: wire.Message, answer: wire.Message) -> init.Run:
    """What the agent's *answer* lets the first process be asked for; terminal and umask are this hook's own."""
    argv = answer.raw("argv")
    flags = init.SESSION | (0 if b"/" in argv[0] else init.SEARCH)
    flags |= (0 if answer.text("task") else init.LEADER) | (init.TERMINAL if request.number("tty") else 0)
    limits = {}
    for line in answer.raw("limit"):
        number, soft, hard = map(int, line.split())
        limits[number] = (soft, hard)
    return init.Run(
        answer.text("name"),
        argv,
        answer.raw("env"),
        (answer.raw("directory") or [b"/"])[0],
        umask=request.number("umask"),
        flags=flags,
        limits=limits,
        window=(request.number("rows"), request.number("columns"), 0, 0),
    )


def _over(job_id: str, task: str, end: init.Answer | None) -> wire.Message:
    """The end as the agent is told it; None: the first process is gone without a word."""
    over = wire.Message("over", job=job_id, task=task)
    if end is not None:
        for key, value in (("kind", end.kind), ("number", end.number)):
            over.fields[key] = [str(value).encode()]
        over.fields["step"], over.fields["path"] = [end.step.encode()], [end.path]
    return over


def _by_itself(end: init.Answer | None) -> wire.Message:
    """The end as it can be told without the agent."""
    if end is None:
        return wire.Message("ended", code=REFUSED, sentence="the agent of this node is gone; the job's end is unknown")
    if end.kind == init.FAILED:
        path = f" {os.fsdecode(end.path)}" if end.path else ""
        why = f"the job's command was not started: {end.step}{path}: {os.strerror(end.number)}"
        return wire.Message("ended", code=REFUSED, sentence=why)
    return wire.Message("ended", code=end.code)
