"""Who sees to it that images have room and are removed again; by default nobody."""

from __future__ import annotations

from collections.abc import Callable

from pbsdock.engine.base import ImageFacts
from pbsdock.engine.credentials import Login


class Keeper:
    """Asked by :class:`pbsdock.engine.images.Images`, from any thread."""

    def look(self, inspect: Callable[[], ImageFacts | None]) -> ImageFacts | None:
        """An image as it is, and not while it is being removed."""
        return inspect()

    def before(self, reference: str, platform: str | None, login: Login, asked: str = "") -> None:
        """A pull is to begin; *asked* is the name by which it is fetched with this *login*, "" for its own.

        Raises HookError if there is no room for it.
        """

    def after(self, reference: str, image_id: str, *others: str) -> None:
        """It ended well; *others* are names it got beside."""
