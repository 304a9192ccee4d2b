"""What the agent tells a worker, and what comes back: plain data, one JSON object a line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pbsdock.core.facts import Upload
from pbsdock.s3.names import Url

Direction = Literal["in", "out", "undo"]
LIMIT = 1 << 20  # bytes of one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a worker reaches a store. The keys are not in its repr."""

    endpoint: str
    region: str
    path_style: bool
    ca_bundle: str
    parallel: int
    keys: dict[str, Any] = field(repr=False)  # access_key, secret_key, token, expires


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One option. *path* is the host's, below *root*, the source of its mount; *shown* is the container's."""

    store: str
    bucket: str
    key: str
    path: str
    root: str
    shown: str
    where: str
    doomed: bool = False  # below a directory that goes with the job, such as TMPDIR

    @property
    def url(self) -> Url:
        """The address without its store."""
        return Url(None, self.bucket, self.key)

    @property
    def is_single(self) -> bool:
        """Whether a stage-in names one object, not a prefix or a pattern."""
        url = self.url
        return bool(url.key) and not url.is_pattern and not url.key.endswith("/")

    @property
    def address(self) -> str:
        """For a sentence."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A worker's task. *mark* is the job's incarnation; unfinished files are named after it."""

    direction: Direction
    uid: int
    gid: int
    groups: tuple[int, ...]
    mark: str
    items: tuple[Item, ...]
    stores: dict[str, Access]
    uploads: tuple[Upload, ...] = ()
    keep: str = ""  # where to what is doomed is moved when it could not be uploaded
    patience_s: float = 60.0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Order:
        """Rebuild it from :meth:`to_dict`."""
        return cls(
            **{
                **data,
                "groups": tuple(data["groups"]),
                "items": tuple(Item(**fields) for fields in data["items"]),
                "stores": {name: Access(**fields) for name, fields in data["stores"].items()},
                "uploads": tuple(Upload(**fields) for fields in data["uploads"]),
            }
        )


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send one message. Raises OSError."""
    channel.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def messages(channel: socket.socket) -> Iterator[dict[str, Any]]:
    """Yield messages until the other end closes, or sends an invalid line."""
    buffer = b""
    while True:
        while (end := buffer.find(b"\n")) < 0:
            try:
                data = channel.recv(65536)
            except OSError:
                return
            if not data or len(buffer) > LIMIT:
                return
            buffer += data
        line, buffer = buffer[:end], buffer[end + 1 :]
        try:
            found = json.loads(line)
        except ValueError:
            return
        if not isinstance(found, dict):
            return
        yield found
