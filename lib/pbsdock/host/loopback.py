"""HTTP servers for processes of this node: on a loopback address or a unix socket, bounded in all and per user."""

from __future__ import annotations

import grp
import os
import socket
import socketserver
import struct
import threading
from collections import Counter
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import Any

# 127.0.0.1, the same of an IPv6 socket, and ::1, as proc(5) spells them on little-endian machines
_LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def peer_uid(table: str, client_port: int, server_port: int) -> int | None:
    """The user of the client's end of a loopback connection, from the text of /proc/net/tcp and tcp6 (proc(5)); None if
    it is in neither."""
    wanted = [(f"{address}:{client_port:04X}", f"{address}:{server_port:04X}") for address in _LOOPBACK]
    for line in table.splitlines():
        fields = line.split()
        if tuple(fields[1:3]) in wanted:
            return int(fields[7])
    return None


def tcp_tables() -> str:
    """The text of /proc/net/tcp and tcp6."""
    found = ""
    for name in ("tcp", "tcp6"):
        try:
            found += Path(f"/proc/net/{name}").read_text(encoding="ascii")
        except FileNotFoundError:
            continue  # a node without IPv6
    return found


class BoundedServer(ThreadingHTTPServer):
    """A thread a connection; one too many, in all or of one user, is closed. Raises OSError if the address is taken."""

    daemon_threads = True
    thread_name = "http"
    # With the base class's 5, the SYN of the sixth at once is lost and sent again after a second.
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int] | str, handler: type[BaseRequestHandler], *, at_once: int, of_one_user: int
    ) -> None:
        if isinstance(address, tuple) and ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)  # type: ignore[arg-type] # socketserver takes any family's addresses
        self._of_one_user = of_one_user
        self._free = threading.Semaphore(at_once)
        self._open: Counter[int | None] = Counter()  # by user
        self._lock = threading.Lock()

    def server_bind(self) -> None:
        """Bind, without the look-up of a host name that the base class makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def uid_of(self, request: Any, client_address: Any) -> int | None:
        """The user at the other end; None if the kernel does not know."""
        return peer_uid(tcp_tables(), client_address[1], self.server_port)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for it, if there are not too many, of this user or of all."""
        uid = self.uid_of(request, client_address)
        with self._lock:
            granted = self._open[uid] < self._of_one_user and self._free.acquire(blocking=False)
            self._open[uid] += granted
        if granted:
            super().process_request(request, (client_address, uid))
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection; its address comes with the user from the method above."""
        address, uid = client_address
        try:
            super().process_request_thread(request, address)
        finally:
            self._free.release()
            with self._lock:
                self._open[uid] -= 1
                if not self._open[uid]:
                    del self._open[uid]

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client that went away is no news."""

    def start(self) -> None:
        """Serve from now on."""
        threading.Thread(target=self.serve_forever, name=self.thread_name, daemon=True).start()


class BoundedUnixServer(BoundedServer):
    """The same on a unix socket, in place of the file a dead agent left there.

    Root may connect, and *group* where one is given. Raises OSError; KeyError for a group that does not exist.
    """

    address_family = socket.AF_UNIX

    def __init__(
        self, path: str, handler: type[BaseRequestHandler], *, group: str, at_once: int, of_one_user: int
    ) -> None:
        self._group = grp.getgrnam(group).gr_gid if group else 0
        super().__init__(path, handler, at_once=at_once, of_one_user=of_one_user)

    def server_bind(self) -> None:
        """Bind beside the path and rename, so that nobody connects before the mode is right."""
        path = str(self.server_address)
        temporary = f"{path}.{os.getpid()}"
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        self.socket.bind(temporary)
        try:
            os.chown(temporary, 0, self._group)
            os.chmod(temporary, 0o660)
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        self.server_name, self.server_port = path, 0

    def uid_of(self, request: Any, client_address: Any) -> int | None:
        """As SO_PEERCRED says (unix(7))."""
        raw = request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", raw)[1])
