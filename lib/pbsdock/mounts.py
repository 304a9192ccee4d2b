"""Resolve planned mounts as the user, remember what they were, and look again when the container runs.

The source a user names can change between any two looks at it, so it is resolved with the user's own rights, opened
without following another link, and recorded by device and inode. What the container really got is compared with that
record before the job's script is fed to its shell.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pbsdock import syscalls
from pbsdock.errors import Refusal
from pbsdock.plan import Mount, Plan
from pbsdock.policy_mounts import HOST_PATHS, below

_CWD = -100  # AT_FDCWD, openat(2); every path here is absolute


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A mount whose source was resolved: ``source`` holds no symbolic link, ``device`` and ``inode`` identify it.

    ``pin`` is where root holds it for the engine (see :mod:`pbsdock.pins`).
    """

    source: str
    target: str
    read_only: bool
    device: int
    inode: int
    pin: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the record."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whose eyes a path is looked at with."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan) -> User:
        """The owner of the job."""
        return cls(uid=plan.uid, gid=plan.gid, groups=plan.groups)


def resolve(
    mounts: Iterable[Mount], user: User, *, allowed: Sequence[str], denied: Sequence[str]
) -> tuple[list[Bound], list[tuple[Mount, str]]]:
    """Return the mounts as found and those left out with the reason.

    *allowed* are the prefixes open to volumes and the work directory; *denied* are closed to them. Raises Refusal for
    a required mount.
    """
    bound: list[Bound] = []
    skipped: list[tuple[Mount, str]] = []
    prefixes = [os.path.realpath(one) for one in allowed]
    closed = [*HOST_PATHS, *(os.path.realpath(one) for one in denied), *denied]
    for mount in mounts:
        judged = mount.origin in ("volume", "workdir")
        try:
            bound.append(_resolve_one(mount, user if mount.origin != "nodefile" else None, prefixes, closed, judged))
        except _Unfit as error:
            if mount.required:
                raise Refusal(error.code, f"{mount.where + ': ' if mount.where else ''}{error}") from None
            skipped.append((mount, str(error)))
    return bound, skipped


class _Unfit(Exception):
    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def _resolve_one(
    mount: Mount, user: User | None, prefixes: Sequence[str], closed: Sequence[str], judged: bool
) -> Bound:
    try:
        if user is None:
            real, facts = _look(mount.source)
        else:
            with syscalls.filesystem_user(user.uid, user.gid, user.groups):
                real, facts = _look(mount.source)
    except OSError as error:
        raise _Unfit(
            "mount-unreadable", f"{mount.source} cannot be mounted: {error.strerror or error} (looked at as the user)"
        ) from None
    kind = stat.S_IFMT(facts.st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise _Unfit("mount-kind", f"{mount.source} cannot be mounted: only files and directories can")
    if judged:
        via = f"{mount.source} (really {real})" if real != mount.source else real
        if real == "/" or any(below(real, one) for one in closed):
            raise _Unfit("mount-not-allowed", f"{via} cannot be mounted: system paths are never given to a container")
        if not any(below(real, one) for one in prefixes):
            listed = ", ".join(sorted(set(prefixes))) or "no path"
            raise _Unfit("mount-not-allowed", f"{via} cannot be mounted: this site allows paths below {listed}")
    return Bound(
        source=real, target=mount.target, read_only=mount.read_only, device=facts.st_dev, inode=facts.st_ino
    )


def _look(path: str) -> tuple[str, os.stat_result]:
    real = os.path.realpath(path, strict=True)
    return real, _stat(_CWD, real, syscalls.RESOLVE_NO_SYMLINKS)


def _stat(directory: int, path: str, resolve: int) -> os.stat_result:
    fd = syscalls.openat2(directory, path, os.O_PATH, resolve)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def open_unchanged(one: Bound, user: User | None) -> int:
    """Open what was resolved, as *user* (None: as root); returns a descriptor. Raises OSError, also if it changed."""
    if user is None:
        fd = syscalls.openat2(_CWD, one.source, os.O_PATH, syscalls.RESOLVE_NO_SYMLINKS)
    else:
        with syscalls.filesystem_user(user.uid, user.gid, user.groups):
            fd = syscalls.openat2(_CWD, one.source, os.O_PATH, syscalls.RESOLVE_NO_SYMLINKS)
    facts = os.fstat(fd)
    if (facts.st_dev, facts.st_ino) != (one.device, one.inode):
        os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), one.source)
    return fd


def _is_still(one: Bound, directory: int, path: str, resolve: int) -> bool:
    try:
        facts = _stat(directory, path, resolve)
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) == (one.device, one.inode)


def missing(paths: Iterable[str], bound: Sequence[Bound], user: User) -> tuple[str, Bound] | None:
    """Return the first of *paths* in the container that a mount of the host's lacks, and that mount.

    The engine makes what is missing, as root and on the host: so it must be there before, in the user's own eyes.
    """
    for path in paths:
        inside = [one for one in bound if path != one.target and below(path, one.target)]
        if not inside:
            continue  # the image's, or made in the container's own layer
        nearest = max(inside, key=lambda one: len(one.target))
        rest = os.path.relpath(path, nearest.target)
        try:
            with syscalls.filesystem_user(user.uid, user.gid, user.groups):
                _stat(_CWD, os.path.join(nearest.source, rest), syscalls.RESOLVE_NO_SYMLINKS)
        except OSError:
            return path, nearest
    return None


def mismatch(pid: int, bound: Iterable[Bound]) -> str | None:
    """Return the first target in the container of *pid* that is not what was resolved.

    The look goes through /proc/PID/root with RESOLVE_IN_ROOT, so links of the image cannot lead it to the host.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for one in bound:
            if not _is_still(one, root, one.target, syscalls.RESOLVE_IN_ROOT):
                return one.target
    finally:
        os.close(root)
    return None
