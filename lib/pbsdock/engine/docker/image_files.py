"""Files of an image, read through a container that is never started: the engine has no other way to look into one.

Such a container has the image alone, no mount and no network, and nothing in it ever runs. Source of the header and of
its fields: the Engine API reference, "Get information about files in a container"; the mode is Go's (package io/fs).
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote

from pbsdock.core.errors import HookError
from pbsdock.engine.base import EngineError, ImageFile
from pbsdock.engine.docker.link import Link

_HEADER = "X-Docker-Container-Path-Stat"
_TYPE = 0x8F280000  # fs.ModeType: what is no plain file has one of these
_SYMLINK = 1 << 27  # fs.ModeSymlink
_EXECUTABLE = 0o111


@dataclass(frozen=True, slots=True)
class _Stat:
    mode: int
    size: int
    link_target: str  # resolved within the image, links and all; "" for what is no link

    @property
    def is_plain(self) -> bool:
        return self.mode & _TYPE == 0


def read(
    link: Link, image_id: str, wanted: Mapping[str, int], labels: Mapping[str, str]
) -> tuple[frozenset[str], dict[str, ImageFile]]:
    """Names of the image's variables, and its files; *wanted* is path -> most bytes to read, 0 only to look at it.

    Raises NodeFault, EngineError.
    """
    inspected = link.ask("image inspect", "GET", f"/images/{quote(image_id, safe=':')}/json")
    pairs = (inspected.get("Config") or {}).get("Env") or ()
    names = frozenset(str(pair).partition("=")[0] for pair in pairs)
    with _container(link, image_id, labels) as container:
        found = {path: _file(link, container, path, limit) for path, limit in wanted.items()}
        # Removed by somebody meanwhile, it has no files either: that must not pass for an empty image.
        link.ask("inspect", "GET", f"/containers/{container}/json")
    return names, {path: file for path, file in found.items() if file is not None}


@contextmanager
def _container(link: Link, image_id: str, labels: Mapping[str, str]) -> Iterator[str]:
    body = {
        "Image": image_id,
        "Cmd": ["-"],
        "Entrypoint": [],
        "Labels": dict(labels),
        "NetworkDisabled": True,
        "HostConfig": {"NetworkMode": "none", "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"]},
    }
    name = f"pbsdock-image-{secrets.token_hex(8)}"
    made = str(link.ask("create", "POST", f"/containers/create?name={name}", body)["Id"])
    try:
        yield made
    finally:
        with suppress(EngineError, HookError):  # it has our label: the reaper tries again
            link.ask("remove", "DELETE", f"/containers/{made}?v=1&force=1")


def _file(link: Link, container: str, path: str, limit: int) -> ImageFile | None:
    """One file, behind a link or not; None where there is none. Only a plain one has content."""
    method = "GET" if limit else "HEAD"
    for _ in range(2):
        fits = lambda value: _stat(value).is_plain and _stat(value).size <= limit  # noqa: E731
        target = f"/containers/{container}/archive?path={quote(path)}"
        try:
            header, content = link.fetch("archive", method, target, header=_HEADER, accept=fits if limit else _any)
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        stat = _stat(header)
        if not stat.mode & _SYMLINK:
            is_program = stat.is_plain and stat.mode & _EXECUTABLE != 0
            return ImageFile(is_program=is_program, content=_unpacked(content, limit))
        path = stat.link_target
    return None


def _any(_value: str) -> bool:
    return True


def _stat(header: str) -> _Stat:
    try:
        said = json.loads(base64.b64decode(header))
        return _Stat(int(said["mode"]), int(said["size"]), str(said.get("linkTarget") or ""))
    except (ValueError, KeyError, TypeError):
        return _Stat(_TYPE, 0, "")


def _unpacked(content: bytes, limit: int) -> bytes | None:
    """The one file of an archive."""
    if not content:
        return None
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            member = archive.next()
            file = archive.extractfile(member) if member is not None and member.isreg() else None
            return file.read(limit) if file is not None else None
    except (tarfile.TarError, EOFError, ValueError):
        return None
