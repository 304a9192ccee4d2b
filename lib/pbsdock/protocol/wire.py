"""Messages between hooks and agent: length-prefixed lists of NUL-separated ``key``, ``value`` byte strings.

Environment values and arguments are bytes that never hold a NUL, so nothing has to be escaped and nothing is lost on
the way. JSON would do, but importing it costs a hook five milliseconds and it cannot carry bytes that are not UTF-8.
"""

from __future__ import annotations

HEADER = 4
CLIENT_LIMIT = 4 * 1024 * 1024
_MOST_PARTS = 1 << 19  # millions of empty fields would cost sixteen times their bytes


class WireError(Exception):
    """A message that breaks the format; the connection is dropped."""


class Message:
    """One message: an operation and its fields, each a list of byte strings."""

    __slots__ = ("fields", "op")

    def __init__(self, op: str, **fields: str | bytes | int | list[bytes]) -> None:
        self.op = op
        self.fields: dict[str, list[bytes]] = {}
        for key, value in fields.items():
            self.fields[key] = value if isinstance(value, list) else [_bytes(value)]

    def raw(self, key: str) -> list[bytes]:
        """Return all values of *key*, in order."""
        return self.fields.get(key, [])

    def text(self, key: str, default: str = "") -> str:
        """Return the first value of *key* as text (bytes that are not UTF-8 become surrogates)."""
        values = self.fields.get(key)
        return values[0].decode("utf-8", "surrogateescape") if values else default

    def number(self, key: str, default: int = 0) -> int:
        """Return the first value of *key* as an integer; raises WireError if it is none."""
        values = self.fields.get(key)
        if not values:
            return default
        digits = values[0][1:] if values[0][:1] == b"-" else values[0]
        if not digits.isdigit() or len(digits) > 18:
            raise WireError(f"{key} is not a number")
        return int(values[0])


def _bytes(value: str | bytes | int) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogateescape")


def encode(message: Message) -> bytes:
    """Return the bytes to send, header included. Raises WireError if a value holds a NUL."""
    parts = [message.op.encode()]
    for key, values in message.fields.items():
        name = key.encode()
        for value in values:
            parts += (name, value)
    payload = b"\0".join(parts)
    if payload.count(b"\0") != len(parts) - 1:
        raise WireError("a value holds a NUL")
    return len(payload).to_bytes(HEADER, "big") + payload


def length(header: bytes, limit: int) -> int:
    """Return the payload length a header announces; raises WireError above *limit*."""
    size = int.from_bytes(header, "big")
    if not 0 < size <= limit:
        raise WireError(f"message of {size} bytes; at most {limit} are taken")
    return size


def decode(payload: bytes) -> Message:
    """Parse one payload. Raises WireError if it is not of the format."""
    if payload.count(b"\0") > _MOST_PARTS:
        raise WireError("malformed message")
    op, *rest = payload.split(b"\0")
    if len(rest) % 2 or not op.isascii() or len(op) > 32:
        raise WireError("malformed message")
    message = Message(op.decode())
    for index in range(0, len(rest), 2):
        key = rest[index]
        if not key.isascii() or len(key) > 32:
            raise WireError("malformed message")
        message.fields.setdefault(key.decode(), []).append(rest[index + 1])
    return message
