"""``-v``, ``--mount`` and ``--tmpfs`` as Docker writes them: which path of the node is to be seen where. Pure.

Each reader raises BadValue with what is wrong, to stand behind the option's name.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from pbsdock.core.errors import BadValue
from pbsdock.directive.tokens import shown
from pbsdock.directive.values import target_problem
from pbsdock.shim import values
from pbsdock.shim.commands import VolumeArg
from pbsdock.shim.flags import parse_bool

_ENGINE_SOCKET = re.compile(
    r"(?:/var)?/run/(?:docker\.sock|docker/.*|containerd/.*|podman/.*|crio/.*|user/[0-9]+/docker\.sock)", re.S
)
_NO_EFFECT = ("z", "Z", "cached", "delegated", "consistent", "default", "nocopy", "private", "rprivate")
_SHARED = ("shared", "rshared", "slave", "rslave")
_TMPFS_NO_EFFECT = ("rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "relatime", "noatime", "async", "sync")
_MODE = re.compile("[0-7]{1,5}")

NAMED = "names a volume of the engine's, and a job has none; make a directory and write -v $TMPDIR/{0}:{1}"
ANONYMOUS = "is an anonymous volume, and a job has none; write --tmpfs {0} for memory, or -v $TMPDIR/DIRECTORY:{0}"


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """``--tmpfs`` or ``--mount type=tmpfs``; bytes, None where no size was given."""

    target: str
    size: int | None


def is_engine_socket(path: str) -> bool:
    """Whether a path, as written, is a container engine's socket or in its directory of sockets."""
    return _ENGINE_SOCKET.fullmatch(posixpath.normpath(path).replace("//", "/")) is not None


def volume(text: str) -> VolumeArg:
    """``SOURCE:TARGET[:MODE]``; the source is absolute or begins with a dot."""
    parts = text.split(":", 3)
    if len(parts) > 3:
        raise BadValue("has too many colons; write SOURCE:TARGET[:ro]")
    if len(parts) == 1 or (len(parts) == 2 and parts[1] in ("ro", "rw")):
        target(parts[0])
        raise values.NotOffered(ANONYMOUS.format(_brief(parts[0])))
    source, inside = parts[0], parts[1]
    target(inside)
    _check_source(source, inside)
    read_only = _mode(parts[2]) if len(parts) == 3 else False
    return VolumeArg(source=source, target=inside, read_only=read_only, text=text)


def _check_source(source: str, inside: str) -> None:
    if not source:
        raise BadValue("has no source; write SOURCE:TARGET")
    if source[0] == "~":
        raise BadValue("begins with ~, which only a shell at the start of a word replaces; write $HOME")
    if source[0] not in "/.":
        raise values.NotOffered(NAMED.format(_brief(source), _brief(inside)))
    values.path(source)
    if is_engine_socket(source):
        raise values.NotOffered(
            "is a container engine's socket, which would make the job root on the node; it is never given"
        )


def _mode(text: str) -> bool:
    """Whether a mount's mode makes it read-only."""
    read_only = False
    for word in text.split(","):
        if word == "ro":
            read_only = True
        elif word in _SHARED:
            raise values.NotOffered(f"has {word}; mounts are not shared with the node's, leave it out")
        elif word != "rw" and word not in _NO_EFFECT:
            raise BadValue(f"has the mode {shown(word)}; write ro or rw")
    return read_only


def target(path: str) -> str:
    """An absolute path in the image that a mount may cover."""
    values.inside(path)
    if ".." in path.split("/"):
        raise BadValue("has a '..' component in its target; write the path without it")
    if problem := target_problem(path, "volume", "its target"):
        raise values.NotOffered(f"is not possible: {problem.removeprefix('--volume ')}")
    return path


def tmpfs(text: str) -> Tmpfs:
    """``PATH[:OPTION,…]`` of ``--tmpfs``; of the options only the size counts."""
    path, colon, options = text.partition(":")
    size = None
    for word in options.split(",") if colon else ():
        key, equals, value = word.partition("=")
        if key == "size" and equals:
            size = _tmpfs_size(value)
        elif not (word in _TMPFS_NO_EFFECT or (key == "mode" and _MODE.fullmatch(value))):
            raise BadValue(f"has the option {shown(word)}; write PATH or PATH:size=SIZE")
    return Tmpfs(_tmpfs_target(path), size)


