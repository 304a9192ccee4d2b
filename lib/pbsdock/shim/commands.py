"""What a command line asks for, one frozen value for each command. Pure.

Texts are the user's: an argument that is not UTF-8 comes as Python has it, with lone surrogates. Nothing here has been
judged: paths are as written, users and networks are names, and sizes may be more than the job has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pbsdock.directive.image_ref import ImageRef

Pairs = tuple[tuple[str, str], ...]
Environment = tuple[tuple[str, str | None], ...]  # None: as the client's own environment has it, if it has it
PullPolicy = Literal["always", "missing", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeArg:
    """``-v SOURCE:TARGET[:MODE]`` or ``--mount type=bind,…``; ``text`` is the argument as written.

    ``source`` is absolute or begins with ``.``, and is then below the client's directory. ``makes_source`` is true for
    ``-v``, for which Docker makes a directory that is missing, and false for ``--mount``.
    """

    source: str
    target: str
    read_only: bool
    text: str
    makes_source: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """``docker run``. Bytes, thousandths of a CPU, seconds; None where nothing was said.

    ``entrypoint`` is "" where the image's is cleared. ``env`` and ``env_files`` keep their order; Docker reads the
    files first. ``network`` may be ``container:NAME``. ``gpus`` is ``all``, a count in digits, or ``device=ID[,ID…]``.
    ``options_given`` are the long names of all options, in order and each once.
    """

    image: ImageRef
    image_text: str
    argv: tuple[str, ...] = ()
    name: str | None = None
    detach: bool = False
    interactive: bool = False
    tty: bool = False
    remove: bool = False
    env: Environment = ()
    env_files: tuple[str, ...] = ()
    volumes: tuple[VolumeArg, ...] = ()
    tmpfs: tuple[tuple[str, int | None], ...] = ()
    workdir: str | None = None
    user: str | None = None
    entrypoint: str | None = None
    network: str | None = None
    network_aliases: tuple[str, ...] = ()
    read_only: bool = False
    shm_size: int | None = None
    gpus: str | None = None
    init: bool = False
    stop_signal: str | None = None
    stop_timeout: int | None = None
    pull: PullPolicy | None = None
    platform: str | None = None
    memory: int | None = None
    cpus: int | None = None
    cpu_shares: int | None = None
    cpuset: str | None = None
    pids: int | None = None
    cidfile: str | None = None
    labels: Pairs = ()
    hostname: str | None = None
    quiet: bool = False
    sig_proxy: bool = True
    options_given: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exec:
    """``docker exec``."""

    container: str
    argv: tuple[str, ...]
    detach: bool = False
    interactive: bool = False
    tty: bool = False
    env: Environment = ()
    env_files: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """``docker pull``."""

    image: ImageRef
    image_text: str
    platform: str | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """``docker images``; ``reference`` is the one argument, a name or a pattern, "" without."""

    reference: str = ""
    quiet: bool = False
    filters: Pairs = ()
    format: str = ""
    no_trunc: bool = False
    digests: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ps:
    """``docker ps``; ``last`` is how many of the last made are shown, 0 without; ``latest`` is one."""

    all: bool = False
    quiet: bool = False
    filters: Pairs = ()
    format: str = ""
    no_trunc: bool = False
    last: int = 0
    latest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """``docker logs``; ``tail`` is how many lines of the end, None for all."""

    container: str
    follow: bool = False
    tail: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """``docker wait``."""

    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """``docker stop``; ``seconds`` is -1 to wait for ever, None for the container's own."""

    containers: tuple[str, ...]
    seconds: int | None = None
    signal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """``docker kill``."""

    containers: tuple[str, ...]
    signal: str = "KILL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rm:
    """``docker rm``; ``volumes`` has nothing to remove, since no container has volumes of its own."""

    containers: tuple[str, ...]
    force: bool = False
    volumes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspect:
    """``docker inspect``; ``type`` is "" for whatever has the name."""

    names: tuple[str, ...]
    format: str = ""
    type: Literal["", "container", "image", "network"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cp:
    """``docker cp``; ``container`` is the one named, and of ``source`` and ``target`` one is a path in it:
    ``source`` for ``out``, ``target`` for ``in``."""

    container: str
    direction: Literal["in", "out"]
    source: str
    target: str
    archive: bool = False
    follow_link: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """``docker login``; ``registry`` is "" for Docker Hub, None stands for what is to be asked for."""

    registry: str = ""
    user: str | None = None
    password: str | None = None
    password_stdin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Logout:
    """``docker logout``; ``registry`` is "" for Docker Hub."""

    registry: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCreate:
    """``docker network create``: a network of the job's own."""

    name: str
    internal: bool = False
    labels: Pairs = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRm:
    """``docker network rm``; with ``force`` a network that is not there is no error."""

    names: tuple[str, ...]
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLs:
    """``docker network ls``."""

    quiet: bool = False
    filters: Pairs = ()
    format: str = ""
    no_trunc: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInspect:
    """``docker network inspect``."""

    names: tuple[str, ...]
    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """``docker version``; ``short`` is ``docker --version``, one line."""

    format: str = ""
    short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """``docker info``."""

    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """``--help``, ``docker help``, or no command: ``text`` is what is printed, on standard output, with status 0."""

    topic: str
    text: str


Command = (
    Run
    | Exec
    | Pull
    | Images
    | Ps
    | Logs
    | Wait
    | Stop
    | Kill
    | Rm
    | Inspect
    | Cp
    | Login
    | Logout
    | NetworkCreate
    | NetworkRm
    | NetworkLs
    | NetworkInspect
    | Version
    | Info
    | Help
)
