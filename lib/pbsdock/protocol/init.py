"""Messages to and from process 1 of a job's container, and the client's end of its socket.

The format stands at the top of ``init/init.c``. Both ends are on one host, so numbers are in its own byte order. As in
``link``, only what every interpreter has loaded or has as a C module is imported.
"""

from __future__ import annotations

import _socket
import os
import struct

TYPE_CHECKING = False  # importing `typing` would cost a hook seven milliseconds
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

VERSION = 1
LEADER, SESSION, TERMINAL, CONTROL, SEARCH = 1, 2, 4, 8, 16
PID, ENDED, FAILED, DONE = 1, 2, 3, 4
HOLD_NONE, HOLD_TASKS, HOLD_ALL = 0, 1, 2  # until root lets it go on: nothing, all but the leader, all that is run
SOCKET = "socket"
MOST_TEXTS = 8 << 20
MOST_STRINGS = 1 << 18
LIMITS = 16  # RLIMIT_CPU (0) to RLIMIT_RTTIME (15)

_OPEN, _RUN, _JOIN, _SIGNAL, _GO = 1, 2, 3, 4, 5
_HEAD = struct.Struct("=8I4H32Q")
_REPLY = struct.Struct("=3I")
_MOST_REPLY = 512
_INT = struct.Struct("=i")
_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid
_ID = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


class InitError(Exception):
    """The connection is lost, or what came is not of the format."""


class RequestError(ValueError):
    """A request that cannot be put into a message: a NUL, an id that is none, too much of it."""


class Run:
    """What is to be run. Texts are bytes without NUL.

    ``environment`` holds ``NAME=VALUE`` as execve(2) takes them, in any order, names of any bytes. ``limits`` maps a
    resource's number (RLIMIT_*) to soft and hard limit, -1 for none; those not named stay process 1's. ``window`` is
    rows, columns, width and height in pixels. ``program`` is the file to run where it is not the first argument.
    """

    __slots__ = ("argv", "directory", "environment", "flags", "id", "limits", "program", "umask", "window")

    def __init__(
        self,
        id: str,
        argv: Sequence[bytes],
        environment: Sequence[bytes],
        directory: bytes,
        *,
        umask: int,
        flags: int,
        limits: Mapping[int, tuple[int, int]] | None = None,
        window: tuple[int, int, int, int] = (0, 0, 0, 0),
        program: bytes = b"",
    ) -> None:
        self.id = id
        self.argv = argv
        self.environment = environment
        self.directory = directory
        self.umask = umask
        self.flags = flags
        self.limits = limits or {}
        self.window = window
        self.program = program


class Answer:
    """What process 1 says: PID, ENDED (a wait status), FAILED (an errno, with step and path) or DONE.

    ``host_pid`` is the pid as this process's namespace has it (0: not told); ``terminal`` is the master of the terminal
    that was made, which is the receiver's to close (-1: none).
    """

    __slots__ = ("host_pid", "kind", "number", "path", "step", "terminal")

    def __init__(self, kind: int, number: int, step: str = "", path: bytes = b"") -> None:
        self.kind = kind
        self.number = number
        self.step = step
        self.path = path
        self.host_pid = 0
        self.terminal = -1

    @property
    def signal(self) -> int:
        """Of ENDED: what has killed it (wait(2), WTERMSIG); 0 if it ended by itself."""
        return self.number & 0x7F

    @property
    def code(self) -> int:
        """Of ENDED: the exit code as a shell reports it, 128 and the signal for what was killed."""
        return 128 + self.signal if self.signal else self.number >> 8 & 0xFF


def _message(
    kind: int,
    texts: Sequence[bytes],
    *,
    number: int = 0,
    flags: int = 0,
    arguments: int = 0,
    run: Run | None = None,
    limits: Mapping[int, tuple[int, int]] | None = None,
) -> bytes:
    body = b"".join([text + b"\0" for text in texts])
    if body.count(b"\0") != len(texts):
        raise RequestError("a text holds a NUL")
    if len(body) > MOST_TEXTS or len(texts) > MOST_STRINGS:
        raise RequestError(f"{len(body)} bytes in {len(texts)} texts; at most {MOST_TEXTS} in {MOST_STRINGS} are taken")
    flags, umask, window = (run.flags, run.umask, run.window) if run else (flags, 0, (0, 0, 0, 0))
    limited = 0
    values = [0] * (2 * LIMITS)
    for resource, pair in (limits or {}).items():
        if not 0 <= resource < LIMITS:
            raise RequestError(f"{resource} is not the number of a limit")
        limited |= 1 << resource
        values[2 * resource : 2 * resource + 2] = (value & 0xFFFFFFFFFFFFFFFF for value in pair)
    try:
        head = _HEAD.pack(VERSION, kind, len(body), flags, number, umask, arguments, limited, *window, *values)
    except struct.error as error:
        raise RequestError(str(error)) from None
    return head + body


def _id(id: str) -> bytes:
    text = id.encode("ascii", "replace")
    if not 0 < len(text) <= 64 or text[:1] == b"." or not _ID.issuperset(text):
        raise RequestError(f"{id!r} is not an id: 1 to 64 letters, digits, '.', '_', '-', the first of them no '.'")
    return text


def encode_open(limits: Mapping[int, tuple[int, int]] | None = None, hold: int = HOLD_NONE) -> bytes:
    """Let the owner in; root's alone. *limits* are for process 1 itself: nothing that it starts gets more. *hold* is
    one of the HOLDs."""
    return _message(_OPEN, [], limits=limits, number=hold)


