"""Which images are not for everybody: marked before they can be used, and after any end of the agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbsdock.core.errors import NodeFault
from pbsdock.engine.private import WHOLE, PrivateImages


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "private_images.json"


def test_while_the_pull_is_under_way(file: Path) -> None:
    """Nobody knows yet what it brings: the whole repository counts, also for an agent that starts in between."""
    images = PrivateImages(file)
    assert not images.holds("r/a", "1")
    images.begin("r/a")

    assert images.holds("r/a", "1")
    assert PrivateImages(file).holds("r/a", "1")
    assert not images.holds("r/b", "1")


def test_what_it_brought(file: Path) -> None:
    """That image alone, and for good."""
    images = PrivateImages(file)
    images.begin("r/a")
    images.begin("r/a")
    images.end("r/a", {"1"})
    assert images.holds("r/a", "2")  # the other one is not over
    images.end("r/a", set())

    for one in (images, PrivateImages(file)):
        assert one.holds("r/a", "1")
        assert not one.holds("r/a", "2")
        assert not one.holds("r/b", "1")
    assert file.stat().st_mode & 0o777 == 0o600


def test_an_end_nobody_saw(file: Path) -> None:
    """The engine may have finished all the same."""
    images = PrivateImages(file)
    images.begin("r/a")
    images.end("r/a", {WHOLE})

    assert PrivateImages(file).holds("r/a", "any")


def test_what_has_become_public(file: Path) -> None:
    """Is forgotten, but not while another pull may bring something else."""
    images = PrivateImages(file)
    images.begin("r/a")
    images.end("r/a", {"1"})
    images.begin("r/a")
    images.forget("r/a", "1")
    images.end("r/a", set())
    assert images.holds("r/a", "1")
    images.forget("r/a", "1")

    assert not images.holds("r/a", "1")
    assert not PrivateImages(file).holds("r/a", "1")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": 3}', "[" * 50000])
def test_a_file_that_cannot_be_read(file: Path, text: str) -> None:
    """Nothing is taken for public because of it, and the file's own return is enough."""
    file.write_text(text)
    images = PrivateImages(file)
    with pytest.raises(NodeFault) as caught:
        images.holds("r/a", "1")
    assert caught.value.code == "private-images"
    assert str(file) in str(caught.value)
    file.unlink()

    assert not images.holds("r/a", "1")


def test_a_full_disk(tmp_path: Path) -> None:
    """A pull that cannot be marked does not begin."""
    images = PrivateImages(tmp_path / "gone" / "private_images.json")
    with pytest.raises(NodeFault) as caught:
        images.begin("r/a")

    assert caught.value.code == "record-not-written"
    assert not images.holds("r/a", "1")
