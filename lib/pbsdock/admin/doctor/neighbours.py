"""``pbsdock doctor nodes``: whether this node can take part in jobs on several."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from pbsdock.admin.doctor.subject import Subject
from pbsdock.admin.doctor.table import Row, ok, warn, wrong
from pbsdock.cluster.signing import SigningError, choose

_ANSWER_S = 1.0


def examine(subject: Subject) -> Iterator[Row]:
    """What the nodes' agents sign with, and whether this one's listens."""
    settings = subject.config.nodes
    try:
        signer = choose(settings, subject.paths.config)
        if signer is None:
            said = "neither munge nor a key of the cluster: other nodes' tasks of a job run without a container"
            yield ok("nodes", "signing", said)
            return
        if signer.verify(signer.sign(b"doctor")) != b"doctor":
            raise SigningError("not-authentic", "what was signed reads otherwise")
    except SigningError as error:
        yield wrong("nodes", "signing", error.sentence, "the same munge.key, or pbsdock setup key, on all nodes")
        return
    yield ok("nodes", "signing", f"signs with {signer.name}, and reads it back")
    if settings.port:
        yield port(settings.port)


def port(number: int) -> Row:
    """Whether anybody listens on it here."""
    try:
        socket.create_connection(("127.0.0.1", number), timeout=_ANSWER_S).close()
    except OSError as error:
        said = (
            f"nobody listens on port {number} ({error.strerror or error}): other nodes get no answers about jobs here"
        )
        return warn("nodes", "port", said, "the agent has to run; event channel.failed says what is in its way")
    return ok("nodes", "port", f"port {number} is listened on")
