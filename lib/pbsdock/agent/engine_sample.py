"""How the container engine is, looked at now and then by a thread that may wait for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from pbsdock.core.errors import HookError
from pbsdock.engine.base import ContainerEngine, EngineCapabilities, EngineError, ListedImage

_IMAGES_S = 300.0  # a list of thousands of images costs the engine something


class KnowsImages(Protocol):
    """What of the cache of images is looked at."""

    def own(self, images: Iterable[ListedImage]) -> list[ListedImage]:
        """Those that pbsdock has pulled."""


class HasEngine(Protocol):
    """What of the node is looked at."""

    @property
    def image_cache(self) -> KnowsImages:
        """Which images are pbsdock's."""

    @property
    def engine(self) -> ContainerEngine:
        """The engine."""

    def engine_info(self) -> EngineCapabilities:
        """Its own description. Raises HookError, EngineError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSample:
    """None where it is not known. Sizes in bytes, times in seconds."""

    is_up: bool = False
    ping_s: float | None = None
    disk_size: int | None = None
    disk_avail: int | None = None
    images: int | None = None
    images_bytes: int | None = None
    cache_images: int | None = None
    cache_bytes: int | None = None


class EngineSampler:
    """One thread looks; any reads :attr:`last`."""

    def __init__(self, node: HasEngine) -> None:
        self._node = node
        self._listed_at: float | None = None
        self.last = EngineSample()

    def look(self) -> None:
        """Ask the engine; takes as long as its deadlines. Raises nothing for what it does not answer."""
        began = time.monotonic()
        if not self._node.engine.probe():
            self.last = replace(self.last, is_up=False)
            return
        sample = replace(self.last, is_up=True, ping_s=time.monotonic() - began)
        with suppress(HookError, EngineError, OSError):  # the engine may have a file system of its own
            found = os.statvfs(self._node.engine_info().root_dir)
            sample = replace(
                sample, disk_size=found.f_blocks * found.f_frsize, disk_avail=found.f_bavail * found.f_frsize
            )
        if self._listed_at is None or began - self._listed_at >= _IMAGES_S:
            with suppress(HookError, EngineError):
                images = self._node.engine.images()
                own = self._node.image_cache.own(images)
                sample = replace(
                    sample,
                    images=len(images),
                    images_bytes=sum(image.size_bytes for image in images),
                    cache_images=len(own),
                    cache_bytes=sum(image.size_bytes for image in own),
                )
                self._listed_at = began
        self.last = sample
