"""``pbsdock why`` of a job on several nodes: nodes of fakes, asked over the real channel."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pbsdock.admin.why import command, nodes, view
from pbsdock.agent import neighbours, other_nodes
from pbsdock.agent.looks import Looks
from pbsdock.agent.release import release
from pbsdock.cluster.channel import Request
from pbsdock.cluster.listener import Listener
from pbsdock.cluster.signing import KeySigner
from pbsdock.core.facts import Exit, Usage
from pbsdock.core.record import Record, State
from pbsdock.core.redact import known as secrets
from pbsdock.protocol import wire
from tests.support.ports import free_port
from tests.unit.fakes import FakeNode, ask, fake_node, known
from tests.unit.records import record_in
from tests.unit.stories import MIB, story
from tests.unit.test_policy import _plan

_KEY = KeySigner(b"k" * 32)
_ALICE, _BOB = 2001, 2002
_GONE = "no-such-host.invalid"
_PLAN = _plan("alpine:3")


def _node(directory: Path, name: str, port: int) -> FakeNode:
    node = fake_node(directory, f"[nodes]\nport = {port}\n")
    node.name, node._signer = name, _KEY
    return node


@contextmanager
def _listening(node: FakeNode) -> Iterator[Listener]:
    listener = Listener(_KEY, node.config.nodes.port, node.name, neighbours.handlers(node), node.emit)
    listener.start()
    try:
        yield listener
    finally:
        listener.stop()


class Pair:
    """A mother superior n1, a sister by the name localhost, and a third node that is nowhere; Alice's job on all."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.sister = _node(directory / "b", "localhost", port)
        self.mother = _node(directory / "a", "n1", port)
        self.here = self.record(self.mother, started_at=1.0)
        self.there = self.record(self.sister, self.here.incarnation, started_at=1.0, mother="n1")

    def record(self, node: FakeNode, incarnation: str = "", **facts: Any) -> Record:
        """Of the job, running; on a sister in the mother superior's incarnation."""
        hosts = ("n1", "localhost", _GONE)
        record = record_in(State.RUNNING, job_id="7.s", uid=_ALICE, plan=_PLAN, hosts=hosts, **facts)
        record.boot_id, record.node, record.incarnation = node.boot, node.owner, incarnation or record.incarnation
        record.container_name, record.cgroup = f"c-{record.incarnation}", record.name
        node.jobs.create(record)
        return record


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """The sister listens; the mother superior is who is asked."""
    pair = Pair(tmp_path)
    with _listening(pair.sister):
        yield pair


def _why(node: FakeNode, uid: int = _ALICE, **fields: Any) -> dict[str, Any]:
    (answer,) = ask(node, uid, wire.Message("why", job="7.s", **fields))
    assert answer.op == "why", answer.text("sentence")
    told: dict[str, Any] = json.loads(answer.text("json"))
    return told


def _asked(pair: Pair, **fields: Any) -> dict[str, Any]:
    request = Request(op="why", job="7.s", sender="n1", to="localhost", at=0.0, fields=fields)
    return neighbours.why(pair.sister, request)


@pytest.mark.parametrize("uid", [_ALICE, 0])
def test_every_node_with_fakes(pair: Pair, uid: int) -> None:
    """The asked one first, each with its limits and use; a silent one with a sentence."""
    pair.sister.fake_cgroups.used = Usage(memory_peak_bytes=3 * MIB, limit_hit=False)
    rows = _why(pair.mother, uid)["nodes"]

    assert [(row["node"], row["state"]) for row in rows] == [
        ("n1", "running"),
        ("localhost", "running"),
        (_GONE, "no-answer"),
    ]
    assert rows[1]["used"]["memory_peak_bytes"] == 3 * MIB
    assert rows[1]["limits"]["pids"] == _PLAN.limits.pids
    assert rows[1]["cause"]["code"] == "running"
    assert _GONE in rows[2]["problem"]
    assert set(rows[0]) == set(rows[1])


