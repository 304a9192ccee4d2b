"""The channel's language: one signed line asks another node's agent, one signed line answers. Pure.

A line is a signed text (:mod:`pbsdock.cluster.signing`) of one JSON object. Requests are questions: whoever repeats one
changes nothing. Nothing secret is said. Between releases fields and operations are only added; unknown fields are
passed over, an unknown operation is answered as such. ``v`` changes only where that rule had to be broken.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pbsdock.cluster.signing import Signer
from pbsdock.core.errors import HookError

VERSION = 1
MOST_LINE = 64 << 10  # bytes, the line's end included
_MOST_WORD = 1024  # characters of a name, a job id or a nonce
_REQUEST, _ANSWER = "request", "answer"  # a signed answer must never pass for a request, nor a ticket for either


class ChannelError(HookError):
    """A question that got no answer.

    Codes: ``unreachable``; ``refused`` where the connection was closed without an answer; ``not-authentic``;
    ``unknown-request`` and ``unknown-version`` where the other agent is of another release; ``failed`` where it could
    not do it, ``too-long`` for what does not fit into a line.
    """


class Unfit(ValueError):
    """A line that is authentic but is no request or answer for this node; ``str()`` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A question. ``sender`` and ``to`` are nodes' names, ``at`` is when it was signed, seconds since the epoch."""

    op: str
    job: str
    sender: str
    to: str
    at: float
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))
    fields: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION


def request_line(signer: Signer, request: Request) -> bytes:
    """What goes over the wire. Raises SigningError, ChannelError."""
    content = {
        "kind": _REQUEST,
        "v": request.version,
        "op": request.op,
        "job": request.job,
        "from": request.sender,
        "to": request.to,
        "at": request.at,
        "nonce": request.nonce,
        "fields": dict(request.fields),
    }
    return _line(signer, content)


def read_request(signer: Signer, line: bytes) -> Request:
    """The request in a line without its end. Raises SigningError for what is not authentic, Unfit."""
    found = _content(signer, line, _REQUEST)
    words = {name: _word(found, name) for name in ("op", "job", "from", "to", "nonce")}
    at, fields, version = found.get("at"), found.get("fields", {}), found.get("v")
    if isinstance(at, bool) or not isinstance(at, int | float) or not isinstance(fields, dict):
        raise Unfit("it has no time, or its fields are no object")
    if isinstance(version, bool) or not isinstance(version, int):
        raise Unfit("it has no version")
    return Request(
        op=words["op"],
        job=words["job"],
        sender=words["from"],
        to=words["to"],
        at=float(at),
        nonce=words["nonce"],
        fields=fields,
        version=version,
    )


def answer_line(signer: Signer, request: Request, answer: Mapping[str, Any]) -> bytes:
    """The answer to *request*, with what was asked. Raises SigningError, ChannelError."""
    content = {
        "kind": _ANSWER,
        "v": VERSION,
        "op": request.op,
        "job": request.job,
        "to": request.sender,
        "nonce": request.nonce,
        "answer": dict(answer),
    }
    return _line(signer, content)


def read_answer(signer: Signer, line: bytes, request: Request) -> dict[str, Any]:
    """The answer in a line without its end. Raises SigningError for what is not authentic, Unfit for another's."""
    found = _content(signer, line, _ANSWER)
    asked = {"op": request.op, "job": request.job, "to": request.sender, "nonce": request.nonce}
    if any(found.get(name) != value for name, value in asked.items()):
        raise Unfit("it answers another question")
    answer = found.get("answer")
    if not isinstance(answer, dict):
        raise Unfit("it holds no answer")
    return answer


def is_same_host(name: str, other: str) -> bool:
    """Whether two names are one host's: the same, or one of them the other without its domain. Case does not count."""
    name, other = name.lower().rstrip("."), other.lower().rstrip(".")
    if "." in name and "." in other:
        return name == other
    return name.partition(".")[0] == other.partition(".")[0]


def _line(signer: Signer, content: Mapping[str, Any]) -> bytes:
    line = signer.sign(json.dumps(content, separators=(",", ":")).encode()).encode("ascii") + b"\n"
    if len(line) > MOST_LINE:
        raise ChannelError(
            "too-long", f"{content['op']} takes a line of {len(line)} bytes, at most {MOST_LINE} are sent"
        )
    return line


def _content(signer: Signer, line: bytes, kind: str) -> dict[str, Any]:
    payload = signer.verify(line.decode("ascii", "replace"))
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        raise Unfit("it is not JSON") from None
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise Unfit(f"it is no {kind}")
    return found


def _word(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or len(value) > _MOST_WORD or not value.isprintable():
        raise Unfit(f"its {name} is not a word of at most {_MOST_WORD} characters")
    return value
