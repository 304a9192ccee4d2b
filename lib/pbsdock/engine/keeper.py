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

    def before(self, reference: str, platform: str | None, login: Login) -> None:
        """A pull is to begin. Raises HookError if there is no room for it."""

    def after(self, reference: str, image_id: str) -> None:
        """It ended well."""
