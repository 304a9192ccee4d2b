"""Images as a cache on a node of fakes: what may go, in which order, and what is never touched."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pbsdock.admin.images import lines
from pbsdock.agent import image_cache, image_use
from pbsdock.agent.image_cache import ImageCache
from pbsdock.agent.image_use import Use, Uses, claims, judge
from pbsdock.core.errors import NodeFault
from pbsdock.core.record import State
from pbsdock.engine.base import ImageFacts, ListedImage
from pbsdock.protocol import wire
from tests.unit.fakes import FakeNode, ask, fake_node, known
from tests.unit.test_policy import _plan

GIB = 1 << 30
NOW = time.time()
_OLD = NOW - 86400


def _image(name: str, size: int = GIB, **changes: Any) -> ListedImage:
    facts: dict[str, Any] = {
        "id": f"sha256:{name}",
        "tags": (f"{name}:1",),
        "digests": (),
        "size_bytes": size,
        **changes,
    }
    return ListedImage(**facts)


def _full(name: str) -> str:
    return f"docker.io/library/{name}:1"


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return fake_node(tmp_path)


def _put(node: FakeNode, *names: str, at: float = _OLD) -> None:
    """Images that pbsdock has pulled, each a second later than the one before."""
    for number, name in enumerate(names):
        node.engine.listed_images.append(_image(name))
        node.image_cache._uses.pulled(f"sha256:{name}", _full(name), at + number, is_new=True)


def _disk(monkeypatch: pytest.MonkeyPatch, node: FakeNode, *, size: int = 20, spare: int = 2) -> None:
    """Of so many GiB, on which nothing but the images needs room; *spare* is what they leave now."""
    others = size - spare - len(node.engine.listed_images)

    def room() -> tuple[int, int]:
        return size * GIB, (size - others - len(node.engine.listed_images)) * GIB

    monkeypatch.setattr(node.image_cache, "room", room)


def _left(node: FakeNode) -> list[str]:
    return [image.tags[0] for image in node.engine.listed_images]


# -- the marks --------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_down_to_the_low_mark(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of 20 GiB with 2 free is at 90 %; two images of 1 GiB bring it to 80."""
    _put(node, "a", "b", "c", "d")
    record = known(node, State.READY)
    node.image_cache.used("sha256:a", record)
    node.image_cache._uses.images["sha256:a"] = image_use.replace(
        node.image_cache._uses.images["sha256:a"], used_at=_OLD + 100
    )
    node.jobs.remove(record)
    _disk(monkeypatch, node)
    removed = node.image_cache.collect()

    assert removed is not None
    assert (removed.names, removed.freed_bytes) == (["b:1", "c:1"], 2 * GIB)
    assert _left(node) == ["a:1", "d:1"]
    assert node.events.names() == ["image.removed", "image.removed", "image.collected"]
    assert node.events.told[-1][1] == {"level": "info", "count": 2, "freed_bytes": 2 * GIB, "used_percent": 80.0}
    assert node.image_cache.collect() is None


