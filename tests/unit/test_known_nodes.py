"""What is kept of other nodes' agents: their versions and clocks, from questions and from answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent import known_nodes, neighbours
from pbsdock.agent.known_nodes import KnownNodes, read
from pbsdock.agent.version import version
from pbsdock.cluster.listener import Listener
from pbsdock.cluster.signing import KeySigner
from tests.support.ports import free_port
from tests.unit.fakes import fake_node

_KEY = KeySigner(b"k" * 32)


def test_both_ends_with_fakes_learn_of_each_other(tmp_path: Path) -> None:
    """Over the real channel: who asks of who answers, and the other way round with its clock."""
    port = free_port()
    asking, answering = (fake_node(tmp_path / name, f"[nodes]\nport = {port}\n") for name in ("a", "b"))
    for node, name in ((asking, "n1"), (answering, "localhost")):
        node.name, node._signer = name, _KEY
    listener = Listener(_KEY, port, "localhost", neighbours.handlers(answering), answering.emit)
    listener.start()
    try:
        told = neighbours.ask(asking, "localhost", "job", "7.s")
    finally:
        listener.stop()
    (answered,), (asked,) = (read(node.paths.state_dir / "nodes.json").items() for node in (asking, answering))

    assert "release" not in told
    assert (answered[0], answered[1].version, answered[1].ahead_s) == ("localhost", version(), None)
    assert (asked[0], asked[1].version) == ("n1", version())
    assert abs(asked[1].ahead_s or 0.0) < 5.0
    assert abs(asked[1].at - time.time()) < 60.0


def test_a_node_is_known_by_one_name(tmp_path: Path) -> None:
    """With its domain or without; the last word counts, and what it said of its clock stays."""
    nodes = KnownNodes(tmp_path / "nodes.json")
    nodes.heard("n2.example.org", "0.1.0", -3.0)
    nodes.heard("n2", "0.2.0")
    ((name, found),) = read(tmp_path / "nodes.json").items()

    assert (name, found.version, found.ahead_s) == ("n2.example.org", "0.2.0", -3.0)


def test_what_is_said_again_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task of a wide job asks; the disk is for what is new, and once an hour."""
    now = 1000.0
    nodes = KnownNodes(tmp_path / "nodes.json", clock=lambda: now)
    writes: list[int] = []
    monkeypatch.setattr(nodes, "_write", lambda: writes.append(1))
    for word, ahead, passed in (
        ("1", 0.5, 0.0),
        ("1", 0.9, 10.0),
        ("1", None, 10.0),
        ("2", None, 10.0),
        ("2", 60.0, 10.0),
        ("2", 60.0, 4000.0),
    ):
        now += passed
        nodes.heard("n2", word, ahead)

    assert len(writes) == 4


@pytest.mark.parametrize("told", [None, 7, ["x"], "a\033b"])
def test_a_version_that_is_none(tmp_path: Path, told: Any) -> None:
    """Of an older release, or of somebody who says anything at all."""
    KnownNodes(tmp_path / "nodes.json").heard("n2", told)

    assert read(tmp_path / "nodes.json")["n2"].version == ""


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"n2": 3}', '{"n2": {"version": "1"}}', '{"n2": {"version": "1", "at": "x"}}']
)
def test_what_is_no_such_file(tmp_path: Path, text: str) -> None:
    """Nothing is known then, and it is written anew."""
    (tmp_path / "nodes.json").write_text(text)
    nodes = KnownNodes(tmp_path / "nodes.json")
    assert read(tmp_path / "nodes.json") == {}
    nodes.heard("n2", "1")

    assert list(json.loads((tmp_path / "nodes.json").read_text())) == ["n2"]


def test_a_month_and_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those heard last; a disk that is full is no error."""
    monkeypatch.setattr(known_nodes, "_MOST", 3)
    now = 1000.0
    nodes = KnownNodes(tmp_path / "nodes.json", clock=lambda: now)
    for name in ("a", "b", "c", "d"):
        nodes.heard(name, "1")
    assert list(read(tmp_path / "nodes.json")) == ["b", "c", "d"]
    now += 31 * 86400.0
    nodes.heard("e", "1")
    assert list(read(tmp_path / "nodes.json")) == ["e"]
    KnownNodes(tmp_path / "no/such/place").heard("n2", "1")