def test_a_job_with_fakes_that_is_over_on_every_node(pair: Pair) -> None:
    """By what each remembers; the cause is the sister's, by its name."""
    pair.sister.fake_cgroups.used = Usage(memory_peak_bytes=3 * MIB, oom_at="job", oom_kills=1)
    pair.there.note(usage=pair.sister.fake_cgroups.used)
    assert release(pair.sister, pair.there, why="epilogue")
    pair.here.exit = Exit(code=1, at=5.0)
    pair.here.note(exit_status=1)
    pair.here.advance(State.ENDED)
    assert release(pair.mother, pair.here, why="epilogue")
    told = _why(pair.mother)

    assert [row["state"] for row in told["nodes"]] == ["over", "over", "no-answer"]
    assert told["nodes"][0]["cause"]["code"] == "exit-status"
    assert told["cause"]["code"] == "out-of-memory"
    assert told["cause"]["sentence"].startswith("on localhost: a process was killed at the job's memory limit")


def test_a_sister_with_fakes_that_knows_nothing_of_it(pair: Pair) -> None:
    """Another incarnation is another run of the job."""
    pair.there.incarnation = "other"
    row = _why(pair.mother)["nodes"][1]

    assert (row["state"], row["node"]) == ("none", "localhost")
    assert row["problem"].startswith("localhost knows nothing of this job")


def test_nobody_elses_with_fakes(pair: Pair) -> None:
    """Neither by asking here, nor there in another's name, nor without one."""
    (answer,) = ask(pair.mother, _BOB, wire.Message("why", job="7.s"))
    incarnation = pair.there.incarnation

    assert answer.text("code") == "no-such-job"
    assert _asked(pair, incarnation=incarnation, uid=_ALICE)["state"] == "running"
    for fields in ({"uid": _BOB}, {"uid": 0}, {"uid": True}, {"uid": None}, {}):
        assert _asked(pair, incarnation=incarnation, **fields) == {"node": "localhost", "state": "none"}
    assert _asked(pair, uid=_ALICE)["state"] == "none"


def test_what_a_node_with_fakes_tells_is_short_and_without_its_secrets(pair: Pair) -> None:
    """Neither the directive nor what the mother superior could not know to be secret."""
    secrets.add("test", "hush-hush")
    pair.there.exit = Exit(code=1, at=5.0, sentences=("hush-hush", *("x" * 9000,) * 9))
    try:
        told = _asked(pair, incarnation=pair.there.incarnation, uid=_ALICE)
    finally:
        secrets.forget("test")

    assert "hush-hush" not in json.dumps(told)
    assert len(json.dumps(told)) < 8000
    assert "asked" not in told


def test_one_node_with_fakes_asks_nobody(tmp_path: Path) -> None:
    """Its jobs' nodes are not told at all."""
    node = _node(tmp_path, "n1", 1)
    known(node, State.RUNNING, job_id="7.s", uid=_ALICE, hosts=("n1",))

    assert _why(node)["nodes"] == []


