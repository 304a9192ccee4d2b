"""Resolve planned mounts as the user, remember what they were, and look again when the container runs.

The source a user names can change between any two looks at it, so it is resolved with the user's own rights, opened
without following another link, and recorded by device and inode. What the container really got is compared with that
record before the job's script is fed to its shell.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from pbsdock import syscalls
from pbsdock.errors import Refusal
from pbsdock.plan import Mount

NEVER = ("/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/docker", "/boot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A mount whose source was resolved: ``source`` holds no symbolic link, ``device`` and ``inode`` identify it."""

    source: str
    target: str
    read_only: bool
    device: int
    inode: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the record."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whose eyes a path is looked at with."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def inside(path: str, prefix: str) -> bool:
    """Whether *path* is *prefix* or below it, by components: ``/scratch2`` is not inside ``/scratch``."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(prefix))


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
    closed = [*NEVER, *(os.path.realpath(one) for one in denied), *denied]
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
        if real == "/" or any(inside(real, one) for one in closed):
            raise _Unfit("mount-not-allowed", f"{via} cannot be mounted: system paths are never given to a container")
        if not any(inside(real, one) for one in prefixes):
            listed = ", ".join(sorted(set(prefixes))) or "no path"
            raise _Unfit("mount-not-allowed", f"{via} cannot be mounted: this site allows paths below {listed}")
    return Bound(
        source=real, target=mount.target, read_only=mount.read_only, device=facts.st_dev, inode=facts.st_ino
    )


def _look(path: str) -> tuple[str, os.stat_result]:
    real = os.path.realpath(path, strict=True)
    fd = syscalls.openat2(-100, real, os.O_PATH, syscalls.RESOLVE_NO_SYMLINKS)
    try:
        return real, os.fstat(fd)
    finally:
        os.close(fd)


def changed(bound: Iterable[Bound]) -> str | None:
    """Return the first source that is no longer what was resolved, looked at without following links."""
    for one in bound:
        try:
            fd = syscalls.openat2(-100, one.source, os.O_PATH, syscalls.RESOLVE_NO_SYMLINKS)
        except OSError:
            return one.source
        try:
            facts = os.fstat(fd)
        finally:
            os.close(fd)
        if (facts.st_dev, facts.st_ino) != (one.device, one.inode):
            return one.source
    return None


def mismatch(pid: int, bound: Iterable[Bound]) -> str | None:
    """Return the first target in the container of *pid* that is not what was resolved.

    The look goes through /proc/PID/root with RESOLVE_IN_ROOT, so links of the image cannot lead it to the host.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for one in bound:
            try:
                fd = syscalls.openat2(root, one.target, os.O_PATH, syscalls.RESOLVE_IN_ROOT)
            except OSError:
                return one.target
            try:
                facts = os.fstat(fd)
            finally:
                os.close(fd)
            if (facts.st_dev, facts.st_ino) != (one.device, one.inode):
                return one.target
    finally:
        os.close(root)
    return None
