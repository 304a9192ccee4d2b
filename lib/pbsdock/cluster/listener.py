"""The agent's TCP port for other nodes' agents: one signed request and one signed answer a connection.

One thread takes connections, reads and writes, and never waits for anybody; a few workers check signatures and answer.
Nothing of a request is parsed, and nothing at all is said, before its signature holds.

Who is bounded how: a connection has :data:`READ_S` to send its line, and as long again to take the answer. An address
has two budgets, one for ports that only root can bind, which agents use: so no user of a node can use up its agent's.
Users' ports together leave room for root's.
"""

from __future__ import annotations

import os
import queue
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from pbsdock.cluster.channel import (
    MOST_LINE,
    VERSION,
    Request,
    Unfit,
    answer_line,
    is_same_host,
    read_request,
)
from pbsdock.cluster.replays import Replays
from pbsdock.cluster.signing import Signer
from pbsdock.core.errors import HookError
from pbsdock.core.rates import Rates

READ_S = 5.0
AT_ONCE = 32  # connections
_OF_USERS = 24  # of them from ports that anybody can bind
_OF_ONE = 8  # of one address and kind of port
_BURST, _PER_SECOND = 128, 32.0  # connections of the same
_WORKERS = 4
_BACKLOG = 256  # those there is no room for yet wait in the kernel
_LOOK_S = 0.5
_RESERVED = 1024  # ports below are root's (ip(7), ip_unprivileged_port_start)
_TOLD = (20, 4 / 60)  # events of refusals: at once, and a second

Answer = Mapping[str, Any]
Handler = Callable[[Request], Answer]
Emit = Callable[..., None]
Origin = tuple[str, bool]  # address, whether the port is root's


class _Connection:
    """One client, from accept to close."""

    def __init__(self, sock: socket.socket, origin: Origin) -> None:
        self.socket = sock
        self.origin = origin
        self.data = bytearray()  # what has come of its line, then what is left of the answer
        self.deadline: float | None = time.monotonic() + READ_S  # None while it is being answered