def test_a_flood_with_fakes_reaches_nobody_else(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told serves for a moment; of many jobs, a user's are asked about once a second, root's always."""
    asked: list[str] = []
    monkeypatch.setattr(neighbours, "ask", lambda _node, host, *_, **__: asked.append(host) or {"state": "none"})
    now = 100.0
    pair.mother.looks = Looks(clock=lambda: now)
    for _ in range(5):
        _why(pair.mother, live=1)
    assert len(asked) == 2
    now += 3.0
    _why(pair.mother)
    assert len(asked) == 4

    stories = [story(incarnation=f"{number:x}", hosts=("n1", "n2")) for number in range(30)]
    rows = [other_nodes.rows(pair.mother, each, _ALICE) for each in stories]
    assert [row["state"] for (row,) in rows].count("none") == 7  # and one before
    assert rows[-1][0]["problem"].startswith("n2 was not asked: you ask too often")
    assert {other_nodes.rows(pair.mother, each, 0)[0]["state"] for each in stories} == {"none"}


def test_answers_are_kept_for_a_moment_alone() -> None:
    """What wide jobs' nodes have told would fill the agent's memory."""
    now = 100.0
    looks = Looks(clock=lambda: now)
    for number in range(100):
        looks.rows(story(incarnation=f"{number:x}"), 0, lambda _: [{"node": "n2"}])
    assert len(looks._looks) == 64
    now += 61.0
    looks.rows(story(incarnation="last"), 0, lambda _: [{"node": "n2"}])

    assert list(looks._looks) == ["last"]


def test_the_end_with_fakes_is_not_told_from_before_it(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment after the job has ended, its nodes are asked again."""
    asked: list[str] = []
    monkeypatch.setattr(neighbours, "ask", lambda _node, host, *_, **__: asked.append(host) or {"state": "none"})
    _why(pair.mother)
    pair.here.exit = Exit(code=0, at=5.0)
    pair.here.advance(State.ENDED)
    _why(pair.mother)

    assert len(asked) == 4


def test_many_dead_nodes_with_fakes_are_not_waited_for_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All together have six seconds; the rest is told not to have been asked."""
    now = 0.0

    def silent(_node: Any, host: str, *_: Any, **__: Any) -> Any:
        nonlocal now
        now += 0.25
        raise neighbours.ChannelError("unreachable", f"{host} is silent")

    monkeypatch.setattr(neighbours, "ask", silent)
    node = _node(tmp_path, "n1", 1)
    wide = story(hosts=("n1", *(f"d{number}" for number in range(200))))
    rows = other_nodes.asked(node, wide, lambda: now)

    assert len(rows) == 200
    assert now < 20.0
    assert rows[-1]["problem"].endswith("was not asked: others took 6 s not to answer")


# -- on the screen ----------------------------------------------------------------------------------------------------


def _row(name: str, code: str = "tasks-over", **changes: Any) -> dict[str, Any]:
    row = {
        "node": name,
        "state": "over",
        "outcome": "ran",
        "run_s": 10.0,
        "limits": {"memory_bytes": 200 * MIB, "pids": 100, "cpu_millis": 2000},
        "used": {"memory_peak_bytes": 100 * MIB, "cpu_seconds": 5.0, "pids_peak": 7},
        "cause": {"code": code, "sentence": f"{code} there"},
    }
    return {**row, **changes}


_SILENT = {"node": "n3", "state": "no-answer", "problem": "nobody \033listens"}


def test_few_nodes_have_their_bars() -> None:
    """And why; before the whole job's cause."""
    told = {"nodes": [_row("n1"), _row("n2", "out-of-memory"), _SILENT], "cause": {"sentence": "that"}}
    lines = view.screen(told, nodes.lines(told))

    assert lines[-7:-1] == [
        "nodes     n2: over",
        "            memory   [##########----------]  50 % peak 100 MiB of 200 MiB",
        "            cpu      [#####---------------]  25 % mean 0.50 of 2 CPUs (5.00 s)",
        "            pids     [#-------------------]   7 % peak 7 of 100",
        "            why: out-of-memory there",
        "          n3: no answer: nobody ?listens",
    ]
    assert lines[-1] == "why       that"


def test_of_many_nodes_only_those_with_trouble_have() -> None:
    """The rest has a line each, as far as a screen goes."""
    told = {"nodes": [_row("n1"), *(_row(f"w{number}") for number in range(60)), _row("bad", "shm-full"), _SILENT]}
    lines = nodes.lines(told)

    assert lines[0] == "bad: over"
    assert "  why: shm-full there" in lines
    assert lines[5] == "n3: no answer: nobody ?listens"
    assert lines[6] == "w0: over  memory 100 MiB of 200 MiB  cpu 0.50 of 2  pids 7 of 100"
    assert len(lines) == 6 + 32 + 1
    assert lines[-1] == "… and 28 nodes more; --json has all"


def test_one_node_has_no_such_lines() -> None:
    """Nor has what an older agent tells."""
    assert nodes.lines({}) == nodes.lines({"nodes": []}) == nodes.live({}) == []


def test_watching_shows_every_node() -> None:
    """A line each below the asked one's own."""
    now = {"memory_bytes": MIB, "pids": 3}
    running = _row("n2", "running", state="running", outcome="", now=now)
    told: list[dict[str, Any]] = [
        {"state": "running", "told_at": 1.0, "now": now, "limits": {}, "nodes": [_row("n1"), running]},
        {"state": "over"},
        {"state": "over"},
    ]
    out = io.StringIO()
    command.follow(lambda _live: told.pop(0), as_json=False, out=out, pause=lambda _s: None)

    assert out.getvalue().splitlines()[1] == "n2: running  memory 1 MiB of 200 MiB  cpu 0.50 of 2  pids 3 of 100"