def test_below_the_high_mark_nothing_goes(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor with the mark at 100, which means never."""
    _put(node, "a")
    _disk(monkeypatch, node, spare=4)
    assert node.image_cache.collect() is None
    node.reconfigure(image_use.replace(node.config, images=image_use.replace(node.config.images, high_water=100.0)), {})
    _disk(monkeypatch, node, spare=0)
    assert node.image_cache.collect() is None
    assert _left(node) == ["a:1"]


def test_a_disk_that_stays_full_is_told_once(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is well again."""
    _put(node, "a")
    node.image_cache.pin(_full("a"), is_on=True)
    _disk(monkeypatch, node, spare=1)
    for _ in range(3):
        node.image_cache.collect()

    assert node.events.told == [
        ("image.collected", {"level": "warning", "count": 0, "freed_bytes": 0, "used_percent": 95.0})
    ]


# -- what stays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "use", "pins", "in_use", "why"),
    [
        (_image("a"), Use(), (), (), "pbsdock did not pull it"),
        (_image("a"), Use(names=(_full("a"),)), (), (), ""),
        (_image("a"), Use(names=(_full("a"),)), (_full("a"),), (), "pinned"),
        (_image("a"), Use(names=(_full("a"),)), (), ("sha256:a",), "a job uses it"),
        (_image("a"), Use(names=(_full("a"),)), (), (_full("a"),), "a job uses it"),
        (_image("a"), Use(names=(_full("a"),)), (), ("docker.io/library/a/",), "a job uses it"),
        (_image("a", tags=("a:1", "b:2")), Use(names=(_full("a"),)), (), (), "others call it docker.io/library/b:2"),
        (
            _image("a", digests=("r:5000/a@sha256:" + "0" * 64,)),
            Use(names=(_full("a"),)),
            (),
            (),
            "others call it r:5000/a@sha256:" + "0" * 64,
        ),
        (_image("a", tags=(), digests=("a@sha256:" + "0" * 64,)), Use(names=(_full("a"),)), (), (), ""),
        (_image("a"), Use(names=(_full("a"),), used_at=NOW - 5), (), (), "it is new, or was used a moment ago"),
    ],
)
def test_what_may_not_go(
    image: ListedImage, use: Use, pins: tuple[str, ...], in_use: tuple[str, ...], why: str
) -> None:
    """What jobs use by any name, what the site keeps, what has names of others, and all that pbsdock did not pull."""
    uses = Uses({image.id: use}, set(pins))
    (kept,) = judge([image], uses, frozenset(in_use), now=NOW, least_age_s=120)

    assert kept.why_kept == why
    assert kept.is_pinned is bool(pins)


def test_what_records_claim() -> None:
    """By id once it is known, and until then every image of the repository."""
    digest = "sha256:" + "1" * 64

    assert claims([(None, "busybox:1", None)]) == {_full("busybox"), "docker.io/library/busybox/"}
    assert claims([("sha256:x", "busybox:1", digest)]) == {
        "sha256:x",
        _full("busybox"),
        f"docker.io/library/busybox@{digest}",
    }


def test_an_image_that_was_there_before_the_pull_is_not_ours(node: FakeNode) -> None:
    """Whoever had pulled it; what a pull has brought is, and stays so when it is pulled again."""
    node.engine.listed_images = [_image("theirs")]
    for _ in range(2):
        node.image_cache.before("theirs:1", None, {})
        node.image_cache.after(_full("theirs"), "sha256:theirs")
        node.image_cache.before("ours:1", None, {})
        node.engine.listed_images = [_image("theirs"), _image("ours")]
        node.image_cache.after(_full("ours"), "sha256:ours")
    again = ImageCache(node.paths.state_dir / "images.json", node)

    assert {kept.image.id: bool(kept.use.names) for kept in again.listed()} == {
        "sha256:theirs": False,
        "sha256:ours": True,
    }


@pytest.mark.parametrize("text", ["", "[]", '{"images": {"x": {}}, "pins": []}', '{"images": {}}'])
def test_a_damaged_file_removes_nothing(node: FakeNode, text: str) -> None:
    """Nothing is known to be pbsdock's then."""
    (node.paths.state_dir / "images.json").write_text(text)
    _put(node, "a")

    assert ImageCache(node.paths.state_dir / "images.json", node).prune().names == []


def test_a_ledger_that_cannot_be_read_removes_nothing(node: FakeNode) -> None:
    """A record that is not seen may need anything."""
    _put(node, "a")
    (node.paths.state_dir / "jobs/x.json").write_text("{")

    with pytest.raises(OSError, match="ledger"):
        node.image_cache.prune()
    assert _left(node) == ["a:1"]


# -- races ------------------------------------------------------------------------------------------------------------


