"""Ask the agent of another node one question."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from typing import Any

from pbsdock.cluster.channel import MOST_LINE, ChannelError, Request, Unfit, read_answer, request_line
from pbsdock.cluster.signing import Signer, SigningError

_RESERVED = range(600, 1024)  # as bindresvport(3): no user can take these, and so none can use up their share
_TRIES = 8
_OF_ANOTHER_RELEASE = "the two nodes have different versions of pbsdock"


def ask(
    signer: Signer, host: str, port: int, op: str, job: str, *, timeout_s: float, sender: str = "", **fields: Any
) -> dict[str, Any]:
    """What *host*'s agent answers to *op* about *job*; *sender* is this node's name, by default the host's own.

    *timeout_s* bounds connecting, asking and the answer together, but not the look-up of the name, which takes as long
    as this host's resolver does. Raises ChannelError and, where this node cannot sign, SigningError.
    """
    asked = Request(op=op, job=job, sender=sender or socket.gethostname(), to=host, at=time.time(), fields=fields)
    line = request_line(signer, asked)
    deadline = time.monotonic() + timeout_s
    try:
        with _connect(host, port, deadline) as connection:
            connection.settimeout(_left(deadline))
            connection.sendall(line)
            said = _receive(connection, deadline)
    except TimeoutError:
        raise ChannelError("unreachable", f"the agent of {host} has not answered in {timeout_s:g} s") from None
    except ConnectionError as error:
        raise _closed(host, port, error) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ChannelError("unreachable", f"the agent of {host} cannot be reached at port {port}: {reason}") from None
    if not said:
        raise _closed(host, port, None)
    try:
        answer = read_answer(signer, said, asked)
    except SigningError as error:
        if error.code != "not-authentic":
            raise
        raise ChannelError("not-authentic", f"what {host} answers at port {port} is not believed: {error}") from None
    except Unfit as error:
        raise ChannelError("not-authentic", f"what {host} answers at port {port} is not taken: {error}") from None
    if problem := answer.get("error"):
        raise _told(host, op, str(problem))
    return answer


def _told(host: str, op: str, problem: str) -> ChannelError:
    if problem in ("unknown-request", "unknown-version"):
        return ChannelError(problem, f"the agent of {host} does not know the question {op!r}: {_OF_ANOTHER_RELEASE}")
    return ChannelError("failed", f"the agent of {host} could not answer; its events say why")


def _closed(host: str, port: int, error: OSError | None) -> ChannelError:
    if isinstance(error, ConnectionRefusedError):
        return ChannelError("unreachable", f"nobody listens on {host} at port {port}")
    sentence = (
        f"the agent of {host} has closed the connection without an answer; its event channel.refused says why: another"
        " key, a clock that is wrong, another name, or too many requests"
    )
    return ChannelError("refused", sentence)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _receive(connection: socket.socket, deadline: float) -> bytes:
    """One line without its end; what comes behind it is nobody's. b"" if there is none. Raises OSError."""
    data = b""
    while len(data) < MOST_LINE:
        connection.settimeout(_left(deadline))
        more = connection.recv(MOST_LINE - len(data))
        data += more
        if b"\n" in more:
            return data.partition(b"\n")[0]
        if not more:
            break
    return b""


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """To the first of its addresses that answers, each of which gets its share of the time. Raises OSError."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    last: OSError = OSError("it has no address")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        share = _left(deadline) / (len(addresses) - index)
        for _ in range(_TRIES):
            connection = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            is_reserved = _take_reserved(connection)
            try:
                connection.settimeout(share)
                connection.connect(address)
                return connection
            except OSError as error:
                connection.close()
                last = error
                # A pair of ports that was used a moment ago is taken for a minute: another one will do.
                if not (is_reserved and error.errno == errno.EADDRNOTAVAIL):
                    break
    raise last


def _take_reserved(connection: socket.socket) -> bool:
    """Bind a port that only root can have; without one the question is asked all the same."""
    if os.geteuid() != 0:
        return False
    where = "::" if connection.family == socket.AF_INET6 else ""
    for _ in range(_TRIES):
        try:
            connection.bind((where, secrets.choice(_RESERVED)))
            return True
        except OSError:
            continue
    return False