def _tmpfs_target(path: str) -> str:
    values.inside(path)
    if ".." in path.split("/"):
        raise BadValue("has a '..' component; write the path without it")
    if problem := target_problem(path, "tmpfs", "its path"):
        raise values.NotOffered(f"is not possible: {problem.removeprefix('--tmpfs ')}")
    return path


def _tmpfs_size(text: str) -> int | None:
    try:
        return values.size(text) or None
    except BadValue as error:
        raise BadValue(f"has the size {shown(text)}, which {error}") from None


_BIND_KEYS = ("consistency", "bind-propagation", "bind-nonrecursive", "bind-recursive", "bind-create-src")
_KEY = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}


def mount(text: str) -> VolumeArg | Tmpfs:
    """``type=bind,source=…,target=…[,readonly]`` or ``type=tmpfs,target=…[,tmpfs-size=…]``."""
    given: dict[str, str] = {}
    for field in values.comma_separated(text):
        key, equals, value = field.partition("=")
        key = _KEY.get(key.lower(), key.lower())
        given[key] = value if equals else "true"
        if not equals and key not in ("readonly", "bind-nonrecursive", "bind-create-src", "volume-nocopy"):
            raise BadValue(f"has {shown(field)}, which is not KEY=VALUE")
    kind = given.pop("type", "volume").lower()
    if kind == "tmpfs":
        return _tmpfs_mount(given)
    if kind == "bind":
        return _bind_mount(given, text)
    inside = _brief(given.get("target", "TARGET"))
    if kind == "volume":
        raise values.NotOffered(
            f"mounts a volume of the engine's, and a job has none; write type=bind,source=PATH,target={inside}"
        )
    raise BadValue(f"has the type {shown(kind)}; write type=bind,source=PATH,target={inside} or type=tmpfs")


def _tmpfs_mount(given: dict[str, str]) -> Tmpfs:
    size = _tmpfs_size(given.pop("tmpfs-size")) if "tmpfs-size" in given else None
    if "tmpfs-mode" in given and not _MODE.fullmatch(given.pop("tmpfs-mode")):
        raise BadValue("has a tmpfs-mode that is not octal, for example 1777")
    _truth(given, "readonly", refused="a tmpfs that is read-only stays empty")
    made = Tmpfs(_tmpfs_target(_needed(given, "target")), size)
    _nothing_left(given, "tmpfs")
    return made


def _bind_mount(given: dict[str, str], text: str) -> VolumeArg:
    inside, source = target(_needed(given, "target")), _needed(given, "source")
    _check_source(source if source[:1] in ("/", ".", "~", "") else f"./{source}", inside)
    if source[0] not in "/.":
        raise BadValue(f"has the source {shown(source)}, which is not absolute; begin it with / or ./")
    read_only = _truth(given, "readonly")
    makes_source = _truth(given, "bind-create-src")
    if given.get("bind-propagation", "rprivate") not in ("private", "rprivate"):
        raise values.NotOffered("has a bind-propagation; mounts are not shared with the node's, leave it out")
    for key in _BIND_KEYS:
        given.pop(key, None)
    _nothing_left(given, "bind")
    return VolumeArg(source=source, target=inside, read_only=read_only, text=text, makes_source=makes_source)


def _needed(given: dict[str, str], key: str) -> str:
    value = given.pop(key, "")
    if not value:
        raise BadValue(f"has no {key}; write {key}=PATH")
    return value


def _truth(given: dict[str, str], key: str, refused: str = "") -> bool:
    value = parse_bool(given.pop(key, "false"))
    if value is None:
        raise BadValue(f"has a {key} that is neither true nor false")
    if value and refused:
        raise BadValue(f"has {key}: {refused}; leave it out")
    return value


def _nothing_left(given: dict[str, str], kind: str) -> None:
    if given:
        key = next(iter(given))
        raise BadValue(f"has the key {shown(key)}, which type={kind} does not take in a job; leave it out")


def _brief(text: str) -> str:
    plain = text if text.isprintable() else shown(text)
    return plain if len(plain) <= 80 else plain[:79] + "…"
