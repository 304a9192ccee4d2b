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
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace

from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.pathrules import Closed, PathRules, ReadOnly, below
from pbsdock.core.plan import Mount, Plan
from pbsdock.host import syscalls
from pbsdock.policy.mounts import read_only_sentence

UNREADABLE = "(looked at as the user)"
_LINKS = 40  # as many as the kernel follows (path_resolution(7))
_KERNEL = ("/proc", "/sys", "/dev")  # no names for anything of the host's in a container
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
    mounts = list(mounts)
    for mount in mounts:
        _trigger(mount, user)
    mounted = syscalls.mounted_file_systems()
    for mount in mounts:
        try:
            found = _resolve_one(mount, user, rules, mounted)
            bound.append(found)
            if mount.origin in ("home", "workdir"):
                bound += _aliases(found, mount, user, [*bound, *_elsewhere(mounts, mount)])
        except _NotMountable as error:
            if mount.required:
                raise Refusal(error.code, f"{mount.where + ': ' if mount.where else ''}{error}") from None
            skipped.append((mount, str(error)))
    return bound, skipped


def _trigger(mount: Mount, user: User) -> None:
    """Have an automount made: opening with O_PATH leaves one at the path's end as it is (open(2))."""
    with suppress(OSError), _eyes_of(None if mount.origin == "nodefile" else user):
        os.stat(f"{mount.source}/.")


def _elsewhere(mounts: Iterable[Mount], own: Mount) -> list[Bound]:
    """The places the other mounts will have."""
    return [
        Bound(source=mount.source, target=mount.target, read_only=True, device=0, inode=0)
        for mount in mounts
        if mount is not own
    ]


def _aliases(found: Bound, mount: Mount, user: User, taken: Sequence[Bound]) -> Iterator[Bound]:
    """The same directory at every other name that its path goes through, its real one last: a job's working directory
    is known to the kernel by that alone, and what its user has noted by any of them."""
    names = [""]
    with suppress(OSError), _eyes_of(user):
        names = spellings(mount.source)
    if names[-1] != found.source:
        return  # exchanged meanwhile, if not by mistake: what was opened has the name it was asked for by
    seen = {mount.target for mount in taken}
    for name in names[1:]:
        if (
            not _is_shown(name, taken)
            and name not in seen
            and not any(below(name, place) for place in _KERNEL)
            and name != "/"
        ):
            seen.add(name)
            yield replace(found, target=name)


def spellings(path: str) -> list[str]:
    """Every absolute name that a plain path goes through as its links are followed.

    The first is *path* itself, the last has no link. Raises OSError.
    """
    names, done, rest, links = [path], "/", path.split("/")[::-1], 0
    while rest:
        component = rest.pop()
        if component in ("", "."):
            continue
        if component == "..":
            done = os.path.dirname(done)
            continue
        here = os.path.join(done, component)
        try:
            target = os.readlink(here)
        except OSError as error:
            if error.errno != errno.EINVAL:  # what is there is no link
                raise
            done = here
            continue
        if (links := links + 1) > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        done = "/" if target.startswith("/") else done
        rest += target.split("/")[::-1]
        if ".." not in rest:
            names.append(os.path.normpath(os.path.join(done, *reversed(rest))).replace("//", "/"))
    return list(dict.fromkeys([*names, done]))


def reach(path: str, bound: Sequence[Bound], user: User, rules: PathRules) -> tuple[list[Bound], str]:
    """What is to be mounted beside *bound* for a directory to be the same place in the container by all its names.

    Nothing if it is; the second is why it cannot be, "" if it can.
    """
    with suppress(OSError), _eyes_of(user):
        if all(_is_shown(name, bound) for name in spellings(path)):
            return [], ""
    mount = Mount(source=path, target=path, read_only=False, origin="workdir", required=False)
    found, skipped = resolve([mount], user, rules)
    extra = [mount for mount in found if not _is_shown(mount.target, bound)]
    return extra, "".join(reason for _, reason in skipped)


