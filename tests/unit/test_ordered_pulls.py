"""Images that other nodes are asked to pull: the names of nodes, what a node takes, and the table; the channel is real, the
node is one of fakes."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pbsdock.admin import images_on
from pbsdock.admin.node_names import BadNodes, nodes
from pbsdock.agent import neighbours
from pbsdock.cluster.channel import Request
from pbsdock.cluster.listener import Listener
from pbsdock.cluster.signing import KeySigner
from pbsdock.core.errors import Refusal
from pbsdock.engine.images import Image
from tests.support.ports import free_port
from tests.unit.fakes import FakeNode, fake_node

_KEY = KeySigner(b"k" * 32)
_DIGEST = "sha256:" + "1" * 64
_NUMBER = "a" * 32


class SlowImages:
    """A fake that has an image once it is told to, or fails."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def ensure(self, reference: str, *, pull: str, **_bounds: Any) -> Image:
        self.asked.append((reference, pull))
        self.go.wait(5)
        if self.error is not None:
            raise self.error
        return Image(id="sha256:2", digest=_DIGEST, architecture="amd64", size=1, is_fetched=True)


def _node(directory: Path, text: str = "") -> tuple[FakeNode, SlowImages]:
    node, images = fake_node(directory, text), SlowImages()
    node.name = "n1"
    node.images = images  # type: ignore[assignment]  # a fake
    return node, images


def _ask(node: FakeNode, image: str = "alpine:3", order: str = _NUMBER, **fields: Any) -> dict[str, Any]:
    asked = Request(op="pull", job="", sender="n9", to="n1", at=0.0, fields={"image": image, "order": order, **fields})
    return dict(neighbours.handlers(node)["pull"](asked))


def _end(node: FakeNode, **options: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 5
    while (told := _ask(node, **options))["state"] == "pulling" and time.monotonic() < deadline:
        time.sleep(0.01)
    return told


# -- names of nodes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("n1", ["n1"]),
        ("n1,login, n1", ["n1", "login"]),
        ("n[1-3,7],m[08-10]", ["n1", "n2", "n3", "n7", "m08", "m09", "m10"]),
        ("r[1-2]n[1-2].test", ["r1n1.test", "r1n2.test", "r2n1.test", "r2n2.test"]),
    ],
)
def test_names_of_nodes(text: str, found: list[str]) -> None:
    """As clush and pdsh have them, each once."""
    assert nodes(text) == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' names no node"),
        (",", "',' names no node"),
        ("n[3-1]", "[3-1] in 'n[3-1]' is no range of at most 10000 nodes that ends after it begins"),
        ("n[a]", "[a] in 'n[a]' is no range; expected numbers"),
        ("n[1", "'n[1' is no name of a node"),
        ("-w", "'-w' is no name of a node"),
        ("n1;id", "'n1;id' is no name of a node"),
        ("n[1-9999],m[1-9999]", "these are more than 10000 nodes"),
        ("n[1-99999999]", "is no range of at most 10000 nodes"),
        ("@/none", "/none cannot be read: No such file or directory"),
    ],
)
def test_what_names_no_nodes(text: str, sentence: str) -> None:
    """One sentence with the word."""
    with pytest.raises(BadNodes) as caught:
        nodes(text)

    assert sentence in str(caught.value)


def test_nodes_of_a_file(tmp_path: Path) -> None:
    """Torque's own has them first in each line."""
    (tmp_path / "nodes").write_text("# the site's\nn1 np=8 gpus=2\n\nn[2-3] np=4 # new\n")

    assert nodes(f"@{tmp_path}/nodes") == ["n1", "n2", "n3"]


# -- what a node takes ------------------------------------------------------------------------------------------------


def test_an_order_is_begun_once(tmp_path: Path) -> None:
    """Whoever asks again, or hears it twice, is told how far it is; root's own event tells who has ordered it."""
    node, images = _node(tmp_path)
    assert [_ask(node)["state"] for _ in range(3)] == ["pulling"] * 3
    images.go.set()
    told = _end(node)

    assert (told["state"], told["fetched"], told["digest"]) == ("done", True, _DIGEST)
    assert _ask(node) == told
    assert images.asked == [("docker.io/library/alpine:3", "missing")]
    ordered = [fields for name, fields in node.events.told if name == "image.ordered"]
    assert [(line["image"], line["sender"]) for line in ordered] == [("docker.io/library/alpine:3", "n9")]
    assert _end(node, order="b" * 32, always=True)["state"] == "done"
    assert images.asked[1:] == [("docker.io/library/alpine:3", "always")]


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (Refusal("image-not-found", "there is none"), "image-not-found", "there is none"),
        (RuntimeError("secret"), "agent-error", "n1 could not pull it"),
    ],
)
def test_an_order_that_fails(tmp_path: Path, error: Exception, code: str, sentence: str) -> None:
    """In the words of the pull; nothing of an error that nobody had foreseen."""
    node, images = _node(tmp_path)
    images.error = error
    images.go.set()
    told = _end(node)

    assert (told["state"], told["code"], told["sentence"]) == ("failed", code, sentence)


