"""The seam to a container engine: what the agent asks of one, and what it gets, without any engine's own names.

Between :mod:`pbsdock.engine.spec`, which makes a :class:`ContainerSpec` of a plan, and an engine's own JSON, which only
its own package (:mod:`pbsdock.engine.docker`) knows. Times are seconds since the epoch, sizes bytes.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from pbsdock.core.plan import Device, Limits, Tmpfs

Rlimits = Mapping[str, tuple[int, int]]  # the kernel's name in /proc/PID/limits -> soft, hard; -1 is unlimited


class Failure(Enum):
    """Why an engine refused a call, as far as the agent treats it differently."""

    NO_PROGRAM = "no-program"  # what was to be started is not in the image, or cannot be run
    NO_DIRECTORY = "no-directory"  # the directory to start in is none, or closed to the user
    IMAGE_GONE = "image-gone"
    NO_NETWORK = "no-network"
    IN_USE = "in-use"  # what was to be removed
    NO_GPUS = "no-gpus"  # it has nothing that could give a container any
    GPUS_FAILED = "gpus-failed"  # what it has for that did not
    OTHER = "other"


class EngineError(Exception):
    """The engine answered a call with an error: *status* is HTTP's, the text the engine's own."""

    def __init__(self, status: int, text: str, failure: Failure = Failure.OTHER) -> None:
        super().__init__(text)
        self.status = status
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class BindMount:
    """A file or directory of the host's in the container; no mount made inside ever shows on the host.

    Nor one of the host's inside, unless it ``follows`` the host.
    """

    source: str
    target: str
    read_only: bool
    follows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """One container, whole.

    What no job's container may have is no field, so nothing can ask for it; every engine sees to that itself: no
    capability, no gain of privileges, no namespace of the host's or another container's but the network's, no restart,
    no log, no health check, no published port. Where it ``has_streams``, standard input, output and error are open to
    :meth:`ContainerEngine.attach`; else they are /dev/null, or read by nobody.
    """

    image_id: str
    argv: tuple[str, ...]
    entrypoint: tuple[str, ...]  # in front of argv; empty: none at all, also where the image has one
    environment: tuple[str, ...]  # NAME=value, over the image's own
    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, by number
    workdir: str
    tty: bool
    labels: Mapping[str, str]
    mounts: tuple[BindMount, ...]
    tmpfs: tuple[Tmpfs, ...]
    network: str  # "host", "none", a network's name, or "container:ID" for that of another container
    limits: Limits
    cgroup_parent: str  # as the engine's cgroup driver spells it
    devices: tuple[Device, ...]
    gpus: tuple[str, ...]  # NVIDIA's ids
    rlimits: Rlimits
    oom_score_adj: int
    read_only_root: bool
    sysctls: Mapping[str, str]  # of the container's own namespaces
    hostname: str = ""  # "" leaves it to the engine
    runtime: str = ""  # by the engine's name for it; "": its default
    has_streams: bool = True
    network_aliases: tuple[str, ...] = ()  # by which the others on a network that was made for a job find it


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """How a container is, or how it ended. ``pid`` 0: no process; times None: not yet, or the engine does not know."""

    is_running: bool = False
    pid: int = 0
    exit_code: int = 0
    out_of_memory: bool = False  # the engine says so: a process was killed, not necessarily the first one
    started_at: float | None = None
    finished_at: float | None = None
    error: str = ""  # the engine's own words for a start that failed
    address: str = ""  # on its first network, "" where it has none of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecState:
    """How a process beside a container's first one is. ``exit_code`` None: it has not ended."""

    container_id: str
    is_running: bool
    pid: int
    exit_code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedContainer:
    """A container as a list has it."""

    id: str
    labels: Mapping[str, str]
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedNetwork:
    """A network as a list has it."""

    id: str
    name: str
    labels: Mapping[str, str]
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """An image of this node. ``digests`` are ``repository@digest``, one for each registry it came from."""

    id: str
    digests: tuple[str, ...]
    architecture: str  # Go's name, as images are labelled: amd64, arm64; "" if it does not say
    size_bytes: int
    tags: tuple[str, ...] = ()  # repository:tag
    created_at: float | None = None
    entrypoint: tuple[str, ...] = ()  # what its containers run in front of the command
    command: tuple[str, ...] = ()  # what they run where nothing is named
    workdir: str = ""
    stop_signal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    """An image as a list has it. ``tags`` are ``repository:tag`` and ``digests`` as those of :class:`ImageFacts`."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size_bytes: int
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A file of an image. ``content`` None: it was not asked for, is too long, or is no plain file."""

    is_program: bool
    content: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file of a container that does not run. ``link`` is where a symbolic link leads, ``head`` how a plain file
    begins, in some kilobytes."""

    kind: Literal["file", "directory", "link", "other"]
    mode: int
    uid: int
    gid: int
    link: str = ""
    head: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCapabilities:
    """What an engine says of itself and of its host."""

    version: str
    architecture: str  # the kernel's name (uname -m)
    cgroup_driver: str  # "cgroupfs", "systemd"; "" if it does not say
    cgroup_version: int
    root_dir: str  # where it keeps images and containers; "" if it does not say
    security_options: tuple[str, ...]
    live_restore: bool  # whether containers outlive it
    runtimes: tuple[str, ...]  # the names of the OCI runtimes it has
    default_runtime: str
    maps_user_ids: bool  # whether a container's user is another one on the host

    @property
    def has_seccomp(self) -> bool:
        """Whether it can filter a container's system calls."""
        return any("seccomp" in option for option in self.security_options)


