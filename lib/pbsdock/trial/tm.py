"""What stands for the task manager of the mother's pbs_mom: it starts tasks on any node of the job.

It speaks Torque's protocol, as src/resmom/mom_comm.c (``tm_request``) and src/lib/Libifl/tm.c have it, so that whatever
is built with libtorque works: pbsdsh, tm-agent, an MPI launcher. A request has a head (protocol, version, job, cookie,
request, the asker's number for the event, its task); an answer has protocol, version, 0 or 999, that event. As with
Torque's, whoever comes from 127.0.0.1 and knows job, cookie and a task's number is served, whatever its uid; with
TM_STDOUT_PORT and TM_STDERR_PORT among a task's variables it writes to these. Virtual nodes have the numbers 0, 1, ...

Not as Torque's: resources of a node are not told, and a second connection of a task is not counted as a new task.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from pbsdock.trial import dis
from pbsdock.trial.launcher import kill_session
from pbsdock.trial.process import Process

HOST = "127.0.0.1"
_PROTOCOL, _VERSION = 5, 2  # net_connect.h
# tm_.h, as all names below.
_INIT, _TASKS, _SPAWN, _SIGNAL, _OBIT, _RESOURCES, _POSTINFO, _GETINFO = range(100, 108)
_REGISTER, _FINALIZE = 109, 112
_OKAY, _ERROR = 0, 999
_SYSTEM, _UNKNOWN_COMMAND, _NOT_IMPLEMENTED, _NOT_FOUND = 17000, 17003, 17004, 17006
_NULL_TASK, _NO_NODE = 0, -1
_MOST_TEXTS = 65536  # of a task: arguments and variables
_MOST_INFOS, _LONGEST_INFO = 1024, 65536  # of a job; bytes
_CONNECT_S = 5.0
_PORTS = ("TM_STDOUT_PORT", "TM_STDERR_PORT")

Outputs = tuple[int, int] | None  # descriptors for a task's stdout and stderr; None: the job's own


class Tasks(Protocol):
    """The tasks of a job, by their numbers."""

    def knows(self, number: int) -> bool:
        """Whether a task has this number, be it one that is just being started."""

    def numbers(self, slot: int) -> list[int]:
        """Those of the tasks that have started on the node of a virtual node."""

    def task_of(self, number: int) -> Process:
        """The task of this number, one of ``numbers``."""

    def spawn(self, slot: int, argv: Sequence[str], env: Mapping[str, str], outputs: Outputs) -> tuple[int, Process]:
        """Start a task on a virtual node; returns its number too. Raises OSError, RuntimeError."""


class Refusal(Exception):
    """A request that is answered with one of TM's error numbers."""

    def __init__(self, code: int, *, hang_up: bool = False) -> None:
        super().__init__(code)
        self.code, self.hang_up = code, hang_up


