"""A drained node: what is written down, and what is answered to prologues."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pbsdock.agent.drain import MOST_REASON, Drain
from pbsdock.core.errors import NodeFault
from pbsdock.core.record import State
from pbsdock.protocol import wire
from tests.unit.fakes import FakeNode, ask, fake_node, known

_ARGV = [b"7.s", b"nobody", b"g", b"name", b"nodes=1", b"batch", b""]


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return fake_node(tmp_path, "[users]\nmin_uid = 1\n")


def _prepare(node: FakeNode, text: str) -> wire.Message:
    script = node.paths.mom_priv / "jobs" / "7.s.SC"
    script.write_text(text)
    (answer,) = ask(node, 0, wire.Message("prepare", argv=[*_ARGV, os.fsencode(script)]))
    return answer


def test_a_drain_that_is_written_down(tmp_path: Path) -> None:
    """One line for mom whatever the reason is, and the time of the first; another object reads the same."""
    drain = Drain(tmp_path / "drained")
    first = drain.set("disk\n  swap\x1b[31m")
    again = drain.set("x" * 999)
    read = Drain(tmp_path / "drained").now()

    assert first.reason == "disk swap [31m"
    assert read == again
    assert again.since == first.since > 0
    assert len(again.reason) == MOST_REASON
    assert (tmp_path / "drained").read_text().splitlines()[0] == f"drained by an admin: {'x' * MOST_REASON}"


@pytest.mark.parametrize("text", ["", "x", "drained\nwhy\nsoon\n"])
def test_a_damaged_file_drains_all_the_same(tmp_path: Path, text: str) -> None:
    """An admin has meant it."""
    (tmp_path / "drained").write_text(text)

    with pytest.raises(NodeFault, match="takes no new container jobs"):
        Drain(tmp_path / "drained").check("n1")


def test_a_drained_node_with_fakes_has_jobs_queued_again(node: FakeNode) -> None:
    """As often as they come: it is no failure of theirs, flags nothing and leaves no record. Other jobs go on."""
    ask(node, 0, wire.Message("drain", reason="new disk"))
    answers = [_prepare(node, "#!/bin/sh\n#DOCKER busybox\n") for _ in range(5)]
    plain = _prepare(node, "#!/bin/sh\necho\n")

    assert {(answer.op, answer.text("code")) for answer in answers} == {("fault", "drained")}
    assert answers[0].text("sentence").endswith("drained by an admin: new disk")
    assert plain.text("state") == "none"
    assert node.jobs.records() == []
    assert "7.s" not in node.attempts
    assert not node.paths.unhealthy.exists()
    assert node.history.of("7.s", None)[0].fault is not None


def test_a_wrong_directive_is_refused_by_a_drained_node_with_fakes(node: FakeNode) -> None:
    """It would be by every other."""
    ask(node, 0, wire.Message("drain"))

    assert _prepare(node, "#!/bin/sh\n#DOCKER --privileged busybox\n").text("state") == "refused"


def test_drain_and_back_with_fakes(node: FakeNode) -> None:
    """Told how many jobs are here, and whether there was anything to take back; each is an event."""
    known(node, State.RUNNING)
    (drained, first, again) = ask(
        node, 0, wire.Message("drain", reason="x"), wire.Message("undrain"), wire.Message("undrain")
    )

    assert json.loads(drained.text("json"))["jobs"] == 1
    assert [json.loads(answer.text("json"))["was_drained"] for answer in (first, again)] == [True, False]
    assert node.events.names() == ["node.drained", "node.undrained"]
    assert node.drain.now() is None


@pytest.mark.parametrize("op", ["drain", "undrain", "reload", "config", "images", "pull", "pin", "prune"])
def test_these_are_for_root(node: FakeNode, op: str) -> None:
    """A user is refused, and nothing is done."""
    (answer,) = ask(node, 1000, wire.Message(op))

    assert answer.text("code") == "root-only"
    assert node.drain.now() is None
