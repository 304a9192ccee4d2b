"""Manual pages and shell completion: part of a version, linked to from ``/usr/local/share``.

The links go through ``current``, so they show the version in force. An instance below --root has none, and neither has
a host where the Debian package brings its own: ``/usr/local`` is the admin's there.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.source import Source
from pbsdock.admin.setup.versions import Version

SHARE = "share"
_LOCAL = Path("/usr/local/share")
_PACKAGE = Path("/var/lib/dpkg/info/pbsdock.list")  # dpkg(1): the files of an installed package
_DIRECTORIES = ("man/man1", "bash-completion/completions", "zsh/site-functions")


def put(version: Version, source: Source) -> list[str]:
    """Copy them into *version*; returns their names in it. Raises OSError."""
    to = version.home / SHARE
    shutil.copytree(source.directory / SHARE, to)
    return [str(path.relative_to(version.home)) for path in sorted(to.rglob("*")) if path.is_file()]


def link(places: Places, version: Version) -> None:
    """Link to all of *version*, which is in force, and remove links to what it has not. Raises OSError."""
    if places.relocated or _PACKAGE.exists():
        remove(places)
        return
    for name in _DIRECTORIES:
        wanted = {path.name for path in (version.home / SHARE / name).glob("*")}
        for path in _ours(places, name):
            if path.name not in wanted:
                path.unlink()
        for entry in wanted:
            path = _LOCAL / name / entry
            target = _source(places, name) / entry
            if os.path.lexists(path):
                continue  # ours already, or the admin's own
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)


def remove(places: Places) -> None:
    """Remove this instance's links."""
    for name in _DIRECTORIES:
        for path in _ours(places, name):
            with suppress(FileNotFoundError):
                path.unlink()


def _source(places: Places, name: str) -> Path:
    return places.prefix / "current" / SHARE / name


def _ours(places: Places, name: str) -> list[Path]:
    directory = _LOCAL / name
    if not directory.is_dir():
        return []
    start = f"{_source(places, name)}/"
    return [path for path in sorted(directory.iterdir()) if path.is_symlink() and os.readlink(path).startswith(start)]