class TaskManager:
    """Listens for the tasks of one job. *port* is the job's PBS_MOMPORT."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._closed = False
        self._connections: set[socket.socket] = set()

    def serve(self, job: tuple[str, str], slots: int, tasks: Tasks) -> None:
        """Begin to answer for *job*, its id and cookie, which has so many virtual nodes."""
        self._job = _Job(job, slots, tasks)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        self._connections.add(connection)
        # Mom closes a connection that says nonsense, or has another job's cookie, without a word.
        with connection, connection.makefile("rb") as file, suppress(OSError, ValueError, EOFError):
            talk = _Talk(connection, dis.Reader(file), self._job)
            while talk.answer():
                pass
        self._connections.discard(connection)


class _Job:
    """A job as its connections see it, and what its tasks have posted."""

    def __init__(self, names: tuple[str, str], slots: int, tasks: Tasks) -> None:
        self.names, self.slots, self.tasks = names, slots, tasks
        self._infos: dict[tuple[int, str], bytes] = {}
        self._lock = threading.Lock()

    def post(self, task: int, name: str, data: bytes) -> None:
        """Raises Refusal if it is too much."""
        with self._lock:
            if len(data) > _LONGEST_INFO or (len(self._infos) >= _MOST_INFOS and (task, name) not in self._infos):
                raise Refusal(_SYSTEM)
            self._infos[task, name] = data

    def posted(self, task: int, name: str) -> bytes:
        """Raises Refusal if there is none."""
        with self._lock:
            if (task, name) not in self._infos:
                raise Refusal(_NOT_FOUND)
            return self._infos[task, name]


class _Talk:
    """One connection; several tasks may end at once."""

    def __init__(self, connection: socket.socket, reader: dis.Reader, job: _Job) -> None:
        self._connection, self._reader, self._job = connection, reader, job
        self._lock = threading.Lock()

    def answer(self) -> bool:
        """Read a request and answer it; False at the end. Raises OSError, ValueError, EOFError."""
        reader = self._reader
        if (reader.number(), reader.number()) != (_PROTOCOL, _VERSION):
            raise ValueError("another protocol than TM's")
        names = (reader.text(), reader.text())
        request, event, asker = reader.number(), reader.number(), reader.number()
        if names != self._job.names:
            raise ValueError("another job or cookie")
        if request == _FINALIZE:
            return False
        try:
            said = self._obey(request, event, asker)
        except Refusal as refusal:
            self._say(event, dis.number(refusal.code), kind=_ERROR)
            return not refusal.hang_up
        if said is not None:
            self._say(event, said)
        return True

    def _say(self, event: int, said: bytes, kind: int = _OKAY) -> None:
        head = b"".join(dis.number(value) for value in (_PROTOCOL, _VERSION, kind, event))
        with self._lock:
            self._connection.sendall(head + said)

    def _obey(self, request: int, event: int, asker: int) -> bytes | None:
        """What follows the answer's head; None: the answer comes later. Raises Refusal."""
        job, reader = self._job, self._reader
        if not job.tasks.knows(asker):
            raise Refusal(_NOT_FOUND, hang_up=True)  # what else it says is not read
        if request == _INIT:
            nodes = b"".join(dis.number(value) for value in (job.slots, *range(job.slots)))
            return nodes + dis.text(b"") + dis.number(_NO_NODE) + dis.number(_NULL_TASK)  # nobody is its parent
        if request == _POSTINFO:
            job.post(asker, reader.text(), reader.data())
            return b""
        if request == _REGISTER:
            raise Refusal(_NOT_IMPLEMENTED, hang_up=True)
        handlers = {
            _TASKS: self._list,
            _SPAWN: self._spawn,
            _SIGNAL: self._signal,
            _OBIT: self._tell_end,
            _GETINFO: self._posted,
        }
        slot = reader.number()
        if request not in handlers:
            raise Refusal(_NOT_IMPLEMENTED if request == _RESOURCES else _UNKNOWN_COMMAND, hang_up=True)
        return handlers[request](slot, event)

    def _numbers(self, slot: int) -> list[int]:
        if not 0 <= slot < self._job.slots:
            raise Refusal(_NOT_FOUND)
        return self._job.tasks.numbers(slot)

    def _task(self, slot: int, number: int) -> Process:
        if number not in self._numbers(slot):
            raise Refusal(_NOT_FOUND)
        return self._job.tasks.task_of(number)

    def _list(self, slot: int, _event: int) -> bytes:
        return b"".join(dis.number(number) for number in (*self._numbers(slot), _NULL_TASK))

    def _spawn(self, slot: int, _event: int) -> bytes:
        count = self._reader.number()
        if not 0 < count <= _MOST_TEXTS:
            raise ValueError(f"{count} arguments")
        argv = [self._reader.text() for _ in range(count)]
        variables: dict[str, str] = {}
        while pair := self._reader.text():
            name, is_pair, value = pair.partition("=")
            if is_pair:
                variables[name] = value
            if len(variables) > _MOST_TEXTS:
                raise ValueError("too many variables")
        self._numbers(slot)
        try:
            return dis.number(self._start(slot, argv, variables))
        except (OSError, RuntimeError):
            raise Refusal(_SYSTEM) from None

    def _start(self, slot: int, argv: Sequence[str], env: Mapping[str, str]) -> int:
        doors: list[socket.socket] = []
        try:
            if all(env.get(name, "").isdigit() for name in _PORTS):
                # Nobody can connect to a network that is the container's alone: then the output goes to the job's file.
                with suppress(OSError, OverflowError):
                    for name in _PORTS:
                        doors.append(socket.create_connection((HOST, int(env[name])), _CONNECT_S))
                        doors[-1].settimeout(None)
            outputs = (doors[0].fileno(), doors[1].fileno()) if len(doors) == len(_PORTS) else None
            return self._job.tasks.spawn(slot, argv, env, outputs)[0]
        finally:
            for door in doors:
                door.close()

    def _signal(self, slot: int, _event: int) -> bytes:
        number, signal = self._reader.number(), self._reader.number()
        task = self._task(slot, number)
        if task.poll() is None:
            kill_session(task.pid, signal)
        return b""

    def _tell_end(self, slot: int, event: int) -> None:
        task = self._task(slot, self._reader.number())
        threading.Thread(target=self._wait, args=(task, event), daemon=True).start()

    def _wait(self, task: Process, event: int) -> None:
        with suppress(RuntimeError, OSError):
            self._say(event, dis.number(task.torque_status))

    def _posted(self, slot: int, _event: int) -> bytes:
        number, name = self._reader.number(), self._reader.text()
        self._task(slot, number)
        return dis.text(self._job.posted(number, name))
