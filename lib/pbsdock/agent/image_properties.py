"""The images of this node as names that a scheduler can ask for, in a file that mom's ``$varattr`` reads.

Torque's rule for the properties of nodes (letters, digits, ``.``, ``_``, ``-``; parse_node_token in its node_func) is
that for the names here: so a site may make them properties as well. What is not for everybody is not told.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pbsdock.agent.image_use import Kept
from pbsdock.config.tables import Config
from pbsdock.core.errors import HookError
from pbsdock.directive.image_ref import BadImage, ImageRef, parse_image
from pbsdock.engine.base import EngineError
from pbsdock.engine.images import Images
from pbsdock.engine.private import PrivateImages
from pbsdock.metrics.textfile import TextFile
from pbsdock.policy.decide import anybody_may_run

MOST = 32  # names
MOST_NAME = 64  # characters of one
_BEGIN = "images:"  # "name:value+value" is how Torque's manual has an attribute
_HASH = 8
_OTHER = re.compile(r"[^A-Za-z0-9._-]")


class KnowsImages(Protocol):
    """What of the cache is needed."""

    def listed(self) -> list[Kept]:
        """All images, the least recently used first. Raises NodeFault, EngineError, OSError."""


class HasImages(Protocol):
    """What of the node is needed."""

    config: Config
    images: Images

    @property
    def image_cache(self) -> KnowsImages:
        """The cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An image by a tag of its own, and whether the site has pinned it."""

    image: ImageRef
    is_pinned: bool


def name_of(image: ImageRef) -> str:
    """``img.python_3.12`` for docker.io/library/python:3.12. Pure.

    Without Docker Hub's own name and ``library``; ``.`` for ``/`` and ``_`` before the tag. A longer one than
    :data:`MOST_NAME` is cut, and ends with eight digits of a hash of the whole.
    """
    full = f"{image.name}:{image.tag}"
    short = full.removeprefix("docker.io/").removeprefix("library/")
    path, _, tag = short.rpartition(":")
    name = "img." + _OTHER.sub(".", f"{path}_{tag}")
    if len(name) > MOST_NAME:
        digest = hashlib.sha256(full.encode()).hexdigest()[:_HASH]
        name = f"{name[: MOST_NAME - _HASH - 1]}-{digest}"
    return name


def line(images: Iterable[Named]) -> str:
    """The file's line, of the first so many; the pinned before the others, else in the order given. Pure."""
    ordered = sorted(images, key=lambda named: not named.is_pinned)
    names = list(dict.fromkeys(name_of(named.image) for named in ordered))[:MOST]
    return f"{_BEGIN}{'+'.join(sorted(names)) or 'none'}\n"


def named(listed: Sequence[Kept], config: Config, private: PrivateImages) -> list[Named]:
    """What a scheduler may know of: tags of images that somebody's jobs may run and that are for everybody, the most
    recently used first."""
    found = []
    for kept in reversed(listed):
        for tag in kept.image.tags:
            try:
                image = parse_image(tag)
            except BadImage:
                continue
            if anybody_may_run(image, config) and not private.holds(image.name, kept.image.id):
                found.append(Named(image=image, is_pinned=kept.is_pinned))
    return found


class PropertiesFile:
    """Writes it where it differs; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: tuple[str, str] = ("", "")  # path and content
        self._told = ""

    def write(self, node: HasImages) -> str:
        """Replace the site's file if anything has changed; where the images cannot be listed it stays.

        Returns what keeps it from being written, "" for nothing new.
        """
        path = node.config.images.properties_file
        with self._lock:
            problem = ""
            try:
                self._write(node, path)
            except OSError as error:
                problem = f"{path}: {error.strerror or error}"
            told, self._told = self._told, problem
            return problem if problem != told else ""

    def _write(self, node: HasImages, path: str) -> None:
        if self._written[0] not in ("", path):
            Path(self._written[0]).unlink(missing_ok=True)
            self._written = ("", "")
        if not path:
            return
        try:
            text = line(named(node.image_cache.listed(), node.config, node.images.private))
        except (HookError, EngineError):
            return
        if self._written == (path, text) and Path(path).exists():
            return
        TextFile(Path(path).parent, Path(path).name, suffix="").write(text.encode())
        self._written = (path, text)