class Listener:
    """*handlers*: operation -> what answers it, in a worker's thread; they must not take long.

    Many methods because a connection goes through all of them: accepted, read, answered, written, closed.

    *name*: this node's; a request for another is refused. *emit* tells of events. Raises OSError if the port is taken;
    with *port* 0 the kernel chooses one.
    """

    def __init__(
        self,
        signer: Signer,
        port: int,
        name: str,
        handlers: Mapping[str, Handler],
        emit: Emit,
        *,
        skew_s: float = 900.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer, self._name, self._handlers, self._emit = signer, name, handlers, emit
        self._replays = Replays(skew_s, clock)
        self._rates = Rates()
        self._lock = threading.Lock()  # of what workers use: replays, and how many refusals were told
        self._told = Rates()
        self._untold = 0
        self._open: Counter[Origin] = Counter()
        self._connections: set[_Connection] = set()
        self._asked: queue.SimpleQueue[_Connection | None] = queue.SimpleQueue()
        self._answered: deque[tuple[_Connection, bytes]] = deque()
        self._selector = selectors.DefaultSelector()
        self._listening = _bind(port)
        self.port: int = self._listening.getsockname()[1]
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._is_stopped = False
        self._is_accepting = False

    def start(self) -> None:
        """Serve from now on."""
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._accept_again()
        self._threads = [
            threading.Thread(target=self._serve, name="channel", daemon=True),
            *(threading.Thread(target=self._work, name="channel-worker", daemon=True) for _ in range(_WORKERS)),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Close everything, and wait until nobody is served any more."""
        self._is_stopped = True
        self._stir()
        for thread in self._threads:
            thread.join()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._is_stopped:
            try:
                self._turn()
            except Exception as error:  # what nobody has foreseen of one connection must not end all others
                self._emit("agent.error", level="error", where="channel", reason=repr(error)[:300])
                time.sleep(_LOOK_S)
        for connection in [*self._connections]:
            self._close(connection)
        self._listening.close()
        for _ in range(_WORKERS):
            self._asked.put(None)

    def _turn(self) -> None:
        for key, _ in self._selector.select(_LOOK_S if self._connections else None):
            if key.fileobj is self._listening:
                self._accept()
            elif isinstance(key.data, _Connection):
                self._go_on(key.data)
            else:
                _drain(self._woken)
        while self._answered:
            self._begin_answer(*self._answered.popleft())
        now = time.monotonic()
        for connection in [*self._connections]:
            if connection.deadline is not None and now > connection.deadline:
                self._close(connection)
        if not self._is_accepting and len(self._connections) < AT_ONCE:
            self._accept_again()

    def _accept_again(self) -> None:
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._is_accepting = True

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            if len(self._connections) >= AT_ONCE:
                self._selector.unregister(self._listening)
                self._is_accepting = False
                return
            try:
                sock, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError:
                time.sleep(0.05)  # out of descriptors: clients wait in the backlog meanwhile
                return
            origin = str(address[0]), address[1] < _RESERVED
            if reason := self._too_many(origin):
                sock.close()
                self._refused(origin[0], reason)
                continue
            sock.setblocking(False)
            connection = _Connection(sock, origin)
            self._open[origin] += 1
            self._connections.add(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)

    def _too_many(self, origin: Origin) -> str:
        of_users = sum(count for (_, is_roots), count in self._open.items() if not is_roots)
        if self._open[origin] >= _OF_ONE or (not origin[1] and of_users >= _OF_USERS):
            return "too many connections at a time"
        if not self._rates.take(origin, _BURST, _PER_SECOND):
            return "too many connections in a short time"
        return ""

    def _go_on(self, connection: _Connection) -> None:
        try:
            if connection.deadline is None:
                return
            if self._selector.get_key(connection.socket).events & selectors.EVENT_WRITE:
                self._write(connection)
            else:
                self._read(connection)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)

    def _read(self, connection: _Connection) -> None:
        more = connection.socket.recv(MOST_LINE + 1 - len(connection.data))
        if not more:
            self._close(connection)
            return
        connection.data += more
        if b"\n" in more:
            if len(connection.data.partition(b"\n")[0]) + 1 > MOST_LINE:
                self._turn_away(connection, "its line is too long")
                return
            self._selector.unregister(connection.socket)
            connection.deadline = None
            self._asked.put(connection)
        elif len(connection.data) >= MOST_LINE:
            self._turn_away(connection, "its line is too long")

    def _begin_answer(self, connection: _Connection, line: bytes) -> None:
        if not line:
            self._close(connection)
            return
        connection.data[:] = line
        connection.deadline = time.monotonic() + READ_S
        self._selector.register(connection.socket, selectors.EVENT_WRITE, connection)
        self._go_on(connection)

    def _write(self, connection: _Connection) -> None:
        sent = connection.socket.send(connection.data)
        del connection.data[:sent]
        if not connection.data:
            self._close(connection)

    def _turn_away(self, connection: _Connection, reason: str) -> None:
        self._refused(connection.origin[0], reason)
        self._close(connection)

    def _close(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        if connection.socket in self._selector.get_map():
            self._selector.unregister(connection.socket)
        self._open[connection.origin] -= 1
        if not self._open[connection.origin]:
            del self._open[connection.origin]
        connection.socket.close()

    # -- the workers --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (connection := self._asked.get()) is not None:
            line = b""
            try:
                line = self._answer(connection)
            except (HookError, Unfit) as error:
                self._refused(connection.origin[0], str(error))
            except Exception as error:
                self._emit("agent.error", level="error", where="channel", reason=repr(error)[:300])
            self._answered.append((connection, line))
            self._stir()

    def _answer(self, connection: _Connection) -> bytes:
        """The signed line. Raises SigningError, Unfit for what gets none."""
        request = read_request(self._signer, bytes(connection.data).partition(b"\n")[0])
        if not is_same_host(request.to, self._name) and not _is_address_of(request.to, connection.socket):
            raise Unfit(f"it is for {request.to}, not for {self._name}")
        with self._lock:
            self._replays.admit(request)
        return answer_line(self._signer, request, self._found(request))

    def _found(self, request: Request) -> Answer:
        if request.version != VERSION:
            return {"error": "unknown-version"}
        handler = self._handlers.get(request.op)
        if handler is None:
            return {"error": "unknown-request"}
        try:
            return handler(request)
        except Exception as error:
            self._emit("agent.error", level="error", where=f"channel {request.op[:40]}", reason=repr(error)[:300])
            return {"error": "failed"}

    def _refused(self, address: str, reason: str) -> None:
        with self._lock:
            if not self._told.take("all", *_TOLD):
                self._untold += 1
                return
            untold, self._untold = self._untold, 0
        self._emit("channel.refused", level="warning", address=address, reason=reason, untold=untold)

    def _stir(self) -> None:
        try:
            os.write(self._wake, b"x")
        except BlockingIOError:
            pass  # it is awake


def _bind(port: int) -> socket.socket:
    """On all addresses of the host. Raises OSError."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    listening = socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    listening.setblocking(False)
    return listening


def _is_address_of(name: str, sock: socket.socket) -> bool:
    """Whether *name*, which may be an alias, is the address that the connection was made to; in a worker's thread."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
        return str(sock.getsockname()[0]).removeprefix("::ffff:") in found
    except OSError:
        return False


def _drain(fd: int) -> None:
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        pass