class EventKind(Enum):
    """What an engine tells by itself."""

    CONTAINER_DIED = "container-died"
    EXEC_DIED = "exec-died"
    OUT_OF_MEMORY = "out-of-memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent:
    """Something that happened to a container. ``exit_code`` is of what died, None where the engine does not say."""

    kind: EventKind
    container_id: str
    exec_id: str = ""
    exit_code: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)  # the container's
    at: float | None = None


class ContainerEngine(Protocol):
    """The calls the agent makes, no others; any thread may make them.

    Each takes a bounded time. Each raises NodeFault ``engine-unreachable`` if the engine does not answer, and
    :class:`EngineError` if it answers with an error. Containers are named by id or name.

    Many methods because each is one call of the engine, and the agent needs them all.
    """

    @property
    def down_because(self) -> str | None:
        """Why the engine is taken for lost; None while it answers."""

    def probe(self) -> bool:
        """Ask for a sign of life, shortly. Raises nothing."""

    def info(self) -> EngineCapabilities:
        """Ask the engine what it is and can do."""

    def components(self) -> dict[str, str]:
        """Name -> version, of the engine and what it runs containers with."""

    def check_login(self, registry: str, login: Mapping[str, str]) -> None:
        """Have the engine log in at a registry, as it would for a pull."""

    def create(self, spec: ContainerSpec, name: str) -> str:
        """Create a container; returns its id."""

    def attach(self, container: str) -> socket.socket:
        """Open a container's streams; nothing of them is read yet.

        What it writes comes in frames, for the run hook to take apart: the stream (1 or 2), three zero bytes, the
        length in four bytes, the data. With a terminal it comes as it is.
        """

    def start(self, container: str) -> None:
        """Start a container."""

    def limit(self, container: str, limits: Limits) -> None:
        """Give a container, running or not, other limits; its memory stays limited where it was, and /dev/shm as it
        is."""

    def inspect(self, container: str) -> ContainerState | None:
        """How a container is; None if there is none."""

    def look(self, container: str, path: str) -> FoundFile | None:
        """What is at *path* in a container that does not run, itself where it is a link; None if nothing is."""

    def inspect_image(self, reference: str) -> ImageFacts | None:
        """An image by reference; None if it is not here."""

    def images(self) -> list[ListedImage]:
        """All that are here, but what is only a layer of others."""

    def remove_image(self, name: str) -> bool:
        """Take away a name, or an image's id, and with its last name the image; False if a container uses it, or it
        is not there."""

    def read_image(
        self, image_id: str, wanted: Mapping[str, int], labels: Mapping[str, str]
    ) -> tuple[frozenset[str], dict[str, ImageFile]]:
        """Names of the image's own variables, and those of the files *wanted* that it has, links followed inside it.

        *wanted* is path -> most bytes to read (0: only looked at). What is made for this has *labels* and is removed.
        """

    def remove(self, container: str) -> bool:
        """Kill and remove a container, if there is one; False while another removal is under way."""

    def labelled(self, label: str) -> list[ListedContainer]:
        """All containers with *label* (``key=value``), running or not."""

    def create_network(self, name: str, labels: Mapping[str, str], *, internal: bool) -> str:
        """Make a network of this host's, whose containers find one another by name; an *internal* one leads nowhere
        else. Returns its id."""

    def remove_network(self, name: str) -> None:
        """Remove a network, if there is one. Raises EngineError, IN_USE while containers are on it."""

    def networks(self, label: str) -> list[ListedNetwork]:
        """All networks with *label* (``key=value``)."""

    def resize(self, container: str, rows: int, columns: int) -> None:
        """Set the size of a container's terminal, in characters."""

    def exec_create(
        self,
        container: str,
        argv: Sequence[str],
        *,
        environment: Sequence[str],
        uid: int,
        gid: int,
        directory: str,
        tty: bool,
    ) -> str:
        """Prepare a process beside the container's first one, with all three streams; returns its id."""

    def exec_start(self, exec_id: str, *, tty: bool) -> socket.socket:
        """Start such a process and return its streams, which are as those of :meth:`attach`."""

    def exec_inspect(self, exec_id: str) -> ExecState:
        """How such a process is. Raises EngineError if the engine knows none, as after its restart."""

    def events(self, label: str) -> AbstractContextManager[Iterator[EngineEvent]]:
        """What happens to containers with *label* from the moment this is entered; waits for the next without end.

        It ends where the engine ends it. Raises OSError or ValueError if the connection breaks.
        """
