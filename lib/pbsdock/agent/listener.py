"""The agent's socket: one thread takes connections and reads requests, and never waits for a client.

A request is handed to a worker when it has come whole. Until it is answered nothing more is read of its client, and its
memory counts as its user's; what there is no room for waits unread, in the client's own memory.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections import deque

from pbsdock.agent.channel import Channel, ClientGone
from pbsdock.agent.node import Node
from pbsdock.agent.quota import Held, UserQuota, cost
from pbsdock.agent.service import Service
from pbsdock.agent.session import Peer, Respond, Session
from pbsdock.agent.worker_pool import WorkerPool
from pbsdock.protocol import wire

_FIRST_MESSAGE_S = 10.0
_ROOM_S = 120.0  # how long a request waits until its user's others have been answered
_PASS_S = 30.0  # one turn of the thread takes no longer
_LOOK_S, _IDLE_S = 0.5, 5.0
_ACCEPTS = 64  # connections in one turn
_AT_ONCE = 1 << 18
_READS = 8  # of one client in one turn
_KINDS = {b"start": "start", b"docker": "shim"}  # by what is asked for; all else is a "request"
_CHILDREN_OF_ONE_USER = 32  # each may be fetching an image
_OF_ONE_USER = 4  # requests of one kind answered at a time; see Listener._most


class _Client:
    """A connection, and what has come of its next request."""

    def __init__(self, session: Session, held: Held) -> None:
        self.session = session
        self.held = held
        self.size: int | None = None  # of the request, once its header has come
        self.data = bytearray()
        self.needs = 0  # bytes there was no room for
        self.deadline = 0.0
        self.is_gone = False
        self.begin()

    def begin(self) -> None:
        """Be ready for the next request."""
        self.size = None
        self.data = bytearray()
        self.deadline = time.monotonic() + _FIRST_MESSAGE_S

    @property
    def is_silent(self) -> bool:
        """Whether nothing of a request has come."""
        return self.size is None and not self.data


class Listener:
    """Accepts connections and reads requests, bounded in all and per user.

    Many methods because a connection goes through all of them in one thread: accepted, read, parked, answered, closed.
    """

    def __init__(self, node: Node, respond: Respond) -> None:
        self.node = node
        self.quota = UserQuota(node.config.agent.max_connections, node.config.agent.message_bytes)
        self._respond = respond
        self._pool: WorkerPool[_Client] = WorkerPool(self._answer, self._most)
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()  # those that are read
        self._parked: set[_Client] = set()  # those that wait for room
        self._answered: deque[_Client] = deque()
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def load(self) -> tuple[int, int, int]:
        """Connections, requests being answered, and requests that wait: for their user's others, or for room."""
        running, queued = self._pool.load()
        return self.quota.in_use, running, queued + len(self._parked)

    def open(self, service: Service) -> socket.socket:
        """Take the service manager's socket, or bind one in place of the file a dead agent left (the lock says so)."""
        if (given := service.socket()) is not None:
            return given
        path = str(self.node.paths.socket)
        for stale in self.node.paths.run_dir.glob("agent.sock.*"):
            stale.unlink(missing_ok=True)  # of an agent that was killed just here
        temporary = f"{path}.{os.getpid()}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(temporary)
        os.chmod(temporary, 0o666)  # noqa: S103 - everybody may knock, SO_PEERCRED decides
        listening.listen(512)
        os.rename(temporary, path)
        return listening

    def serve_for_ever(self, listening: socket.socket, door: socket.socket | None = None) -> None:
        """Serve until the process ends. Who comes by the *door* is in a job's container, and may ask for less."""
        threading.current_thread().name = "listener"
        self.node.pulse.watch(threading.current_thread())
        for taken in (listening, door):
            if taken is not None:
                taken.setblocking(False)
                self._selector.register(taken, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        looked = 0.0
        while True:
            ready = self._selector.select(_LOOK_S if self._parked or not self._all_wait() else _IDLE_S)
            with self.node.pulse.at_work(_PASS_S):
                for key, _ in ready:
                    if isinstance(key.data, _Client):
                        self._read(key.data)
                    elif isinstance(key.fileobj, socket.socket):
                        self._accept(key.fileobj, is_door=key.fileobj is door)
                    else:
                        self._clear_wake()
                while self._answered:
                    self._resume(self._answered.popleft())
                now = time.monotonic()
                if now - looked >= _LOOK_S:
                    looked = now
                    self._look(now)

    def _all_wait(self) -> bool:
        return all(client.is_silent and client.session.waits for client in self._clients)

    # -- connections --------------------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket, *, is_door: bool) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, _address = listening.accept()
            except BlockingIOError:
                return
            except OSError:
                time.sleep(0.05)  # out of descriptors: clients wait in the backlog meanwhile
                return
            peer = Peer(connection)
            if not self.quota.enter(peer.uid):
                connection.close()
                continue
            session = Session(self.node, Channel(connection), peer, self.quota, is_door=is_door)
            self._listen_to(_Client(session, Held(self.quota, peer.uid)))

    def _listen_to(self, client: _Client) -> None:
        self._selector.register(client.session.channel, selectors.EVENT_READ, client)
        self._clients.add(client)

    def _leave_alone(self, client: _Client) -> None:
        if client in self._clients:
            self._selector.unregister(client.session.channel)
            self._clients.discard(client)

    def _close(self, client: _Client) -> None:
        self._leave_alone(client)
        self._parked.discard(client)
        client.held.release()
        client.session.leave()
        client.session.channel.close()
        self.quota.leave(client.session.peer.uid)

    def _look(self, now: float) -> None:
        """Let those go that have been silent for too long, and go on with those there is room for again."""
        for client in [*self._parked]:
            if client.session.channel.is_gone:
                self._close(client)
            elif client.held.grow(client.needs):
                self._parked.discard(client)
                self._listen_to(client)
                self._read(client)
            elif now > client.deadline:
                self._too_much(client)
                self._close(client)
        for client in [*self._clients]:
            if client.is_silent and client.session.waits:
                client.deadline = now + _FIRST_MESSAGE_S
            elif now > client.deadline:
                self._close(client)

    def _too_much(self, client: _Client) -> None:
        uid = client.session.peer.uid
        self.node.emit("client.refused", level="warning", uid=uid, reason="too many bytes under way")

    # -- requests -----------------------------------------------------------------------------------------------

    def _read(self, client: _Client) -> None:
        try:
            for _ in range(_READS):
                if self._is_complete(client) or not self._receive(client):
                    return
            self._is_complete(client)
        except (ClientGone, wire.WireError):  # it does not speak our language: nothing is owed to it
            self._close(client)

    def _receive(self, client: _Client) -> bool:
        """Read once; False if there is no more to read for now. Raises ClientGone, WireError."""
        wanted = (wire.HEADER if client.size is None else client.size) - len(client.data)
        data = client.session.channel.receive(min(wanted, _AT_ONCE))
        if data is None:
            return False
        client.data += data
        if client.size is None and len(client.data) == wire.HEADER:
            agent = self.node.config.agent
            client.size = wire.length(bytes(client.data), agent.message_bytes)
            client.data = bytearray()
            client.deadline = time.monotonic() + agent.request_timeout_s
            return self._has_room(client, cost(client.size, 0))
        return True

    def _is_complete(self, client: _Client) -> bool:
        """Whether the whole request has come; if so, it goes to a worker, or waits for room."""
        if client.size is None or len(client.data) < client.size:
            return False
        if self._has_room(client, cost(client.size, client.data.count(0) + 1)):
            self._leave_alone(client)
            op = bytes(client.data[:32]).partition(b"\0")[0]
            try:
                self._pool.submit(client.session.peer.uid, _KINDS.get(op, "request"), client)
            except RuntimeError:  # no thread more can be had: who comes later may find one
                self._close(client)
        return True

    def _has_room(self, client: _Client, size: int) -> bool:
        if client.held.grow(size):
            return True
        if size > self.quota.bytes_of_all:
            self._too_much(client)
            raise ClientGone("there will never be room for what it asks")
        client.needs = size
        client.deadline = time.monotonic() + _ROOM_S
        self._leave_alone(client)
        self._parked.add(client)
        return False

    def _most(self, uid: int, kind: str) -> int:
        """How many requests of a user are answered at a time: a start for each CPU and one for each job, which may be
        waiting for its files; what is asked besides is done in a moment."""
        if kind == "shim":
            return _CHILDREN_OF_ONE_USER
        if kind != "start":
            return _OF_ONE_USER
        return max(_OF_ONE_USER, os.cpu_count() or 1) + self.node.jobs.count_of(uid)

    def _answer(self, client: _Client) -> None:
        """In a worker's thread."""
        session = client.session
        try:
            if session.peer.uid and not session.waits and session.channel.is_gone:
                raise ClientGone("it has gone without waiting for its turn")
            self.quota.wait(session.peer.uid)
            payload, client.data = bytes(client.data), bytearray()
            message = wire.decode(payload)
            del payload
            session.handle(message, self._respond)
        except (ClientGone, wire.WireError):
            client.is_gone = True
        except Exception as error:
            client.is_gone = True
            uid = session.peer.uid
            self.node.emit("agent.error", level="error", where="connection", uid=uid, reason=repr(error)[:500])
        finally:
            client.held.release()
            self._answered.append(client)
            try:
                os.write(self._wake, b"x")
            except BlockingIOError:
                pass  # it is awake

    def _clear_wake(self) -> None:
        try:
            os.read(self._woken, 65536)
        except BlockingIOError:
            pass

    def _resume(self, client: _Client) -> None:
        if client.is_gone:
            self._close(client)
            return
        client.begin()
        self._listen_to(client)