def encode_go(id: str, pid: int) -> bytes:
    """Let what is held by that *id* become its program, if *pid* is its number in the container; root's alone.

    Raises RequestError.
    """
    return _message(_GO, [_id(id)], number=pid)


def encode_run(run: Run) -> bytes:
    """Raises RequestError. Descriptors 0, 1, 2 must come with the first byte (``Connection.run`` sees to it)."""
    texts = [_id(run.id), run.directory, run.program, *run.argv, *run.environment]
    return _message(_RUN, texts, arguments=len(run.argv), run=run, limits=run.limits)


def encode_join(id: str) -> bytes:
    """Have the answers of what another connection has run. Raises RequestError."""
    return _message(_JOIN, [_id(id)])


def encode_signal(id: str, number: int, *, alone: bool = False) -> bytes:
    """Send a signal to every process of the session of *id*, or *alone* to its leader; 0 only counts them.

    Raises RequestError.
    """
    return _message(_SIGNAL, [_id(id)], number=number, flags=LEADER if alone else 0)


def decode(data: bytes) -> tuple[Answer, int] | None:
    """The first answer of *data* and how many bytes it takes; None if it is not whole. Raises InitError."""
    if len(data) < _REPLY.size:
        return None
    length, kind, number = _REPLY.unpack_from(data)
    if length > _MOST_REPLY or not PID <= kind <= DONE:
        raise InitError("what came is not an answer of process 1")
    end = _REPLY.size + length
    if len(data) < end:
        return None
    step, path, *rest = [*data[_REPLY.size : end].split(b"\0"), b""]
    if length and (len(rest) != 2 or rest[0]):
        raise InitError("what came is not an answer of process 1")
    return Answer(kind, number, step.decode("ascii", "replace"), path), end


def read_status(directory: str, id: str) -> Answer | None:
    """The end as it was written down before it was told; None if it is not there, or is no such file.

    The directory is the job's owner's, who can put anything there: no link is followed, and little is read.
    """
    try:
        fd = os.open(f"{directory}/{id}.status", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(fd, 1024)
    except OSError:
        return None
    finally:
        os.close(fd)
    words = data.removesuffix(b"\n").split(b" ", 3)
    if len(words) == 2 and words[0] == b"ended" and words[1].isdigit() and len(words[1]) < 6:
        return Answer(ENDED, int(words[1]))
    if len(words) == 4 and words[0] == b"failed" and words[2].isdigit() and len(words[2]) < 6:
        return Answer(FAILED, int(words[2]), words[1].decode("ascii", "replace"), words[3])
    return None


class Connection:
    """One connection; a task that was run or joined keeps it until its end was told."""

    def __init__(self, path: str, timeout_s: float | None = 10.0) -> None:
        """Raises InitError if nobody listens there, or nobody answers within the time."""
        # The C type is the documented socket class minus the Python wrapper, hence the Any.
        self.sock: Any = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        self.sock.settimeout(timeout_s)
        self._buffer = b""
        self._host_pid = 0
        self._fds: list[int] = []
        try:
            self.sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
            self.sock.connect(path)
        except OSError as error:
            self.close()
            raise InitError(str(error)) from None

    def fileno(self) -> int:
        """Return the descriptor, for poll."""
        return int(self.sock.fileno())

    def close(self) -> None:
        """Close the connection and what came over it and was not asked for; what runs runs on."""
        self.sock.close()
        while self._fds:
            os.close(self._fds.pop())

    def listener(self) -> int:
        """The pid of the process that listens, as this process's namespace has it: the kernel's word."""
        credentials = self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[0])

    def send(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message whole, *fds* with its first byte. If it raises InitError, a refusal may be there to read."""
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join([_INT.pack(fd) for fd in fds]))] if fds else []
        try:
            sent = self.sock.sendmsg([message], rights, _socket.MSG_NOSIGNAL)
            if sent < len(message):
                self.sock.sendall(memoryview(message)[sent:], _socket.MSG_NOSIGNAL)
        except OSError as error:
            raise InitError(str(error)) from None

    def run(self, run: Run, fds: Sequence[int] = (0, 1, 2)) -> None:
        """Ask for *run* with the three *fds* (with TERMINAL: none are sent). Raises RequestError, InitError."""
        self.send(encode_run(run), () if run.flags & TERMINAL else fds)

    @property
    def pending(self) -> bool:
        """Whether a whole answer is already buffered. Raises InitError."""
        return decode(self._buffer) is not None

    def receive(self) -> Answer:
        """Wait for an answer. Raises InitError at the end of the stream or of the time."""
        while (found := decode(self._buffer)) is None:
            try:
                data, ancillary, _flags, _address = self.sock.recvmsg(4096, 128, _socket.MSG_CMSG_CLOEXEC)
            except OSError as error:
                raise InitError(str(error)) from None
            for level, kind, value in ancillary:
                if level != _socket.SOL_SOCKET:
                    continue
                if kind == _socket.SCM_RIGHTS:
                    self._fds += [_INT.unpack_from(value, at)[0] for at in range(0, len(value) - 3, _INT.size)]
                elif kind == _socket.SCM_CREDENTIALS and len(value) >= _CREDENTIALS.size:
                    self._host_pid = _CREDENTIALS.unpack_from(value)[0]
            if len(self._fds) > 1:
                raise InitError("process 1 sent descriptors that nobody had asked for")
            if not data:
                raise InitError("process 1 closed the connection")
            self._buffer += data
        answer, end = found
        self._buffer = self._buffer[end:]
        if answer.kind == PID:
            answer.host_pid = self._host_pid
            if self._fds:
                answer.terminal = self._fds.pop()
        return answer
