"""Resolve planned mounts as the user, judge what was opened, and look again when the container runs.

The source a user names can change between any two looks at it. It is resolved once, with the user's own rights, opened
without following another link, and everything is asked of that descriptor: its kind, its owner, and where the kernel
says that it is. What the container really got is compared with it before the job's script is fed to its shell.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.pathrules import Closed, PathRules, ReadOnly, below
from pbsdock.core.plan import Mount, Plan
from pbsdock.host import syscalls
from pbsdock.policy.mounts import read_only_sentence

_CWD = -100  # AT_FDCWD, openat(2); every path here is absolute


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


def resolve(mounts: Iterable[Mount], user: User, rules: PathRules) -> tuple[list[Bound], list[tuple[Mount, str]]]:
    """Return the mounts as found and those left out with the reason; *rules* are the site's for this user.

    No origin is exempt: each is judged by where the kernel says that its opened source is. Raises Refusal for a
    required mount.
    """
    bound: list[Bound] = []
    skipped: list[tuple[Mount, str]] = []
    rules = _real(rules)
    mounted = [point for point, _ in syscalls.mount_points()]
    for mount in mounts:
        try:
            bound.append(_resolve_one(mount, user, rules, mounted))
        except _NotMountable as error:
            if mount.required:
                raise Refusal(error.code, f"{mount.where + ': ' if mount.where else ''}{error}") from None
            skipped.append((mount, str(error)))
    return bound, skipped


class _NotMountable(Exception):
    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def _real(rules: PathRules) -> PathRules:
    """The rules with the places their paths really are, beside those that were written where they close something."""

    def both(paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(alias for path in paths for alias in (path, os.path.realpath(path))))

    allow = [(os.path.realpath(entry.removesuffix(":ro")), entry.endswith(":ro")) for entry in rules.allow]
    return replace(
        rules,
        sealed=both(rules.sealed),
        guarded=both(rules.guarded),
        deny=both(rules.deny),
        allow=tuple(dict.fromkeys(path + ":ro" * read_only for path, read_only in allow)),
    )


def _resolve_one(mount: Mount, user: User, rules: PathRules, mounted: Sequence[str]) -> Bound:
    try:
        # Mom's own file lies where users may not look.
        with opened(mount.source, None if mount.origin == "nodefile" else user) as (fd, real):
            facts = os.fstat(fd)
    except OSError as error:
        raise _NotMountable(
            "mount-unreadable", f"{mount.source} cannot be mounted: {error.strerror or error} (looked at as the user)"
        ) from None
    _check_kind(mount, facts, user)
    via = f"{mount.source} (really {real})" if real != mount.source else real
    try:
        rules.check(real, mount.origin, [point for point in mounted if point != real and below(point, real)])
        if mount.origin in ("volume", "workdir"):
            rules.check_allowed(real)
    except Closed as error:
        raise _NotMountable("mount-not-allowed", f"{via} cannot be mounted: {error}") from None
    except ReadOnly as error:
        if mount.origin == "volume" and not mount.read_only:
            raise _NotMountable("mount-read-only", read_only_sentence(via, mount.target, error)) from None
        mount = replace(mount, read_only=True)
    return Bound(source=real, target=mount.target, read_only=mount.read_only, device=facts.st_dev, inode=facts.st_ino)


def _check_kind(mount: Mount, facts: os.stat_result, user: User) -> None:
    """Whether what was opened is what mom, or the user, could have meant. Raises _NotMountable."""
    kind = stat.S_IFMT(facts.st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise _NotMountable("mount-kind", f"{mount.source} cannot be mounted: only files and directories can")
    if mount.origin == "tmpdir" and (kind != stat.S_IFDIR or facts.st_uid != user.uid):
        raise _NotMountable("mount-kind", f"{mount.source} cannot be mounted: it is not a directory of the job owner's")
    if mount.origin == "nodefile" and (kind != stat.S_IFREG or facts.st_uid != 0):
        raise _NotMountable("mount-kind", f"{mount.source} cannot be mounted: it is not a file of mom's")


@contextmanager
def opened(path: str, user: User | None) -> Iterator[tuple[int, str]]:
    """Resolve and open *path* as *user* (None: as root); yields a descriptor and where the kernel said that it was.

    Raises OSError, ESTALE if it was exchanged meanwhile.
    """
    with _eyes_of(user):
        real = os.path.realpath(path, strict=True)
        fd = _open_resolved(real)
    try:
        yield fd, real
    finally:
        os.close(fd)


def _eyes_of(user: User | None) -> AbstractContextManager[None]:
    return nullcontext() if user is None else syscalls.filesystem_user(user.uid, user.gid, user.groups)


def _open_resolved(real: str) -> int:
    """Open a path that holds no symbolic link any more. Raises OSError, ESTALE if what was opened is elsewhere."""
    fd = syscalls.openat2(_CWD, real, os.O_PATH, syscalls.RESOLVE_NO_SYMLINKS)
    if os.readlink(f"/proc/self/fd/{fd}") != real:
        os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), real)
    return fd


def open_unchanged(mount: Bound, user: User | None) -> int:
    """Open what was resolved, as *user* (None: as root); returns a descriptor.

    Raises OSError, also if it is another file than was judged, or in another place.
    """
    with _eyes_of(user):
        fd = _open_resolved(mount.source)
    facts = os.fstat(fd)
    if (facts.st_dev, facts.st_ino) != (mount.device, mount.inode):
        os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), mount.source)
    return fd


def _stat(directory: int, path: str, resolve: int) -> os.stat_result:
    fd = syscalls.openat2(directory, path, os.O_PATH, resolve)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _is_still(mount: Bound, directory: int, path: str, resolve: int) -> bool:
    try:
        facts = _stat(directory, path, resolve)
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) == (mount.device, mount.inode)


def missing(paths: Iterable[str], bound: Sequence[Bound], user: User) -> tuple[str, Bound] | None:
    """Return the first of *paths* in the container that a mount of the host's lacks, and that mount.

    The engine makes what is missing, as root and on the host: so it must be there before, in the user's own eyes.
    """
    for path in paths:
        inside = [mount for mount in bound if path != mount.target and below(path, mount.target)]
        if not inside:
            continue  # the image's, or made in the container's own layer
        nearest = max(inside, key=lambda mount: len(mount.target))
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
        for mount in bound:
            if not _is_still(mount, root, mount.target, syscalls.RESOLVE_IN_ROOT):
                return mount.target
    finally:
        os.close(root)
    return None
