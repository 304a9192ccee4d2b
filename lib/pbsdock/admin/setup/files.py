"""Write files atomically, and check that only root can change them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pbsdock.config.trust import weak_spot


def put(path: Path, text: str, mode: int, like: os.stat_result | None = None) -> bool:
    """Give *path* this content, mode and owner (root, or the owner of *like*); returns whether it changed anything."""
    data = text.encode("utf-8", "surrogateescape")
    owner = (like.st_uid, like.st_gid) if like else (0, 0)
    try:
        found = path.lstat()
        is_so = stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == mode
        if is_so and (found.st_uid, found.st_gid) == owner and path.read_bytes() == data:
            return False
    except FileNotFoundError:
        pass
    temporary = path.with_name(f"{path.name}.new.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read(path: Path) -> str:
    """The text of a file, also of invalid UTF-8; "" if there is no file."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def weak_spots(path: Path, mode: int | None = None) -> Iterator[str]:
    """A sentence for each problem of *path*: not owned by root, writable by others, or not of *mode*."""
    try:
        if spot := weak_spot(path):
            yield spot
        found = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        yield f"{path} is missing; run install.sh again"
        return
    if mode is not None and found != mode:
        yield f"{path} has mode {found:o}; it must be {mode:o}"


def weak_place(path: Path) -> str | None:
    """The same for a path that may not exist yet: its existing part is checked."""
    for place in (path, *path.parents):
        try:
            return weak_spot(place)
        except FileNotFoundError:
            continue
    return None
