"""A container, an image and a network as a row of Docker's tables, with the fields a template may name. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import tzinfo

from pbsdock.shim.columns import ellipsis
from pbsdock.shim.durations import human_duration, human_size, local_text
from pbsdock.shim.formats import Method
from pbsdock.shim.go_text import Row, go_quoted

_SHORT_ID = 12
_COMMAND, _MOUNT = 20, 15  # columns
NONE = "<none>"


def short_id(text: str) -> str:
    """An id as tables have it, without ``sha256:``."""
    return text.removeprefix("sha256:")[:_SHORT_ID]


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRow:
    """Seconds since the epoch, None for what has not been. ``state`` is ``created``, ``running``, ``paused``,
    ``restarting``, ``removing``, ``exited`` or ``dead``; ``command`` the program and its arguments in one line;
    ``mounts`` are sources."""

    id: str
    image: str
    image_id: str = ""
    command: str = ""
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    state: str = "created"
    exit_code: int = 0
    names: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    zone: tzinfo | None = None

    def status(self, now: float) -> str:
        """As the engine words it: "Up 3 seconds", "Exited (0) About a minute ago"."""
        if self.state in ("running", "paused"):
            up = f"Up {human_duration(now - (now if self.started is None else self.started))}"
            return f"{up} (Paused)" if self.state == "paused" else up
        if self.state == "removing":
            return "Removal In Progress"
        if self.state == "dead":
            return "Dead"
        if self.started is None and self.finished is None:
            return "Created"
        ago = human_duration(now - (now if self.finished is None else self.finished))
        return f"{'Restarting' if self.state == 'restarting' else 'Exited'} ({self.exit_code}) {ago} ago"

    def fields(self, now: float, *, full: bool) -> Row:
        """What a template may name, as ``docker ps`` has it; *full*: nothing is shortened."""
        mounts = self.mounts if full else tuple(ellipsis(each, _MOUNT) for each in self.mounts)
        return Row(
            {
                "Command": go_quoted(self.command if full else ellipsis(self.command, _COMMAND)),
                "CreatedAt": local_text(self.created, self.zone),
                "ID": self.id if full else short_id(self.id),
                "Image": self.image or "<no image>",
                "Labels": _labels(self.labels),
                "LocalVolumes": "0",
                "Mounts": ",".join(mounts),
                "Names": ",".join(self.names),
                "Networks": ",".join(self.networks),
                "Platform": None,
                "Ports": "",
                "RunningFor": f"{human_duration(now - self.created)} ago",
                "Size": "0B",
                "State": self.state,
                "Status": self.status(now),
                "Label": Method(lambda key: self.labels.get(key, "")),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """One tag of an image; ``repository`` and ``tag`` are "" for none, ``digest`` is ``sha256:…`` or ""."""

    id: str
    repository: str = ""
    tag: str = ""
    digest: str = ""
    created: float = 0.0
    size: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    zone: tzinfo | None = None

    def fields(self, now: float, *, full: bool) -> Row:
        """What a template may name, as ``docker images`` has it."""
        return Row(
            {
                "Containers": "N/A",
                "CreatedAt": local_text(self.created, self.zone),
                "CreatedSince": f"{human_duration(now - self.created)} ago",
                "Digest": self.digest or NONE,
                "ID": self.id if full else short_id(self.id),
                "Repository": self.repository or NONE,
                "SharedSize": "N/A",
                "Size": human_size(self.size),
                "Tag": self.tag or NONE,
                "UniqueSize": "N/A",
                "VirtualSize": human_size(self.size, 4),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRow:
    """A network; ``driver`` is ``bridge``, ``host`` or ``null``."""

    id: str
    name: str
    driver: str = "bridge"
    scope: str = "local"
    created: float = 0.0
    internal: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    zone: tzinfo | None = None

    def fields(self, *, full: bool) -> Row:
        """What a template may name, as ``docker network ls`` has it."""
        return Row(
            {
                "CreatedAt": local_text(self.created, self.zone),
                "Driver": self.driver,
                "ID": self.id if full else short_id(self.id),
                "IPv4": "true",
                "IPv6": "false",
                "Internal": "true" if self.internal else "false",
                "Labels": _labels(self.labels),
                "Name": self.name,
                "Scope": self.scope,
                "Label": Method(lambda key: self.labels.get(key, "")),
            }
        )
