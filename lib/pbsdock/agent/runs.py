"""What is under way: the run of a job's own container, and of a TM task in it, from start to end."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from pbsdock.agent.channel import Channel, ClientGone
from pbsdock.agent.outage import Outage
from pbsdock.agent.shell import awaits_script
from pbsdock.core.record import Record
from pbsdock.host import shm
from pbsdock.host.process import alive
from pbsdock.protocol import wire


@dataclass(slots=True)
class Run:
    """Something a run hook waits for; any thread may end it."""

    record: Record
    pid: int = 0
    pid_start: int = 0  # when that process began, in clock ticks since the boot; 0 where nobody has noted it
    channel: Channel | None = None  # the run hook's, who alone may speak for this run
    ended: wire.Message | None = None
    gone_since: float | None = None  # since when the kernel has no such first process; monotonic seconds
    stream_lost_at: float | None = None  # since when nobody reads the output; seconds since the epoch
    restoring: Channel | None = None  # for whom a thread is at work to open new streams
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
    """The run of a job's own container."""

    outage: Outage | None = None  # the engine's last one while this ran
    shm_was_full: bool = False  # its /dev/shm, when it was last looked at or before
    out_of_memory: bool = False  # the engine has said so; a process was killed, not necessarily the first one

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

    def awaits_script(self) -> bool:
        """Whether its shell has run nothing and never will; takes a moment to be sure of."""
        return self.is_alive() and awaits_script(self.pid, self.record.facts.waited_for)


@dataclass(slots=True)
class TaskRun(Run):
    """The run of a TM task in the container of its job."""

    exec_id: str = ""

    @property
    def key(self) -> str:
        """The engine's id of the exec."""
        return self.exec_id
