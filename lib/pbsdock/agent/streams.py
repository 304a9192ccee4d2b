"""The engine's streams that run hooks were given: one outstanding for each run, and none longer than it is of use.

A stream costs the engine a dozen descriptors and some threads until its other end is closed, and the other end is a
descriptor in a user's hands. The agent therefore keeps one too: it sees by it whether the stream is lost, and ends the
connection for everybody who holds it. Kept for longer than somebody reads, it would stop the job's output.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pbsdock.agent.runs import Run, TaskRun

_COMES_BACK_S = 5.0  # a run hook that has lost its connection
_OVER_S = 1.0  # one whose run is over has gone


@dataclass(slots=True)
class _Stream:
    running: Run
    end: socket.socket
    is_given: bool = False
    alone_since: float | None = None  # monotonic seconds

    def close(self) -> None:
        """End the connection, whoever has a copy of the descriptor; what has come in by it can still be read."""
        try:
            self.end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the engine has closed it
        self.end.close()


class Streams:
    """By run; any thread. Nothing here waits for anybody."""

    def __init__(self) -> None:
        self._held: dict[str, _Stream] = {}
        self._lock = threading.Lock()

    @contextmanager
    def giving(self, running: Run, stream: socket.socket) -> Iterator[int]:
        """Take over *stream* and yield the descriptor for *running*'s hook; one it had before is ended.

        Where it cannot be given it is ended too.
        """
        new = _Stream(running, stream)
        with self._lock:
            older = self._held.get(running.key)
            self._held[running.key] = new
        if older is not None:
            older.close()
        try:
            yield stream.fileno()
        except BaseException:
            with self._lock:
                if self._held.get(running.key) is new:
                    del self._held[running.key]
            new.close()
            raise
        new.is_given = True

    def tasks(self, incarnation: str) -> set[str]:
        """The tasks of a job whose hooks are there and hold a stream, be the task over or not."""
        with self._lock:
            held = [stream.running for stream in self._held.values()]
        return {
            run.key
            for run in held
            if isinstance(run, TaskRun) and run.channel and run.record.incarnation == incarnation
        }

    def look(self) -> None:
        """End those nobody reads: of runs that are over, and of hooks that do not come back."""
        now = time.monotonic()
        with self._lock:
            for stream in self._held.values():
                is_alone = stream.is_given and stream.running.channel is None
                stream.alone_since = (stream.alone_since or now) if is_alone else None
            ripe = [
                key
                for key, stream in self._held.items()
                if stream.alone_since is not None
                and now - stream.alone_since >= (_OVER_S if stream.running.over.is_set() else _COMES_BACK_S)
            ]
            ended = [self._held.pop(key) for key in ripe]
        for stream in ended:
            stream.close()

    def end(self, incarnation: str) -> None:
        """End those of a job and its tasks: it is released."""
        with self._lock:
            keys = [key for key, stream in self._held.items() if stream.running.record.incarnation == incarnation]
            ended = [self._held.pop(key) for key in keys]
        for stream in ended:
            stream.close()
