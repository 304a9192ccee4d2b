"""Commands in a container as its first process runs them: for a client, or for nobody."""

from __future__ import annotations

import os
import select
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pbsdock.agent import first_process
from pbsdock.core.errors import NodeFault
from pbsdock.protocol import init, wire

DEFAULT_UMASK = 0o022  # as Docker's runtime has it; of a client that tells none
_EXECUTED_S = 2.0


def commanded(
    message: wire.Message,
    argv: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    within: Mapping[int, tuple[int, int]],
) -> wire.Message:
    """*message* with what the first process is to run, under the limits *within*."""
    message.fields["argv"] = [os.fsencode(word) for word in argv]
    message.fields["env"] = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
    message.fields["directory"] = [os.fsencode(directory)]
    message.fields["limit"] = [b"%d %d %d" % (number, soft, hard) for number, (soft, hard) in within.items()]
    return message


def of_client(message: wire.Message, *, interactive: bool, terminal: bool, proxy: bool) -> wire.Message:
    """*message* for a client that stays with the command: whether it gives its input, a terminal, its signals."""
    for name, is_so in (("stdin", interactive), ("terminal", terminal), ("proxy", proxy)):
        message.fields[name] = [b"1" if is_so else b"0"]
    return message


def run_here(place: Path, pid: int, message: wire.Message, fds: Sequence[int]) -> init.Answer | None:
    """Have the first process *pid* run what *message* says, with *fds* as descriptors 0, 1 and 2.

    Returns why it could not, None if it runs. Raises NodeFault.
    """
    limits = {}
    for line in message.raw("limit"):
        number, soft, hard = map(int, line.split())
        limits[number] = (soft, hard)
    argv = message.raw("argv")
    flags = init.SESSION | (init.LEADER if message.number("leader") else 0)
    asked = init.Run(
        message.text("name"),
        argv,
        message.raw("env"),
        message.raw("directory")[0],
        umask=message.number("umask", DEFAULT_UMASK),
        flags=flags | (0 if b"/" in argv[0] else init.SEARCH),
        limits=limits,
    )
    with first_process.connected(place, pid) as connection:
        try:
            connection.run(asked, fds)
        except init.RequestError as error:
            raise NodeFault("first-process", f"the command cannot be passed on: {error}") from None
        answer = connection.receive()
        if answer.kind == init.PID:
            return _failure_of(connection, answer.host_pid, pid)
    return answer if answer.kind == init.FAILED else None


def _failure_of(connection: init.Connection, pid: int, first: int) -> init.Answer | None:
    """Why process *pid*, a fork of the container's *first*, could not become its command; None as soon as it has."""
    deadline = time.monotonic() + _EXECUTED_S
    said = select.poll()
    said.register(connection.sock, select.POLLIN)
    while pid and time.monotonic() < deadline:
        if said.poll(2):
            try:
                answer = connection.receive()
            except init.InitError:
                return None  # it is over, and so is the container: how is written down
            return answer if answer.kind == init.FAILED else None
        with suppress(OSError):  # a zombie has no program: its end is on the way
            if not os.path.samestat(os.stat(f"/proc/{pid}/exe"), os.stat(f"/proc/{first}/exe")):
                return None
    return None


def endless_input() -> int:
    """A standard input that nobody writes to and that never ends, as ``docker run -di`` keeps open. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix="pbsdock-") as place:
        path = f"{place}/input"
        os.mkfifo(path, 0o600)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)  # a FIFO that is its own writer (fifo(7))
