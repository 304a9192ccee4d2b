"""The node's images as a cache: room is made for what comes, the least recently used go first.

Nothing is removed that a record names, that the site has pinned, or that pbsdock did not pull. An image that is being
removed is not there for whoever looks, until it is gone.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pbsdock.agent import image_use
from pbsdock.agent.child_book import Book
from pbsdock.agent.image_use import Kept, Use
from pbsdock.agent.jobs import Jobs
from pbsdock.config.tables import Config
from pbsdock.core.errors import HookError, NodeFault
from pbsdock.core.record import Record
from pbsdock.core.sizes import human
from pbsdock.engine.base import ContainerEngine, EngineCapabilities, EngineError, ImageFacts, ListedImage
from pbsdock.engine.credentials import Login
from pbsdock.engine.images import architecture_of
from pbsdock.engine.keeper import Keeper
from pbsdock.engine.manifest import layers_bytes

_LEAST_AGE_S = 120.0  # as kubelet's
_REMOVAL_S = 120.0  # how long whoever looks for an image waits for its removal
_UNPACKED = 2  # an image's layers take at least so many times their size in the registry while they come
_SPARE = 256 << 20  # bytes; with less the engine can hardly unpack anything


class HasImages(Protocol):
    """What of the node is needed."""

    name: str
    config: Config
    jobs: Jobs
    children: Book

    @property
    def engine(self) -> ContainerEngine:
        """The engine."""

    def engine_info(self) -> EngineCapabilities:
        """Its own description. Raises HookError, EngineError."""

    def emit(self, event: str, record: Record | None = None, **fields: Any) -> None:
        """Emit an event."""


@dataclass(slots=True, kw_only=True)
class Removed:
    """What went, what did not and why, and what is left: names, bytes, and the share of the disk that is used."""

    names: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    freed_bytes: int = 0


class ImageCache(Keeper):
    """One for a node; any thread.

    Many methods because it is both who is told of pulls and uses, and who removes.
    """

    def __init__(self, file: Path, node: HasImages) -> None:
        self._file = file
        self._node = node
        self._uses = image_use.load(file)
        self._is_dirty = False
        self._changed = threading.Condition()
        self._removing: set[str] = set()
        self._removals = 0  # that are over
        self._collecting = threading.Lock()  # one pass at a time
        self._before: dict[str, frozenset[str]] = {}  # reference -> the ids that were there before its pull
        self._was_high = False

    # -- what is told -------------------------------------------------------------------------------------------------

    def look(self, inspect: Callable[[], ImageFacts | None]) -> ImageFacts | None:
        # The record that this look is made for is there already: a removal that begins once this is over sees it, and
        # one that was under way at any moment of it makes it look again.
        deadline = time.monotonic() + _REMOVAL_S
        while True:
            with self._changed:
                removals = self._removals
            found = inspect()
            with self._changed:
                if found is None or time.monotonic() > deadline:
                    return found
                if found.id in self._removing:
                    self._changed.wait(1.0)
                elif removals == self._removals:
                    return found

    def before(self, reference: str, platform: str | None, login: Login, asked: str = "") -> None:
        try:
            self._before[image_use.canonical(reference)] = frozenset(image.id for image in self._node.engine.images())
            self._make_room(asked or reference, platform, login)
        except EngineError:
            return  # the pull itself will tell

    def after(self, reference: str, image_id: str, *others: str) -> None:
        reference = image_use.canonical(reference)
        there = self._before.pop(reference, None)
        with self._changed:
            is_new = there is not None and image_id not in there
            for name in (reference, *others):
                self._uses.pulled(image_id, name, time.time(), is_new=is_new)
            self._is_dirty = True
        self.flush()

    def used(self, image_id: str, record: Record) -> None:
        """A job is going to run it."""
        with self._changed:
            self._uses.used(image_id, record.user, record.job_id, time.time())
            self._is_dirty = True

    def flush(self) -> None:
        """Write down what is new. Raises nothing: on a full disk images only look older than they are."""
        with self._changed:
            if not self._is_dirty:
                return
            with suppress(OSError):
                image_use.save(self._file, self._uses)
                self._is_dirty = False

    # -- pins ---------------------------------------------------------------------------------------------------------

    def pin(self, reference: str, *, is_on: bool) -> bool:
        """Keep an image by this full reference, or no longer; returns whether that changed anything. Raises OSError."""
        with self._changed:
            before = set(self._uses.pins)
            (self._uses.pins.add if is_on else self._uses.pins.discard)(reference)
            try:
                image_use.save(self._file, self._uses)
            except OSError:
                self._uses.pins = before
                raise
            return before != self._uses.pins

    def pinned(self) -> int:
        """How many images are pinned, also those that are yet to come."""
        with self._changed:
            return len(self._uses.pins)

    # -- what there is ------------------------------------------------------------------------------------------------

    def listed(self) -> list[Kept]:
        """All images, the least recently used first. Raises NodeFault, EngineError."""
        images = self._node.engine.images()
        claimed = self._claimed()
        with self._changed:
            return image_use.judge(images, self._uses, claimed, now=time.time(), least_age_s=_LEAST_AGE_S)

    def own(self, images: Iterable[ListedImage]) -> list[ListedImage]:
        """Those of *images* that pbsdock has pulled."""
        with self._changed:
            return [image for image in images if self._uses.images.get(image.id, Use()).names]

    def _claimed(self) -> frozenset[str]:
        """Raises OSError while the ledger cannot be read whole: a record that is not seen may need anything."""
        records, problems = self._node.jobs.records_and_problems()
        if problems:
            raise OSError(f"ledger: {problems[0]}")
        own = ((record.image_id, record.plan.image if record.plan else None, record.image_digest) for record in records)
        children = (child for record in records for child in self._node.children.live(record.name))
        return image_use.claims([*own, *((child.image_id, child.plan.image, None) for child in children)])

    def room(self) -> tuple[int, int] | None:
        """Bytes of the file system with the images, and free ones; None where that is not to be seen from here."""
        try:
            found = os.statvfs(self._node.engine_info().root_dir)
        except (HookError, EngineError, OSError):
            return None
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    # -- removal ------------------------------------------------------------------------------------------------------

    def prune(self, *, unused_s: float = 0.0, is_trial: bool = False) -> Removed:
        """Remove all that may go and was not used for so many seconds. Raises NodeFault, EngineError, OSError."""
        now = time.time()
        with self._collecting:
            return self._remove("prune", lambda kept: now - kept.use.last >= unused_s, lambda: True, is_trial=is_trial)

    def collect(self) -> Removed | None:
        """Where the disk is above the high water mark, remove down to the low one; None where it is not."""
        settings = self._node.config.images
        room = self.room()
        if room is None or _used(room) < settings.high_water or settings.high_water >= 100:
            self._was_high = False
            return None
        return self._lower(lambda: _used(self.room() or room) > settings.low_water)

    def _lower(self, is_needed: Callable[[], bool]) -> Removed:
        """Remove as long as it is needed. Raises NodeFault, EngineError, OSError."""
        with self._collecting:
            removed = self._remove("high-water", lambda _: True, is_needed)
        room = self.room()
        used = round(_used(room), 1) if room else None
        is_high = room is not None and used is not None and used >= self._node.config.images.high_water
        if removed.names or (is_high and not self._was_high):
            self._node.emit(
                "image.collected",
                level="warning" if is_high else "info",
                count=len(removed.names),
                freed_bytes=removed.freed_bytes,
                used_percent=used,
            )
        self._was_high = is_high
        return removed

    def _remove(
        self, why: str, fits: Callable[[Kept], bool], is_needed: Callable[[], bool], *, is_trial: bool = False
    ) -> Removed:
        done = Removed()
        for kept in self.listed():
            name = _name(kept)
            if kept.why_kept:
                done.kept[name] = kept.why_kept
            elif fits(kept) and is_needed():
                if is_trial or self._remove_one(kept, why):
                    done.names.append(name)
                    done.freed_bytes += kept.image.size_bytes
                else:
                    done.kept[name] = "a container or another image needs it"
        if not is_trial:
            self._forget()
        return done

    def _remove_one(self, kept: Kept, why: str) -> bool:
        image_id = kept.image.id
        with self._changed:
            # Looked at again under the lock by which images are looked for: what has a record by now is found in it.
            again = image_use.judge(
                [kept.image], self._uses, self._claimed(), now=time.time(), least_age_s=_LEAST_AGE_S
            )
            if again[0].why_kept:
                return False
            self._removing.add(image_id)
        try:
            gone = all([self._node.engine.remove_image(name) for name in image_use.removed_by(kept)])
        finally:
            with self._changed:
                self._removing.discard(image_id)
                self._removals += 1
                self._changed.notify_all()
        if gone:
            self._node.emit(
                "image.removed",
                image=_name(kept),
                image_id=image_id,
                size_bytes=kept.image.size_bytes,
                why=why,
                unused_s=round(time.time() - kept.use.last),
            )
        return gone

    def _forget(self) -> None:
        present = {image.id for image in self._node.engine.images()}
        with self._changed:
            if set(self._uses.images) - present:
                self._uses.forget(present)
                self._is_dirty = True
        self.flush()

    # -- room for a pull ----------------------------------------------------------------------------------------------

    def _make_room(self, reference: str, platform: str | None, login: Login) -> None:
        """Raises NodeFault if the image cannot fit."""
        free = self._free()
        if free is None or free >= self._node.config.images.guard_free:
            return
        size = self._size_of(reference, platform, login)
        if size is None:
            return
        needed = _UNPACKED * size + _SPARE
        if free < needed:
            with suppress(OSError):
                self._lower(lambda: (self._free() or 0) < needed)
            free = self._free() or 0
        if free < needed:
            root = self._node.engine_info().root_dir
            raise NodeFault(
                "disk-full",
                f"image {reference!r} needs some {human(needed)} on {root} of {self._node.name}, which has"
                f" {human(free)} free and nothing more that may be removed",
            )

    def _free(self) -> int | None:
        room = self.room()
        return room[1] if room is not None else None

    def _size_of(self, reference: str, platform: str | None, login: Login) -> int | None:
        architecture = architecture_of(platform, lambda: self._node.engine_info().architecture)
        return layers_bytes(reference, login, architecture)


def _used(room: tuple[int, int]) -> float:
    """Percent."""
    size, free = room
    return 100.0 * (size - free) / size if size else 0.0


def _name(kept: Kept) -> str:
    return next(iter((*kept.image.tags, *kept.image.digests, kept.image.id)))
