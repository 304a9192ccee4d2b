"""Where systemd is the service manager: its socket, the word that we are ready, and the watchdog's sign of life.

Protocols: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3). They are a few lines each, and a library for them
would be one more thing root loads.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pbsdock.protocol import wire

_FIRST_FD = 3
_TURN_AWAY_S = 1.0


@dataclass(frozen=True, slots=True)
class Service:
    """What the service manager gave this process; nothing where nobody did."""

    notify: str = ""
    watchdog_s: float = 0.0
    fd: int = -1

    @classmethod
    def take(cls, environment: Mapping[str, str], pid: int) -> Service:
        """Read it from the environment, before that is cleared; what is meant for another process is left alone."""
        mine = environment.get("LISTEN_PID") == str(pid) and environment.get("LISTEN_FDS") == "1"
        if mine:
            os.set_inheritable(_FIRST_FD, False)
        watched = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        return cls(
            notify=environment.get("NOTIFY_SOCKET", ""),
            fd=_FIRST_FD if mine else -1,
            watchdog_s=int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if watched else 0.0,
        )

    def socket(self) -> socket.socket | None:
        """The listening socket, opened by the manager before us and kept by it when we die."""
        return socket.socket(fileno=self.fd) if self.fd >= 0 else None

    def tell(self, text: str) -> None:
        """One datagram to the manager; it is no fault of a job's if that cannot be said."""
        if not self.notify:
            return
        address = "\0" + self.notify[1:] if self.notify.startswith("@") else self.notify
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.sendto(text.encode(), address)
        except OSError:
            pass

    def ready(self, door: str, is_well: Callable[[], bool] = lambda: True) -> None:
        """Say that we answer, and go on saying so as long as we do at *door* and *is_well* says yes."""
        self.tell("READY=1")
        if self.watchdog_s:
            threading.Thread(target=self._watch, args=(door, is_well), name="watchdog", daemon=True).start()

    def stopping(self) -> None:
        """Say that we end because we were told to."""
        self.tell("STOPPING=1")

    def turn_away(self) -> None:
        """Close what knocks although we cannot serve: a hook must not wait for mom's alarm before it says so."""
        listener = self.socket()
        if listener is None:
            return
        with listener:
            deadline = time.monotonic() + _TURN_AWAY_S
            while (left := deadline - time.monotonic()) > 0:
                listener.settimeout(left)
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

    def _watch(self, door: str, is_well: Callable[[], bool]) -> None:
        while True:
            if answers(door, self.watchdog_s / 2) and is_well():
                self.tell("WATCHDOG=1")
            time.sleep(self.watchdog_s / 4)


def answers(door: str, timeout_s: float) -> bool:
    """Whether the agent takes a connection and does anything with it, be it to close it when too many are open."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
            client.settimeout(timeout_s)
            client.connect(door)
            client.sendall(wire.encode(wire.Message("ping")))
            client.recv(64)
    except TimeoutError:
        return False
    except OSError:
        return True  # it was closed on us: somebody is there to do that
    return True
