"""Whether only root can change or replace a file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pbsdock.config.reader import ConfigError
from pbsdock.core.paths import Paths

_MOST_LINKS = 40  # as the kernel's own limit, path_resolution(7)
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class _Untrusted(Exception):
    """A component that is not root's alone; ``str()`` is a sentence about it."""


def untrusted_part(path: Path) -> str | None:
    """The component of *path* that others than root can change; None if there is none. Raises OSError."""
    spot = weak_spot(path)
    return f"{path}: {spot}" if spot else None


def weak_spot(path: Path) -> str | None:
    """The same as a sentence about the component alone. Raises OSError."""
    try:
        _walk(path, any_kind=True)
    except _Untrusted as error:
        return str(error)
    return None


def untrusted(paths: Paths) -> Iterator[str]:
    """A sentence for each of our files and directories that others than root could change or replace."""
    program = paths.lib / "pbsdock"
    hooks = [paths.prefix / "hooks", paths.home / "hooks"]
    directories = [paths.lib, paths.state_dir, paths.run_dir, paths.mom_priv, paths.config.parent, *hooks]
    scripts = [script for directory in hooks for script in sorted(directory.glob("*"))]
    files = [paths.prefix / "current", paths.python, *scripts, *sorted(program.rglob("*.py"))]
    for path in [*directories, *files]:
        try:
            if problem := untrusted_part(Path(path)):
                yield problem
        except FileNotFoundError:
            continue  # not there yet; where it will be made is judged with its directory
        except (OSError, ConfigError) as error:
            yield str(error)


def check_trusted(path: Path) -> None:
    """Walk to the file *path* as the kernel would and refuse at the first component others than root can change.

    Links are followed by hand, because whoever can exchange a link, or the directory it lies in, chooses the file. A
    sticky directory such as /tmp passes on the way if root owns it: there only the owner of an entry can exchange it,
    and the next component must be root's again. It is no place for our own files, though: others could add to them.
    Raises ConfigError naming the component; FileNotFoundError if the file, or a directory on the way, is plainly
    missing; OSError.
    """
    try:
        _walk(path, any_kind=False)
    except _Untrusted as error:
        raise ConfigError([f"{path}: {error}"]) from None


def _walk(path: Path, *, any_kind: bool) -> None:
    pending = list(reversed(Path(os.path.join(os.getcwd(), path)).parts[1:]))
    here, links, link = Path("/"), 0, None
    _check(here, is_last=not pending, any_kind=any_kind)
    while pending:
        part = pending.pop()
        if part == "..":
            here = here.parent
            continue
        here /= part
        try:
            is_link = _check(here, is_last=not pending, any_kind=any_kind)
        except FileNotFoundError:
            if link is None:
                raise
            raise _Untrusted(f"{link} points to {here}, which does not exist") from None
        if is_link:
            links, link = links + 1, here
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = Path(os.readlink(here))
            here = Path("/") if target.is_absolute() else here.parent
            pending += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _check(path: Path, *, is_last: bool, any_kind: bool) -> bool:
    """Check a component; returns whether it is a symbolic link. Raises _Untrusted, OSError."""
    found = path.lstat()
    if found.st_uid != 0:
        raise _Untrusted(f"{path} belongs to uid {found.st_uid}; it must belong to root")
    if stat.S_ISLNK(found.st_mode):
        return True
    is_protected = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX and not is_last
    if found.st_mode & _OTHERS and not is_protected:
        raise _Untrusted(f"{path} is writable by others (mode {stat.S_IMODE(found.st_mode):04o}); use chmod go-w")
    if is_last and not any_kind and not stat.S_ISREG(found.st_mode):
        raise _Untrusted(f"{path} is not a plain file")
    return False
