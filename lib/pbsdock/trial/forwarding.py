"""A port of an emulated node's own loopback that leads to the same port of this host's, such as a registry's."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from contextlib import suppress

_NEWNET = 0x40000000
_LOOPBACK = "127.0.0.1"


def forward(pid: int, port: int) -> socket.socket:
    """Listen in the network of process *pid*; to be closed by the caller. Raises OSError."""
    made: list[socket.socket | OSError] = []

    def listen() -> None:
        # A namespace is the thread's, and a socket stays where it was made.
        try:
            space = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(space, _NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                made.append(socket.create_server((_LOOPBACK, port)))
            finally:
                os.close(space)
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    threading.Thread(target=_accept, args=(made[0], port), daemon=True).start()
    return made[0]


def _accept(listener: socket.socket, port: int) -> None:
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection((_LOOPBACK, port))
        except OSError:
            near.close()
            continue
        for pair in ((near, far), (far, near)):
            threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
