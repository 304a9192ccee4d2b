"""The images of a node as names for schedulers: legal, bounded, written whole, and nothing that is not for everybody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pbsdock.agent.image_properties import MOST, MOST_NAME, Named, line, name_of
from pbsdock.directive.image_ref import parse_image
from pbsdock.engine.base import EngineError, ListedImage
from tests.unit.fakes import FakeNode, fake_node

_LEGAL = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")  # a property of a node, as pbs_server reads it (node_func)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("python:3.12", "img.python_3.12"),
        ("alice/tool", "img.alice.tool_latest"),
        ("ghcr.io/team/tool:1.2-3", "img.ghcr.io.team.tool_1.2-3"),
        ("reg.test:5000/a_b/c:1", "img.reg.test.5000.a_b.c_1"),
        ("tool:RC1", "img.tool_RC1"),
        ("[::1]:5000/tool:1", "img....1..5000.tool_1"),
    ],
)
def test_names_of_images(image: str, name: str) -> None:
    """Short, and as a user would guess them."""
    assert name_of(parse_image(image)) == name
    assert _LEGAL.fullmatch(name)


def test_long_names_are_cut() -> None:
    """To names that differ all the same."""
    names = {name_of(parse_image(f"reg.test/{'x' * 100}:{tag}")) for tag in ("1", "2")}

    assert len(names) == 2
    assert all(len(name) == MOST_NAME and _LEGAL.fullmatch(name) for name in names)


def test_the_line_is_bounded() -> None:
    """The pinned first, then those used last; whatever there is, one line of legal names, of some kilobytes."""
    images = [Named(image=parse_image(f"reg.test/{'y' * 90}{n}:1"), is_pinned=n >= 90) for n in range(100)]
    text = line(images)
    names = text.rstrip("\n").partition(":")[2].split("+")

    assert len(names) == MOST
    assert {name_of(named.image) for named in images[90:]} < set(names)
    assert {name_of(named.image) for named in images[: MOST - 10]} < set(names)
    assert all(_LEGAL.fullmatch(name) for name in names)
    assert len(text) < 2200
    assert line([]) == "images:none\n"


def _node(directory: Path, text: str = "") -> FakeNode:
    node = fake_node(directory, f'[images]\nproperties_file = "{directory}/p/images"\nhigh_water = 100\n{text}')
    (directory / "p").mkdir()
    return node


def _put(node: FakeNode, *tags: str) -> None:
    for tag in tags:
        node.engine.listed_images.append(ListedImage(id=f"sha256:{tag}", tags=(tag,), digests=(), size_bytes=1))


def _write(node: FakeNode) -> str:
    assert node.properties_file.write(node) == ""
    return Path(node.config.images.properties_file).read_text()


def test_the_file_follows_the_images(tmp_path: Path) -> None:
    """Replaced whole, for everybody to read, only when something has changed; a link in its place is not followed."""
    node = _node(tmp_path)
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "p/images").symlink_to(tmp_path / "victim")
    _put(node, "python:3.12", "reg.test/tool:1", "<none>:<none>")

    assert _write(node) == "images:img.python_3.12+img.reg.test.tool_1\n"
    assert (tmp_path / "victim").read_text() == "mine"
    before = (tmp_path / "p/images").lstat()
    assert before.st_mode == 0o100644
    assert _write(node)
    assert (tmp_path / "p/images").lstat().st_ino == before.st_ino
    node.engine.listed_images.pop(0)
    assert _write(node) == "images:img.reg.test.tool_1\n"
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["images"]


def test_an_engine_without_a_list_leaves_the_file(tmp_path: Path) -> None:
    """What was known is the best hint there is."""
    node = _node(tmp_path)
    _put(node, "python:3.12")
    before = _write(node)
    node.engine.fails |= {"images": EngineError(500, "x")}

    assert _write(node) == before


@pytest.mark.threat(25)
def test_what_is_not_for_everybody_is_not_told(tmp_path: Path) -> None:
    """An image that came by a user's login, and what nobody's job may run here."""
    node = _node(tmp_path, 'allow = ["reg.test/*"]\n')
    _put(node, "reg.test/open:1", "reg.test/private:1", "internal:1")
    node.images.private.begin("reg.test/private")
    node.images.private.end("reg.test/private", {"sha256:reg.test/private:1"})

    assert _write(node) == "images:img.reg.test.open_1\n"


def test_a_directory_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    """And again when it is another thing that is wrong."""
    node = _node(tmp_path)
    (tmp_path / "p").rmdir()
    said = [node.properties_file.write(node) for _ in range(2)]

    assert said == [f"{tmp_path}/p/images: No such file or directory", ""]