@pytest.mark.threat(40)
@pytest.mark.parametrize(
    ("text", "fields", "code"),
    [
        ("[nodes]\npulls = false\n", {}, "image-not-allowed"),
        ('[images]\nallow = ["ghcr.io/*"]\n', {}, "image-not-allowed"),
        ('[images]\ndeny = ["docker.io/*"]\n', {}, "image-not-allowed"),
        ("", {"image": "A b"}, "bad-image"),
        ("", {"order": "../x"}, "bad-order"),
        ("", {"order": 7}, "bad-order"),
    ],
)
def test_what_a_node_does_not_take(tmp_path: Path, text: str, fields: dict[str, Any], code: str) -> None:
    """Its own policy holds for what other nodes' root wants; nothing is begun."""
    node, images = _node(tmp_path, text)
    told = _ask(node, **fields)

    assert (told["state"], told["code"]) == ("refused", code)
    assert images.asked == []


def test_what_only_some_may_run_may_come(tmp_path: Path) -> None:
    """An override that allows it to somebody is enough."""
    node, _ = _node(
        tmp_path, '[images]\nallow = ["ghcr.io/*"]\n[[override]]\nusers = ["a"]\n[override.images]\nallow = ["*"]\n'
    )

    assert _ask(node)["state"] == "pulling"


@pytest.mark.threat(40)
def test_orders_are_bounded(tmp_path: Path) -> None:
    """Some at a time; later ones wait with whoever asks; of those that are over some are remembered."""
    node, images = _node(tmp_path)
    states = [_ask(node, order=f"{number:032x}")["state"] for number in range(20)]
    assert states == ["pulling"] * 16 + ["later"] * 4
    assert _ask(node, image="other:1", order=f"{0:032x}")["code"] == "bad-order"
    images.go.set()
    for number in range(300):
        assert _end(node, order=f"{number:032x}")["state"] in ("done", "later")

    assert len(node.ordered_pulls._orders) <= 257


# -- who asks ---------------------------------------------------------------------------------------------------------


@contextmanager
def _listening(node: FakeNode) -> Iterator[int]:
    listener = Listener(_KEY, 0, node.name, neighbours.handlers(node), node.emit)
    listener.start()
    try:
        yield listener.port
    finally:
        listener.stop()


def test_an_order_over_the_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waited for to its end; an agent of an older release, another key and a port that is closed are told as such."""
    node, images = _node(tmp_path)
    node.name = "localhost"
    timer = threading.Timer(0.5, images.go.set)
    timer.start()
    with _listening(node) as port:
        result = images_on.order(_KEY, port, "localhost", "docker.io/library/alpine:3")
        stranger = images_on.order(KeySigner(b"x" * 32), port, "localhost", "alpine:3")
        monkeypatch.setattr(neighbours, "handlers", lambda _: {})
    assert (result.result, result.detail, result.is_well) == ("pulled", _DIGEST, True)
    assert 0.4 < result.seconds < 4
    assert (stranger.result, stranger.is_well) == ("no-answer", False)
    with _listening(node) as port:
        older = images_on.order(_KEY, port, "localhost", "alpine:3")
    assert older.result == "no-answer"
    assert "different versions of pbsdock" in older.detail
    gone = images_on.order(_KEY, free_port(), "localhost", "alpine:3")
    assert "nobody listens on localhost" in gone.detail


def test_the_table_of_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    """A line each, a reason where there is none, and what the exit code says."""
    done = images_on.Result(node="n1", image="a:1", result="was here", detail=_DIGEST, seconds=0.1)
    lost = images_on.Result(node="n2", image="a:1", result="no-answer", detail="nobody listens", seconds=10.0)

    assert images_on._report(iter([done]), as_json=False) == 0
    assert images_on._report(iter([done, lost]), as_json=False) == 1
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "n1                   was here      0.1 s  a:1",
        "n2                   no-answer    10.0 s  a:1",
        "  nobody listens",
        "1 of 2 are there",
    ]
    assert images_on._report(iter([done, lost]), as_json=True) == 1
    assert [row["node"] for row in json.loads(capsys.readouterr().out)["results"]] == ["n1", "n2"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"on": "n[1"}, "pbsdock: --on: 'n[1' is no name of a node"),
        ({"images": ["A b"]}, "pbsdock: image 'A b'"),
        ({"at_once": 0}, "pbsdock: --at-once: expected 1 to 256, not 0"),
        ({"pin": True}, "pbsdock: --pin is for this node alone"),
    ],
)
def test_wrong_input(capsys: pytest.CaptureFixture[str], options: dict[str, Any], sentence: str) -> None:
    """Exit code 2, and nobody is asked."""
    given = {"on": "n1", "images": ["a:1"], "at_once": 1, "pin": False, "always": False, "pull_json": False, **options}

    assert images_on.run(argparse.Namespace(**given)) == 2
    assert sentence in capsys.readouterr().err