def test_a_record_made_at_the_last_moment_keeps_its_image(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the list and the removal a prologue has come."""
    _put(node, "a")
    judged = node.image_cache.listed()

    def listed() -> object:
        known(node, State.PREPARING, plan=_plan("a:1"))
        return judged

    monkeypatch.setattr(node.image_cache, "listed", listed)
    assert node.image_cache.prune().names == []
    assert _left(node) == ["a:1"]


def test_whoever_looks_while_an_image_goes_waits_and_finds_it_gone(node: FakeNode) -> None:
    """Never an image that is not there a moment later."""
    _put(node, "a")
    begun, go_on = threading.Event(), threading.Event()
    remove = node.engine.remove_image

    def slowly(name: str) -> bool:
        begun.set()
        assert go_on.wait(10)
        return remove(name)

    node.engine.remove_image = slowly  # type: ignore[method-assign]  # a slow one

    def inspect() -> ImageFacts | None:
        return ImageFacts(id="sha256:a", digests=(), architecture="", size_bytes=1) if _left(node) else None

    found: list[ImageFacts | None] = []
    removing = threading.Thread(target=node.image_cache.prune)
    removing.start()
    assert begun.wait(10)
    looking = threading.Thread(target=lambda: found.append(node.image_cache.look(inspect)))
    looking.start()
    looking.join(0.2)
    assert looking.is_alive()
    go_on.set()
    removing.join(10)
    looking.join(10)

    assert found == [None]


# -- room for a pull --------------------------------------------------------------------------------------------------


def test_room_is_made_for_a_pull(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as it needs, twice its layers and a little, and no more."""
    _put(node, "a", "b", "c", "d")
    _disk(monkeypatch, node, spare=1)
    monkeypatch.setattr(image_cache, "layers_bytes", lambda *_: GIB)
    node.image_cache.before("new:1", None, {})

    assert _left(node) == ["c:1", "d:1"]


def test_a_pull_that_cannot_fit_is_not_begun(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's fault, with what is needed and what there is; where the size is not known the pull is tried."""
    _put(node, "a")
    _disk(monkeypatch, node, spare=1)
    monkeypatch.setattr(image_cache, "layers_bytes", lambda *_: 5 * GIB)
    with pytest.raises(NodeFault, match=r"needs some 10\.2 GiB on /var/lib/fake of .*, which has 2 GiB free") as caught:
        node.image_cache.before("new:1", None, {})
    assert caught.value.code == "disk-full"
    monkeypatch.setattr(image_cache, "layers_bytes", lambda *_: None)
    node.image_cache.before("new:1", None, {})


def test_with_room_enough_no_registry_is_asked(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question counts as a pull at some."""
    monkeypatch.setattr(node.image_cache, "room", lambda: (200 * GIB, 100 * GIB))
    monkeypatch.setattr(image_cache, "layers_bytes", lambda *_: pytest.fail("it was asked"))
    node.image_cache.before("new:1", None, {})


# -- the requests -----------------------------------------------------------------------------------------------------


def test_images_are_listed_pinned_and_pruned(node: FakeNode) -> None:
    """By root's requests; a pin is by the full name, outlives the agent and is told once."""
    _put(node, "a", "b", "c")
    messages = [
        wire.Message("pin", image="a:1"),
        wire.Message("pin", image="docker.io/library/a:1"),
        wire.Message("prune", dry_run=1, unused_s=60),
        wire.Message("prune", unused_s=10 * 86400),
        wire.Message("prune"),
        wire.Message("images"),
        wire.Message("pin", image="a:1", off=1),
    ]
    answers = [json.loads(answer.text("json")) for answer in ask(node, 0, *messages)]

    assert [answers[0]["changed"], answers[1]["changed"]] == [True, False]
    assert answers[2]["names"] == ["b:1", "c:1"]
    assert answers[3]["names"] == []
    assert (answers[4]["names"], answers[4]["kept"]) == (["b:1", "c:1"], {"a:1": "pinned"})
    assert [image["names"] for image in answers[5]["images"]] == [["a:1"]]
    assert answers[6]["changed"] is True
    assert node.events.names() == ["image.pinned", "image.removed", "image.removed", "image.unpinned"]
    (refused,) = ask(node, 0, wire.Message("pin", image="A:1"))
    assert "capital letters" in refused.text("sentence")


def test_the_table_of_images() -> None:
    """The most recently used first; what is not pbsdock's is marked."""
    rows = [
        {"names": [], "id": "sha256:x", "size_bytes": 5, "used_at": None, "user": None, "pinned": False, "pulled_by_pbsdock": False},
        {"names": ["a:1"], "id": "i", "size_bytes": GIB, "used_at": 100.0, "user": "alice", "pinned": True, "pulled_by_pbsdock": True},
    ]  # fmt: skip
    told = list(lines({"images": rows, "disk_bytes": 10 * GIB, "free_bytes": 4 * GIB}, 100.0 + 7200))

    assert told[1].split() == ["1", "GiB", "2", "h", "ago", "alice", "pinned", "a:1"]
    assert told[2].split() == ["5", "B", "never", "-", "not", "ours", "sha256:x"]
    assert told[3] == "60 % of the disk used, 4 GiB free"
