"""Which images pbsdock has pulled, who used each last, and which the site has pinned: a small file. Pure but for that.

What is written late or lost only makes an image look older; whether it was pulled by pbsdock is written at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pbsdock.core import whole_file
from pbsdock.directive.image_ref import BadImage, parse_image
from pbsdock.engine.base import ListedImage

_MOST = 5000  # images in the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """An image by its id: the names it was pulled by (none: not by pbsdock), and when (seconds since the epoch)."""

    names: tuple[str, ...] = ()
    pulled_at: float = 0.0
    used_at: float = 0.0
    user: str = ""
    job: str = ""

    @property
    def last(self) -> float:
        """When it was of use last."""
        return max(self.pulled_at, self.used_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An image of this node with what is known of it. ``why_kept``: why it is not to be removed, "" if it may be."""

    image: ListedImage
    use: Use = field(default_factory=Use)
    is_pinned: bool = False
    why_kept: str = ""


@dataclass(slots=True)
class Uses:
    """The file's content."""

    images: dict[str, Use] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)

    def pulled(self, image_id: str, reference: str, at: float, *, is_new: bool) -> None:
        """A pull has made it, or (not *is_new*) has found it there, whoever had pulled that."""
        before = self.images.get(image_id, Use())
        if is_new or before.names:
            names = tuple(dict.fromkeys((*before.names, reference)))
            self.images[image_id] = replace(before, names=names, pulled_at=at)

    def used(self, image_id: str, user: str, job: str, at: float) -> None:
        """A job runs it."""
        self.images[image_id] = replace(self.images.get(image_id, Use()), used_at=at, user=user, job=job)

    def forget(self, present: AbstractSet[str]) -> None:
        """Keep what is known of images that are here."""
        self.images = {image_id: use for image_id, use in self.images.items() if image_id in present}

    def to_json(self) -> str:
        """The file's text."""
        newest = sorted(self.images.items(), key=lambda pair: pair[1].last, reverse=True)[:_MOST]
        return json.dumps(
            {"version": 1, "images": {key: asdict(use) for key, use in newest}, "pins": sorted(self.pins)}
        )


def load(path: Path) -> Uses:
    """What was written. Nothing where that is not there, or damaged: then no image is known to be pbsdock's, and none
    is removed. Raises OSError."""
    try:
        found = json.loads(path.read_bytes())
        images = {
            str(key): Use(
                names=tuple(map(str, use["names"])),
                pulled_at=float(use["pulled_at"]),
                used_at=float(use["used_at"]),
                user=str(use["user"]),
                job=str(use["job"]),
            )
            for key, use in found["images"].items()
        }
        return Uses(images, set(map(str, found["pins"])))
    except FileNotFoundError:
        return Uses()
    except (ValueError, KeyError, TypeError, AttributeError):
        return Uses()


def save(path: Path, uses: Uses) -> None:
    """Whole or not at all. Raises OSError."""
    whole_file.write_over(path, uses.to_json().encode())


def canonical(name: str) -> str:
    """A reference in full; as it is where it is none."""
    try:
        return parse_image(name).canonical
    except BadImage:
        return name


def judge(
    images: Iterable[ListedImage], uses: Uses, in_use: AbstractSet[str], *, now: float, least_age_s: float
) -> list[Kept]:
    """Each image with why it stays, the least recently used first.

    *in_use* are ids, references and repositories that records name.
    """
    return sorted(
        (_judged(image, uses, in_use, now, least_age_s) for image in images),
        key=lambda kept: (kept.use.last, kept.image.id),
    )


def _judged(image: ListedImage, uses: Uses, in_use: AbstractSet[str], now: float, least_age_s: float) -> Kept:
    use = uses.images.get(image.id, Use())
    tags, digests = [canonical(tag) for tag in image.tags], [canonical(digest) for digest in image.digests]
    names = {*tags, *digests}
    is_pinned = bool(uses.pins & {*names, *use.names, image.id})
    why = ""
    if not use.names:
        why = "pbsdock did not pull it"
    elif is_pinned:
        why = "pinned"
    elif in_use & {image.id, *names, *use.names, *map(_repository, names)}:
        why = "a job uses it"
    elif strange := _strange(tags, digests, use.names):
        why = f"others call it {strange}"
    elif now - use.last < least_age_s:
        why = "it is new, or was used a moment ago"
    return Kept(image=image, use=use, is_pinned=is_pinned, why_kept=why)


def _strange(tags: Sequence[str], digests: Sequence[str], own: Sequence[str]) -> str:
    """The first name that no pull of pbsdock's has given; "" if there is none."""
    repositories = set(map(_repository, own))
    names = [
        *(tag for tag in tags if tag not in own),
        *(name for name in digests if _repository(name) not in repositories),
    ]
    return next(iter(names), "")


def _repository(name: str) -> str:
    """With a mark by which it is no reference."""
    try:
        return f"{parse_image(name).name}/"
    except BadImage:
        return name


def claims(records: Iterable[tuple[str | None, str | None, str | None]]) -> frozenset[str]:
    """What records name: (image id, reference, digest) each. One whose image is still to come claims the whole
    repository."""
    found: set[str] = set()
    for image_id, reference, digest in records:
        if image_id:
            found.add(image_id)
        if reference:
            found.add(canonical(reference))
            if not image_id:
                found.add(_repository(reference))
            if digest:
                found.add(f"{_repository(reference).rstrip('/')}@{digest}")
    return frozenset(found)


def removed_by(kept: Kept) -> Sequence[str]:
    """The names whose removal takes the image away."""
    tagged = set(map(_repository, kept.image.tags))
    # The engine takes those of a tag's own repository away with the tag, but not those of a mirror's.
    digests = [digest for digest in kept.image.digests if _repository(digest) not in tagged]
    return [*kept.image.tags, *digests] or (kept.image.id,)


def shown(kept: Kept) -> Mapping[str, object]:
    """A row of ``pbsdock images --json``."""
    use = kept.use
    return {
        "id": kept.image.id,
        "names": [*kept.image.tags, *(kept.image.digests if not kept.image.tags else ())],
        "digests": list(kept.image.digests),
        "size_bytes": kept.image.size_bytes,
        "pulled_by_pbsdock": bool(use.names),
        "pulled_at": use.pulled_at or None,
        "used_at": use.used_at or None,
        "user": use.user or None,
        "job": use.job or None,
        "pinned": kept.is_pinned,
        "kept_because": kept.why_kept,
    }
