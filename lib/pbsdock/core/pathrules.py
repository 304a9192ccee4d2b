"""Which paths of the host a container may get, and with what right. Pure.

The same rules judge a path twice: as it was written, for a sentence at its place in the script, and as the kernel names
what was opened, which alone counts. By components: ``/scratch2`` is not below ``/scratch``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from pbsdock.core.plan import MountOrigin
from pbsdock.core.sizes import some

# What no mount of a user's may lie in, or contain: a bind mount shows what is mounted below it as well.
GUARDED = ("/dev", "/run", "/var/run", "/boot", "/var/spool/torque", "/var/spool/pbs")
# The same for whatever mom or the site names.
SEALED = ("/proc", "/sys", "/var/lib/docker")
# What is the host's own, and no directory to submit from: an image has its own of these.
SYSTEM = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/root", "/sbin", "/usr", "/var")
# Below whatever root an instance of pbsdock was installed, its directories have these names (install.sh, --root).
_STATE = (("run", "pbsdock"), ("var", "lib", "pbsdock"))


WorkDirRule = Literal["own", "allowed", "none"]


class Closed(Exception):
    """A path that is not given to a container; ``str()`` is the reason, to stand after "cannot be mounted"."""


class ReadOnly(Exception):
    """A path that may be read only; ``str()`` is the reason."""


def below(path: str, prefix: str) -> bool:
    """Whether *path* is *prefix* or below it, by components: ``/scratch2`` is not below ``/scratch``."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(prefix))


def above(path: str) -> Iterator[str]:
    """A plain path, and every directory it lies in, from the nearest to the root."""
    while path != "/":
        yield path
        path = path.rpartition("/")[0] or "/"
    yield path


def is_state(path: str) -> bool:
    """Whether *path* is in a state directory of any instance of pbsdock."""
    parts = PurePosixPath(path).parts
    return any(parts[at : at + len(name)] == name for name in _STATE for at in range(len(parts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedPaths:
    """The closed paths of this host, beside the constants of this module.

    ``guarded``: no user's mount lies in them or contains them (Torque's home). ``sealed``: not even the site's or mom's
    (the engine's root, mom's own directory, what this instance keeps).
    """

    guarded: tuple[str, ...] = ()
    sealed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRules(ClosedPaths):
    """Absolute paths.

    ``deny`` and ``allow`` are the site's; an entry of ``allow`` may end in ``:ro``. The longest that fits counts.
    ``tmpdir_by_user`` says that TMPDIR is what a process of the user's named, not mom. ``work_dir`` is where the
    directory of qsub is mounted: where ``allow`` covers it, or also where it is the user's own; ``home``
    is the owner's, open or not.
    """

    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    tmpdir_by_user: bool = False
    work_dir: WorkDirRule = "own"
    home: str = ""

    def check(self, path: str, origin: MountOrigin, mounted_below: Iterable[str] = ()) -> None:
        """Raise :class:`Closed` where *path* is never given to a container as *origin*.

        *mounted_below* are the mount points below it, which a recursive bind mount would show too.
        """
        if path == "/":
            raise Closed("the host's root is never given to a container")
        chosen = origin in ("workdir", "volume") or (origin == "tmpdir" and self.tmpdir_by_user)
        sealed, guarded = (*SEALED, *self.sealed), (*GUARDED, *self.guarded)
        shut = (*sealed, *guarded) if chosen or origin == "home" else sealed
        if is_state(path) or _around(shut, path):
            raise Closed("system paths are never given to a container")
        if (found := _within((*guarded, *sealed), path)) or (found := next(filter(is_state, mounted_below), None)):
            raise Closed(f"it contains {found}")
        if chosen and (found := _around(self.deny, path)):
            raise Closed(f"this site keeps {found} closed")
        if (chosen or origin == "home") and (found := _within(self.deny, path)):
            raise Closed(f"it contains {found}, which this site closed")

    def check_allowed(self, path: str) -> None:
        """Raise :class:`Closed` where no prefix is open to volumes and the work directory that covers *path*, and
        :class:`ReadOnly` where it may not be written to, or not all of it."""
        prefix = self._prefix(path)
        if prefix is None:
            allowed = some([entry.removesuffix(":ro") for entry in self.allow]) if self.allow else "no path"
            raise Closed(f"this site allows paths below {allowed}")
        if prefix.endswith(":ro"):
            raise ReadOnly("")
        self._check_read_only_parts(path)

    def is_of_site(self, path: str) -> bool:
        """Whether *path* is covered by what the site opened itself, so that root alone mounts anything below it."""
        prefix = self._prefix(path)
        return prefix is not None and prefix.removesuffix(":ro") != self.home

    def _check_read_only_parts(self, path: str) -> None:
        narrower = [entry.removesuffix(":ro") for entry in self.allow if entry.endswith(":ro")]
        if found := _within(narrower, path):
            raise ReadOnly(f"it contains {found}, which is open for reading only")

    def check_work_dir(self, path: str, *, is_own: bool) -> None:
        """Raise :class:`Closed` or :class:`ReadOnly` for a directory of qsub that is not given to the container, or for
        reading only. *is_own*: the user, or a group of theirs that may write to it, is its owner."""
        if self.work_dir == "none":
            raise Closed("this site does not mount the directory a job was submitted from")
        try:
            self.check_allowed(path)
        except Closed as error:
            if self.work_dir != "own":
                raise
            if found := _around(SYSTEM, path):
                raise Closed(f"{found} is the system's") from None
            if self.home and below(path, self.home):
                raise Closed("this site does not mount home directories") from None
            if not is_own:
                raise Closed(f"neither you nor a group of yours owns it and may write to it, and {error}") from None
            self._check_read_only_parts(path)

    def _prefix(self, path: str) -> str | None:
        """The longest allowed prefix that covers *path*, with its ``:ro``; of equal prefixes the read-only one."""

        def rank(entry: str) -> tuple[int, bool]:
            return len(PurePosixPath(entry.removesuffix(":ro")).parts), entry.endswith(":ro")

        return max((entry for entry in self.allow if below(path, entry.removesuffix(":ro"))), key=rank, default=None)


def _within(paths: Sequence[str], prefix: str) -> str | None:
    """The first of *paths* that is *prefix* or below it."""
    return next((path for path in paths if below(path, prefix)), None)


def _around(prefixes: Sequence[str], path: str) -> str | None:
    """The first of *prefixes* that is *path* or above it."""
    return next((prefix for prefix in prefixes if below(path, prefix)), None)
