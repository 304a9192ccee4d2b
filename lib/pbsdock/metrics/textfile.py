"""The file for node_exporter's textfile collector, which reads it at any moment: replaced whole, never half written.

The directory may belong to the monitoring system's user: nothing is followed in it, and what has our file's name is
replaced, whatever it is.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class TextFile:
    """``NAME.prom`` in *directory*, or with another *suffix*."""

    def __init__(self, directory: Path, name: str, suffix: str = ".prom") -> None:
        self.directory = directory
        self.name = f"{name}{suffix}"

    @property
    def is_wanted(self) -> bool:
        """Whether there is somebody to write it for."""
        return self.directory.is_dir()

    def write(self, data: bytes) -> None:
        """Replace it, readable by everybody. Raises OSError."""
        directory = os.open(self.directory, _DIRECTORY)
        try:
            self._write(directory, data)
        finally:
            os.close(directory)

    def _write(self, directory: int, data: bytes) -> None:
        # The collector takes names that end in .prom only.
        temporary = f".{self.name}.{secrets.token_hex(4)}"
        fd = os.open(temporary, _NEW, 0o600, dir_fd=directory)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                os.fchmod(fd, 0o644)
            os.rename(temporary, self.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise

    def remove(self) -> None:
        """Leave nothing behind that would be taken for the present state. Raises nothing."""
        with suppress(OSError):
            os.unlink(self.directory / self.name)
