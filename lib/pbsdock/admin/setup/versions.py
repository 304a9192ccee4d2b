"""The versions below a prefix: the current one, the previous one, and the switch between them.

The symbolic link ``current`` names the current version and is replaced by rename(2). A hook resolves it once, so it
always finds a complete version, the old or the new.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbsdock.admin.setup.errors import SetupError

_RECORD = "version.json"  # written last: without it a version is not whole


@dataclass(frozen=True, slots=True)
class Version:
    """One version's directory."""

    home: Path

    @property
    def name(self) -> str:
        """VERSION-HASH, with a number appended if it had to be made again."""
        return self.home.name

    @property
    def python(self) -> Path:
        """The interpreter of its virtual environment."""
        return self.home / "venv/bin/python3"

    @property
    def library(self) -> Path:
        """Its packages. Raises SetupError if there is no environment."""
        found = sorted((self.home / "venv/lib").glob("python3*/site-packages"))
        if not found:
            raise SetupError(f"the virtual environment in {self.home}/venv is not whole; run install.sh again")
        return found[0]

    @property
    def command(self) -> Path:
        """Its own ``pbsdock``."""
        return self.home / "bin/pbsdock"

    @property
    def record(self) -> dict[str, Any]:
        """``identity``, ``version`` and ``files`` (name -> sha256); empty if the version is incomplete."""
        try:
            return dict(json.loads((self.home / _RECORD).read_bytes()))
        except (OSError, ValueError):
            return {}

    @property
    def identity(self) -> str:
        """The identity it was made from; "" if the version is incomplete."""
        return str(self.record.get("identity", ""))

    def finish(self, identity: str, version: str, names: list[str]) -> None:
        """Mark the version as complete and record the hashes of the files *names*."""
        files = {name: _digest(self.home / name) for name in sorted(names)}
        temporary = self.home / f"{_RECORD}.new"
        temporary.write_text(json.dumps({"identity": identity, "version": version, "files": files}, indent=1) + "\n")
        os.replace(temporary, self.home / _RECORD)

    def changed(self) -> list[str]:
        """A sentence for each file that is not as it was made."""
        record = self.record
        if not record:
            return [f"{self.home} is not whole; run install.sh again"]
        return [
            f"{self.home / name} is not as it was installed; run install.sh again"
            for name, digest in record["files"].items()
            if _digest(self.home / name) != digest
        ]


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"


class Versions:
    """All versions below a prefix."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.directory = prefix / "versions"
        self.link = prefix / "current"
        self.before = prefix / "previous"

    def current(self) -> Version | None:
        """The version in force."""
        return self._named(self.link)

    def previous(self) -> Version | None:
        """The version before the last switch; None if there is none."""
        found = self._named(self.before)
        return None if found == self.current() else found

    def all(self) -> list[Version]:
        """All versions, also incomplete ones."""
        if not self.directory.is_dir():
            return []
        return [Version(path) for path in sorted(self.directory.iterdir()) if path.is_dir() and not path.is_symlink()]

    def _named(self, link: Path) -> Version | None:
        try:
            target = os.readlink(link)
        except OSError:
            return None
        found = self.directory / Path(target).name
        return Version(found) if target == f"versions/{found.name}" and found.is_dir() else None

    def whole(self, identity: str) -> list[Version]:
        """The complete versions made from *identity*, the current version first."""
        found = [version for version in self.all() if version.identity == identity]
        return sorted(found, key=lambda version: version != self.current())

    def fresh(self, identity: str) -> Version:
        """An empty place for a new version; leftovers of a failed installation are removed."""
        number = 0
        while (version := Version(self.directory / (f"{identity}.{number}" if number else identity))).identity:
            number += 1
        shutil.rmtree(version.home, ignore_errors=True)
        return version

    def exchange(self, to: Version) -> None:
        """Make *to* the current version. The old one becomes the previous one, unless *to* has the same identity."""
        old = self.current()
        if old == to:
            return
        if old is not None and old.identity not in ("", to.identity):
            self._point(self.before, old)
        self._point(self.link, to)

    def _point(self, link: Path, to: Version) -> None:
        if os.path.lexists(link) and not link.is_symlink():
            raise SetupError(f"{link} is not a link of pbsdock's; move it away, or choose another --prefix")
        temporary = link.with_name(f".{link.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"versions/{to.name}")
        os.replace(temporary, link)

    def prune(self) -> list[Version]:
        """Remove all versions but the current and the previous; returns those kept because processes use them."""
        kept = (self.current(), self.previous())
        old = [version for version in self.all() if version not in kept]
        used = in_use([version.home for version in old])
        for version in old:
            if version.home not in used:
                (version.home / _RECORD).unlink(missing_ok=True)  # first: half of it is not whole
                shutil.rmtree(version.home, ignore_errors=True)
        return [version for version in old if version.home in used]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of installations. Raises SetupError if another installation holds it."""
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SetupError(f"another installation into {self.prefix} is under way; wait for it to end") from None
            yield
        finally:
            os.close(fd)


def in_use(homes: list[Path]) -> set[Path]:
    """Those of *homes* that processes use: in a command line, mapped, or open."""
    found: set[Path] = set()
    for entry in os.listdir("/proc") if homes else ():
        if entry.isdigit() and int(entry) != os.getpid():
            seen = _seen(f"/proc/{entry}")
            found |= {home for home in homes if f"{home}/".encode() in seen}
    return found


def _seen(process: str) -> bytes:
    parts = []
    for name in ("cmdline", "maps"):
        try:
            with open(f"{process}/{name}", "rb") as file:
                parts.append(file.read())
        except OSError:
            continue  # it has ended, or is the kernel's own
    try:
        for fd in os.listdir(f"{process}/fd"):
            parts.append(os.readlink(f"{process}/fd/{fd}".encode()))
    except OSError:
        pass  # the same
    return b"\n".join(parts)
