"""What is under way: the run of a job's own container, and of a TM task in it, from start to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pbsdock.agent.channel import Channel, ClientGone
from pbsdock.agent.outage import Outage
from pbsdock.core.record import Record
from pbsdock.host import shm
from pbsdock.host.process import Caller, alive
from pbsdock.protocol import init, wire

_COMES_BACK_S = 5.0  # a run hook that has lost its connection


@dataclass(slots=True)
class Run:
    """Something a run hook waits for; any thread may end it."""

    record: Record
    pid: int = 0
    pid_start: int = 0  # when that process began, in clock ticks since the boot; 0 where nobody has noted it
    channel: Channel | None = None  # the run hook's, who alone may speak for this run
    ended: wire.Message | None = None
    gone_since: float | None = None  # since when the kernel has no such first process; monotonic seconds
    said: init.Answer | None = None  # how it ended, as its run hook has heard it from the first process
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> str:
        """What it is known by."""
        raise NotImplementedError

    def is_alive(self) -> bool:
        """Whether its first process is there, and not another one with its number."""
        return alive(self.pid, self.pid_start)

    def end(self, message: wire.Message) -> bool:
        """Tell the run hook how it ended, and whoever waits for that here; returns whether the hook was there."""
        try:
            with self.lock:
                self.ended = message
                return self._send(message)
        finally:
            self.over.set()

    def _send(self, message: wire.Message) -> bool:
        """Send to the run hook if it is there, without waiting: a hook that is gone comes back and asks."""
        if self.channel is None:
            return False
        try:
            self.channel.send(message)
        except ClientGone:
            self.channel = None
            return False
        return True

    def join(self, channel: Channel) -> wire.Message | None:
        """From now on the run hook is at the other end of *channel*; returns the end it may have missed."""
        with self.lock:
            self.channel = channel
            return self.ended

    def leave(self, channel: Channel) -> None:
        """The connection is over; another may have taken its place."""
        with self.lock:
            if self.channel is channel:
                self.channel = None


@dataclass(slots=True)
class JobRun(Run):
    """The run of a job's own container, with its first process."""

    outage: Outage | None = None  # the engine's last one while this ran
    stream_lost_at: float | None = None  # since when nobody reads the output; seconds since the epoch
    shm_was_full: bool = False  # its /dev/shm, when it was last looked at or before
    out_of_memory: bool = False  # the engine has said so; a process was killed, not necessarily the first one
    hook: Caller | None = None  # the run hook
    is_frozen: bool | None = None  # None: nobody has looked yet

    @property
    def key(self) -> str:
        """The job's incarnation."""
        return self.record.incarnation

    def look_at_shm(self) -> None:
        """See how full its /dev/shm is, which the kernel keeps no peak of."""
        if (found := shm.used(self.pid)) is None:
            return
        size, is_full = found
        self.shm_was_full = self.shm_was_full or is_full
        if size > (self.record.facts.shm_peak_bytes or 0):
            self.record.note(shm_peak_bytes=size)


@dataclass(slots=True)
class TaskRun(Run):
    """The run of a TM task in the container of its job, by the first process. ``name`` is what that knows it by.

    The first process tells the run hook alone how it ended: it is alive as long as that is.
    """

    name: str = ""
    alone_since: float | None = None  # since when there is no run hook; monotonic seconds

    @property
    def key(self) -> str:
        """Of all jobs' tasks."""
        return f"{self.record.incarnation}/{self.name}"

    def is_alive(self) -> bool:
        """Whether its run hook is there, or may come back."""
        if self.channel is not None:
            self.alone_since = None
            return True
        self.alone_since = self.alone_since or time.monotonic()
        return time.monotonic() - self.alone_since < _COMES_BACK_S


@dataclass(slots=True)
class ChildRun(Run):
    """The run of a container that the job has started itself, known by its ``name``, the child's key.

    ``abandon`` is called where the client that waits for it is gone without a word, None where none has to be there.
    ``client`` is who waits for it (process id and start), 0 where nobody does; ``begins_by``, in monotonic seconds, is
    when the command of one that nobody waits for must have begun.
    """

    name: str = ""
    client: tuple[int, int] = (0, 0)
    begins_by: float = 0.0
    abandon: Callable[[], None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # of its command; not known after a restart
    waiters: list[Callable[[], None]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Of all jobs' children."""
        return f"{self.record.incarnation}/{self.name}"

    def when_over(self, act: Callable[[], None]) -> None:
        """Have *act* called once when it is over, now if it is; in whatever thread finds that out."""
        with self.lock:
            if not self.over.is_set():
                self.waiters.append(act)
                return
        act()

    def conclude(self) -> None:
        """It is over, and written down."""
        with self.lock:
            self.over.set()
            waiters, self.waiters = self.waiters, []
        for act in waiters:
            act()

    def leave(self, channel: Channel) -> None:
        """A client that was killed leaves nobody who reads what its container writes."""
        with self.lock:
            is_its_own = self.channel is channel
            if is_its_own:
                self.channel = None
        if is_its_own and self.abandon is not None and not self.over.is_set():
            self.abandon()


@dataclass(slots=True)
class ExecRun(TaskRun):
    """The run of a TM task where the engine runs it. ``name`` is the engine's id of the exec."""

    @property
    def key(self) -> str:
        """The engine's id, by which its events know it too."""
        return self.name

    def is_alive(self) -> bool:
        """Whether its first process is there."""
        return Run.is_alive(self)