def is_same(path: str, other: str, user: User) -> bool:
    """Whether both are one directory, in the user's eyes; also where neither can be looked at but they are one text."""
    if path == other:
        return True
    try:
        with syscalls.filesystem_user(user.uid, user.gid, user.groups):
            return os.path.realpath(path, strict=True) == os.path.realpath(other, strict=True)
    except OSError:
        return False


def _is_shown(name: str, bound: Iterable[Bound]) -> bool:
    return any(below(name, mount.target) for mount in bound)


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
        home=os.path.realpath(rules.home) if rules.home else "",
    )


def _resolve_one(mount: Mount, user: User, rules: PathRules, mounted: Sequence[syscalls.MountedFileSystem]) -> Bound:
    try:
        # Mom's own file lies where users may not look.
        with opened(mount.source, None if mount.origin == "nodefile" else user) as (fd, real):
            facts = os.fstat(fd)
    except OSError as error:
        why = _closed_to_root(mount.source, mounted) or f"{error.strerror or error} {UNREADABLE}"
        raise _NotMountable("mount-unreadable", f"{mount.source} cannot be mounted: {why}") from None
    _check_kind(mount, facts, user)
    via = f"{mount.source} (really {real})" if real != mount.source else real
    try:
        rules.check(
            real,
            mount.origin,
            [mounted_fs.point for mounted_fs in mounted if mounted_fs.point != real and below(mounted_fs.point, real)],
        )
        if mount.origin == "volume":
            rules.check_allowed(real)
        elif mount.origin == "workdir":
            rules.check_work_dir(real, is_own=_is_own(facts, user))
    except Closed as error:
        raise _NotMountable("mount-not-allowed", f"{via} cannot be mounted: {error}") from None
    except ReadOnly as error:
        if mount.origin == "volume" and not mount.read_only:
            raise _NotMountable("mount-read-only", read_only_sentence(via, mount.target, error)) from None
        mount = replace(mount, read_only=True)
    return Bound(
        source=real,
        target=mount.target,
        read_only=mount.read_only,
        device=facts.st_dev,
        inode=facts.st_ino,
        follows=_follows(mount, real, rules, mounted),
    )


def _is_own(facts: os.stat_result, user: User) -> bool:
    """Whether the user, or a group of theirs, is the owner and may write to it: that others may says nothing."""
    by_group = facts.st_gid in (user.gid, *user.groups) and bool(facts.st_mode & stat.S_IWGRP)
    return by_group or (facts.st_uid == user.uid and bool(facts.st_mode & stat.S_IWUSR))


def _follows(mount: Mount, real: str, rules: PathRules, mounted: Sequence[syscalls.MountedFileSystem]) -> bool:
    """Whether what root mounts below it while the job runs is to be seen inside.

    Not where the mount is for reading only, since nothing would make what comes later so too, unless it is an automount
    tree, whose maps say how each is mounted.
    """
    if mount.origin != "site" and not (mount.origin in ("volume", "workdir") and rules.is_of_site(real)):
        return False
    automounts = [mounted_fs.point for mounted_fs in mounted if mounted_fs.kind == "autofs"]
    return not mount.read_only or any(below(point, real) or below(real, point) for point in automounts)


def _closed_to_root(path: str, mounted: Sequence[syscalls.MountedFileSystem]) -> str:
    """Why not even the engine may look at *path*, "" if it may: a FUSE file system is its user's alone (fuse(4))."""
    real = path
    with suppress(OSError):  # raised by links that are exchanged meanwhile, or lead where not even root may look
        real = os.path.realpath(path)
    around = [mounted_fs for mounted_fs in mounted if below(path, mounted_fs.point) or below(real, mounted_fs.point)]
    if not around:
        return ""
    nearest = max(reversed(around), key=lambda mounted_fs: len(mounted_fs.point))  # of two at one place the later
    if not nearest.kind.startswith("fuse") or "allow_other" in nearest.options:
        return ""
    return (
        f"{nearest.point} is a FUSE file system without the option allow_other, into which nobody but its owner may"
        " look, not even the engine; mount it with allow_other, or mount the directory it lies in, with which the job"
        " sees it"
    )


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
