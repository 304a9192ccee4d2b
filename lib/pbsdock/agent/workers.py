"""The agent's end of a staging worker: where it comes from, what it is told, and how it is ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pbsdock.core.waiting import readable
from pbsdock.staging.order import Order, messages, send

_START_S = 20.0
_CODE = (
    "import sys, socket; sys.path.insert(0, sys.argv[1]); from pbsdock.staging.spawner import main;"
    " main(socket.socket(fileno=int(sys.argv[2])))"
)


class Worker:
    """A process of a job's user that carries out one order; ended by :meth:`kill`, whatever it does."""

    def __init__(self, channel: socket.socket, pidfd: int) -> None:
        self._channel = channel
        self._pidfd = pidfd
        self._lock = threading.Lock()

    def obey(self, order: Order, keys: Callable[[str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Give it its order and yield what it tells until it is gone; *keys* has fresh ones of a store."""
        try:
            send(self._channel, order.to_dict())
            for message in messages(self._channel):
                if "keys" in message:
                    send(self._channel, keys(str(message["keys"])))
                else:
                    yield message
        except OSError:
            return
        finally:
            self.kill()
            self._channel.close()

    def tell_umask(self, umask: int) -> None:
        """Tell the umask a stage-in's files are to follow. One that is gone is told nothing."""
        with contextlib.suppress(OSError):
            send(self._channel, {"umask": umask})

    def kill(self) -> None:
        """End it, and wait until it is no more."""
        with self._lock:
            if self._pidfd < 0:
                return
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            readable(self._pidfd, _START_S)  # it is so once it has ended (pidfd_open(2))
            os.close(self._pidfd)
            self._pidfd = -1


class Spawner:
    """Starts the process that workers are forked from when the first is wanted, and again when it is gone."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def worker(self) -> Worker:
        """A worker that waits for its order. Raises OSError."""
        with self._lock:
            for again in (True, False):
                if self._control is None:
                    self._start()
                ours, theirs = socket.socketpair()
                with theirs:
                    try:
                        assert self._control is not None
                        socket.send_fds(self._control, [b"w"], [theirs.fileno()])
                        data, fds, _, _ = socket.recv_fds(self._control, 1, 1)
                        if data and fds:
                            return Worker(ours, fds[0])
                    except OSError:
                        if not again:
                            raise
                    ours.close()
                self._stop()
        raise OSError("no staging worker can be had")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(_START_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CODE, str(self._library), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={
                    "PATH": "/usr/bin:/bin",
                    "LANG": "C.UTF-8",
                    "AWS_EC2_METADATA_DISABLED": "true",
                    "AWS_CONFIG_FILE": "/dev/null",
                    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
                },
            )
        self._control = ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
