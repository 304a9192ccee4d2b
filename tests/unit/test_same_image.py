"""A sister's image that is found by its id: it is taken by this node's own rules, as any other is."""

from __future__ import annotations

from typing import Any

import pytest

from pbsdock.core.errors import Refusal
from pbsdock.engine.base import ImageFacts
from pbsdock.engine.images import Images

_ID = "sha256:1"


class _Client:
    """The engine's, of a machine of that kind."""

    def info(self) -> dict[str, str]:
        return {"Architecture": "x86_64"}

    def close(self) -> None:
        pass


def _images(architecture: str = "amd64", size: int = 5) -> Images:
    found = ImageFacts(id=_ID, digests=(), architecture=architecture, size_bytes=size)
    client: Any = _Client()
    return Images(lambda _: client, lambda name: found if name == _ID else None, lambda *_, **__: None)


def test_it_is_found_by_its_id() -> None:
    """By whatever name it is here."""
    image = _images().same("built/on:first", _ID, platform=None, max_bytes=5)

    assert image is not None
    assert (image.id, image.digest, image.is_fetched) == (_ID, None, False)
    assert _images().same("built/on:first", "sha256:2", platform=None, max_bytes=5) is None


def test_it_may_be_too_large_for_this_node() -> None:
    """Whatever the mother superior takes."""
    with pytest.raises(Refusal, match="5 bytes") as refused:
        _images().same("built/on:first", _ID, platform=None, max_bytes=4)

    assert refused.value.code == "image-too-large"
    assert _images().same("built/on:first", _ID, platform=None, max_bytes=0) is not None


def test_it_may_be_another_machines() -> None:
    """The mother superior may be of another kind, or emulate it; what the plan asks for counts."""
    with pytest.raises(Refusal, match="is built for arm64; this node runs amd64") as refused:
        _images("arm64").same("built/on:first", _ID, platform=None, max_bytes=0)

    assert refused.value.code == "image-wrong-architecture"
    assert _images("arm64").same("built/on:first", _ID, platform="linux/arm64", max_bytes=0) is not None
