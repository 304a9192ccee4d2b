"""What stands for the task manager of the mother's pbs_mom: it starts tasks for ``pbsdsh.c``, on any node of the job.

The protocol is not Torque's. A message to it is the number of its texts and a newline, then each text as LENGTH:BYTES;
its answers are lines. ``init JOB COOKIE TASK`` is answered with ``nodes COUNT`` or ``error CODE``; ``spawn REF SLOT
ARGC ARG… NAME=VALUE…`` with ``spawned REF TASK`` or ``failed REF CODE``, and ``over REF STATUS`` once it has ended;
``kill TASK SIGNAL`` with nothing. As with Torque's, whoever comes from 127.0.0.1 and knows job, cookie and a task's
number is served, whatever its uid; with TM_STDOUT_PORT and TM_STDERR_PORT among a task's variables it writes to these.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO, Protocol

from pbsdock.trial.launcher import kill_session
from pbsdock.trial.process import Process

HOST = "127.0.0.1"
_REFUSED, _NO_NODE, _SYSTEM = 17000, 17001, 17000  # TM_ESYSTEM, TM_ENOEVENT of Torque's tm_.h
_MOST_TEXTS, _LONGEST = 65536, 1 << 22
_CONNECT_S = 5.0
_PORTS = ("TM_STDOUT_PORT", "TM_STDERR_PORT")

Outputs = tuple[int, int] | None  # descriptors for a task's stdout and stderr; None: the job's own


class Tasks(Protocol):
    """The tasks of a job, by their numbers."""

    def knows(self, number: int) -> bool:
        """Whether a task has this number, be it one that is just being started."""

    def task_of(self, number: int) -> Process | None:
        """The task of this number, if it has started."""

    def spawn(self, slot: int, argv: Sequence[str], env: Mapping[str, str], outputs: Outputs) -> tuple[int, Process]:
        """Start a task on a virtual node; returns its number too. Raises OSError, RuntimeError."""


def read_message(file: BinaryIO) -> list[str]:
    """The texts of one message; none at the end of the connection. Raises ValueError if it is none."""
    head = file.readline(32)
    if not head:
        return []
    if not 0 < (count := int(head)) <= _MOST_TEXTS:
        raise ValueError(f"{count} texts")
    return [_read_text(file) for _ in range(count)]


def _read_text(file: BinaryIO) -> str:
    digits = b""
    while (letter := file.read(1)) != b":":
        digits += letter
        if not letter.isdigit() or len(digits) > len(str(_LONGEST)):
            raise ValueError("a text without a length")
    if not digits or (length := int(digits)) > _LONGEST:
        raise ValueError(f"a text of length {digits!r}")
    data = file.read(length)
    if len(data) != length:
        raise ValueError("a text that ends early")
    return data.decode(errors="surrogateescape")


class TaskManager:
    """Listens for the tasks of one job. *port* is the job's PBS_MOMPORT."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._closed = False
        self._connections: set[socket.socket] = set()

    def serve(self, job: tuple[str, str], slots: int, tasks: Tasks) -> None:
        """Begin to answer for *job*, its id and cookie, which has so many virtual nodes."""
        self._job, self._slots, self._tasks = job, slots, tasks
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
        answers = _Answers(connection)
        with connection, connection.makefile("rb") as file, suppress(OSError, ValueError):
            if not self._is_ours(read_message(file)):
                answers.say("error", _REFUSED)
                return
            answers.say("nodes", self._slots)
            while message := read_message(file):
                self._obey(message, answers)
        self._connections.discard(connection)

    def _is_ours(self, message: Sequence[str]) -> bool:
        if len(message) != 4 or message[0] != "init" or not message[3].isdigit():
            return False
        return (message[1], message[2]) == self._job and self._tasks.knows(int(message[3]))

    def _obey(self, message: Sequence[str], answers: _Answers) -> None:
        if message[0] == "kill":
            task = self._tasks.task_of(int(message[1]))
            if task is not None and task.poll() is None:
                kill_session(task.pid, int(message[2]))
        elif message[0] == "spawn":
            ref, slot, count = (int(text) for text in message[1:4])
            argv, pairs = message[4 : 4 + count], message[4 + count :]
            if not 0 <= slot < self._slots:
                answers.say("failed", ref, _NO_NODE)
                return
            env = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            try:
                number, process = self._start(slot, argv, env)
            except (OSError, RuntimeError):
                answers.say("failed", ref, _SYSTEM)
                return
            answers.say("spawned", ref, number)
            threading.Thread(target=_tell_end, args=(answers, ref, process), daemon=True).start()

    def _start(self, slot: int, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, Process]:
        doors: list[socket.socket] = []
        try:
            if all(env.get(name, "").isdigit() for name in _PORTS):
                # Nobody can connect to a network that is the container's alone: then the output goes to the job's file.
                with suppress(OSError):
                    for name in _PORTS:
                        doors.append(socket.create_connection((HOST, int(env[name])), _CONNECT_S))
                        doors[-1].settimeout(None)
            outputs = (doors[0].fileno(), doors[1].fileno()) if len(doors) == len(_PORTS) else None
            return self._tasks.spawn(slot, argv, env, outputs)
        finally:
            for door in doors:
                door.close()


class _Answers:
    """The lines of one connection; several tasks may end at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def say(self, word: str, *numbers: int) -> None:
        with self._lock, suppress(OSError):
            self._connection.sendall(" ".join([word, *(str(number) for number in numbers)]).encode() + b"\n")


def _tell_end(answers: _Answers, ref: int, process: Process) -> None:
    with suppress(RuntimeError):
        answers.say("over", ref, process.torque_status)
