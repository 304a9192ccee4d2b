"""Small files that are there whole or as they were: written beside and renamed."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

UNFINISHED = ".new-"  # begins the name of what a crash has left of a write


def write_new(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Put *data* at *path* by way of a file of a name that nothing else has, which is root's alone; whoever owns the
    directory removes what a crash has left (:data:`UNFINISHED`). *durable*: it outlives a crash of the host. Raises
    OSError."""
    temporary = path.parent / f"{UNFINISHED}{secrets.token_hex(8)}"
    _write(temporary, path, os.O_EXCL, data, durable=durable)


def write_over(path: Path, data: bytes, *, durable: bool = False) -> None:
    """The same by way of one name, so that nothing is left in a directory that nobody tidies. One thread at a time.
    Raises OSError."""
    _write(path.with_suffix(".new"), path, os.O_TRUNC, data, durable=durable)


def _write(temporary: Path, path: Path, flag: int, data: bytes, *, durable: bool) -> None:
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | flag | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
