"""What a node of fakes tells other nodes of its jobs, and how a job looks on all of them; the channel is real."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pbsdock.admin.nodes import show
from pbsdock.agent import neighbours
from pbsdock.cluster.channel import ChannelError, Request
from pbsdock.cluster.listener import Listener
from pbsdock.cluster.signing import KeySigner
from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Exit, Usage, uptime
from pbsdock.core.record import Record, Refused, State
from pbsdock.host.cgroup import managers
from pbsdock.protocol import wire
from pbsdock.rm.slurm import Slurm
from tests.support.ports import free_port
from tests.unit.fakes import FakeNode, ask, fake_node, known
from tests.unit.test_policy import _plan

_PLAN = _plan("alpine:3")
_KEY = KeySigner(b"k" * 32)
GONE = "no-such-host.invalid"


def _node(directory: Path, name: str, port: int = 15010) -> FakeNode:
    node = fake_node(directory, f"[nodes]\nport = {port}\n")
    node.name, node._signer = name, _KEY
    return node


def _known(node: FakeNode, state: State = State.RUNNING, **facts: Any) -> Record:
    return known(node, state, plan=_PLAN, alive_at=uptime(), **facts)


def _asked(op: str, job: str = "7.s") -> Request:
    return Request(op=op, job=job, sender="n9", to="n1", at=0.0)


@contextmanager
def _listening(node: FakeNode) -> Iterator[int]:
    listener = Listener(_KEY, 0, node.name, neighbours.handlers(node), node.emit)
    listener.start()
    try:
        yield listener.port
    finally:
        listener.stop()


# -- what others ask --------------------------------------------------------------------------------------------------


def test_a_node_with_fakes_tells_what_it_knows_of_a_job(tmp_path: Path) -> None:
    """State, image, tasks and use; nothing of credentials."""
    node = _node(tmp_path, "n1")
    record = _known(node, hosts=("n1", "n2"), job_file="7.s.JB")
    told = neighbours.job(node, _asked("job"))

    assert json.loads(json.dumps(told)) == told
    assert (told["node"], told["state"], told["alive"]) == ("n1", "running", True)
    assert (told["incarnation"], told["image"]) == (record.incarnation, _PLAN.image)
    assert (told["hosts"], told["tasks"], told["exit"]) == (["n1", "n2"], 0, None)
    assert set(told["usage"]) == set(Usage.__dataclass_fields__)


def test_a_node_with_fakes_tells_of_the_end(tmp_path: Path) -> None:
    """What was used, and the exit status, once the container is over."""
    node = _node(tmp_path, "n1")
    record = _known(node, State.ENDED, usage=Usage(memory_peak_bytes=7))
    record.exit = Exit(code=3)
    told = neighbours.job(node, _asked("job"))

    assert (told["state"], told["exit"], told["usage"]["memory_peak_bytes"]) == ("ended", 3, 7)


def test_a_node_with_fakes_tells_what_the_managers_cgroup_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the job's processes were moved to, as its own row does."""
    node = _node(tmp_path, "n1")
    _known(node, counted_in="slurm_n1/uid_5/job_7/step_0/task_0")
    path_of = {"slurm_n1/uid_5/job_7/step_0/task_0": 9}
    monkeypatch.setattr(managers, "counted", lambda own, path: replace(own, memory_peak_bytes=path_of[path]))
    monkeypatch.setattr(managers, "level", lambda own, path: replace(own, memory_bytes=path_of[path]))
    told = neighbours.job(node, _asked("job"))

    assert (told["usage"]["memory_peak_bytes"], told["memory_bytes"]) == (9, 9)


@pytest.mark.parametrize(
    ("state", "alive_at", "file", "alive"),
    [
        (State.RUNNING, -1000.0, True, True),
        (State.RUNNING, -1000.0, False, False),
        (State.PREPARING, 0.0, False, True),
        (State.RELEASING, 0.0, True, False),
        (State.ENDED, -30.0, False, False),
        (None, 0.0, True, True),
        (None, 0.0, False, False),
    ],
)
def test_a_second_witness_with_fakes(
    tmp_path: Path, state: State | None, alive_at: float, file: bool, alive: bool
) -> None:
    """Whether a job lives here: its file, its record's state and age; also of a job without a container."""
    node = _node(tmp_path, "n1")
    if file:
        job_file = "<job><attributes><Job_Owner>u@h</Job_Owner><euser>u</euser></attributes><jobid>7.s</jobid></job>"
        (node.paths.mom_priv / "jobs/7.s.JB").write_text(job_file)
    if state is not None:
        known(node, state, plan=_PLAN, job_file="7.s.JB", alive_at=uptime() + alive_at)
    if state is None and file:
        node.rm.is_live = lambda job: job == "7.s"  # type: ignore[method-assign]  # mom's own files are in test_torque

    assert neighbours.job(node, _asked("job"))["alive"] is alive


def test_a_blind_witness_with_fakes_says_nothing(tmp_path: Path) -> None:
    """None, not False: nobody may take a job for dead because of it."""
    node = _node(tmp_path, "n1")
    known(node, State.RUNNING, plan=_PLAN, job_file="7.s.JB", alive_at=0.0)
    (node.paths.mom_priv / "jobs").rmdir()

    assert neighbours.job(node, _asked("job"))["alive"] is None
    assert neighbours.job(node, _asked("job", "8.s"))["alive"] is None
    assert neighbours.job(node, _asked("job", "../x"))["alive"] is None


@pytest.mark.parametrize(
    ("script", "bare"), [(None, True), ("#!/bin/sh\ntrue\n", True), ("#!/bin/sh\n#DOCKER alpine:3\n", False)]
)
def test_a_slurm_job_with_fakes_is_bare_unless_its_script_says_otherwise(
    tmp_path: Path, script: str | None, bare: bool
) -> None:
    """Also where it has no step on its first host at the moment, such as an allocation without a script."""
    node = _node(tmp_path, "n1")
    spool, told = tmp_path / "spool", tmp_path / "told"
    (spool / "job00007").mkdir(parents=True)
    told.mkdir()
    (told / "7").write_text("uid=5\nuser=alice\nnode=n1\nnodes=n[1-2]\ncpus=1(x2)\n")
    if script is not None:
        (spool / "job00007/slurm_script").write_text(script)
    node.rm = Slurm(spool, told, tmp_path / "slurm.conf", owner=os.getuid())

    assert neighbours.ticket(node, _asked("ticket", "7")) == {"ticket": "", "state": "unknown", "bare": bare}


def test_a_ticket_with_fakes(tmp_path: Path) -> None:
    """With its record's state; of a refused job its sentence; of none that it is not known."""
    node = _node(tmp_path, "n1")
    assert neighbours.ticket(node, _asked("ticket")) == {"ticket": "", "state": "unknown", "bare": False}
    record = _known(node, State.PREPARING)
    assert neighbours.ticket(node, _asked("ticket"))["state"] == "preparing"
    record.note(ticket="k1.x.y")
    record.advance(State.READY)
    told = neighbours.ticket(node, _asked("ticket"))
    assert told == {"ticket": "k1.x.y", "state": "ready", "incarnation": record.incarnation}
    record.advance(State.REFUSED)
    record.refusal = Refused.of(Refusal("no", "it is not to be"))
    assert neighbours.ticket(node, _asked("ticket"))["sentence"] == "it is not to be"


# -- all nodes of a job -----------------------------------------------------------------------------------------------


def test_all_nodes_of_a_job_with_fakes(tmp_path: Path) -> None:
    """This one first, under whatever domain; each other as it answers; a silent one as such."""
    sister = _node(tmp_path / "b", "localhost")
    _known(sister, State.READY)
    with _listening(sister) as port:
        mother = _node(tmp_path / "a", "n1", port)
        record = _known(mother, hosts=("n1.example.org", "localhost", GONE))
        rows = neighbours.rows(mother, record)
        (answer,) = ask(mother, 0, wire.Message("nodes", job="7"))

    assert [(row["node"], row["state"]) for row in rows] == [
        ("n1", "running"),
        ("localhost", "ready"),
        (GONE, "no-answer"),
    ]
    assert GONE in rows[2]["problem"]
    told = json.loads(answer.text("json"))
    assert (told["job"], [row["node"] for row in told["nodes"]]) == ("7.s", ["n1", "localhost", GONE])
    assert sister.events.told == []


def test_this_node_by_an_alias_with_fakes_is_shown_once(tmp_path: Path) -> None:
    """The resource manager may have another name for it."""
    node = _node(tmp_path, "n1")
    with _listening(node) as port:
        node.config = _node(tmp_path / "b", "n1", port).config
        rows = neighbours.rows(node, _known(node, hosts=("localhost",)))

    assert [row["node"] for row in rows] == ["n1"]


def test_a_site_without_signatures_with_fakes(tmp_path: Path) -> None:
    """Each reason has its sentence; nothing waits."""
    node = _node(tmp_path, "n1")
    node._signer, node._signer_at = None, float("inf")
    with pytest.raises(ChannelError, match="neither munge nor a key"):
        neighbours.ask(node, "n2", "job", "7.s")
    off = _node(tmp_path / "b", "n1", 0)
    with pytest.raises(ChannelError, match=r"nodes\.port is 0"):
        neighbours.ask(off, "n2", "job", "7.s")
    (row,) = neighbours.rows(off, _known(off, hosts=("n1", "n2")))[1:]
    assert (row["state"], row["code"]) == ("no-answer", "no-channel")


def test_a_job_with_fakes_that_is_not_here(tmp_path: Path) -> None:
    """A sentence; and the request is root's."""
    node = _node(tmp_path, "n1")
    (answer,) = ask(node, 0, wire.Message("nodes", job="7"))
    (refused,) = ask(node, 1000, wire.Message("nodes", job="7"))

    assert (answer.text("code"), refused.text("code")) == ("no-such-job", "root-only")


# -- listening --------------------------------------------------------------------------------------------------------


def test_a_port_with_fakes_that_is_taken_is_told_once_and_tried_again(tmp_path: Path) -> None:
    """The node stays in service."""
    other = Listener(_KEY, 0, "n1", {}, lambda *_, **__: None)
    node = _node(tmp_path, "n1", other.port)
    opening = neighbours._Opening(node)
    assert not opening.succeeds()
    assert not opening.succeeds()
    other.start()
    other.stop()
    assert opening.succeeds()

    assert [event for event, _ in node.events.told] == ["channel.failed", "channel.listening"]
    assert node.events.told[0][1]["reason"].startswith("Address already in use")
    assert node.events.told[1][1] == {"port": other.port, "signer": "key"}
    assert not node.paths.unhealthy.exists()


def test_a_key_with_fakes_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """Which one, and why; nobody is listened to."""
    node = fake_node(tmp_path, f"[nodes]\nport = {free_port()}\nsign_with = 'key'\n")
    assert not neighbours._Opening(node).succeeds()

    assert "cluster.key does not exist" in node.events.told[0][1]["reason"]


# -- pbsdock ps --job -------------------------------------------------------------------------------------------------


def test_the_table_of_a_jobs_nodes() -> None:
    """A row each, silent ones with their sentence, exit 1 if there is one."""
    row = {
        "node": "n1",
        "state": "running",
        "tasks": 3,
        "memory_bytes": 1 << 20,
        "memory_limit_bytes": 1 << 30,
        "usage": {"cpu_seconds": 1.25, "memory_peak_bytes": 1 << 29},
        "since": 0.0,
        "image": "alpine:3",
    }
    over = {**row, "node": "n2", "memory_bytes": None, "memory_limit_bytes": None}
    silent = {"node": "n3", "state": "no-answer", "code": "unreachable", "problem": "nobody listens"}
    out = io.StringIO()

    assert show({"job": "7.s", "nodes": [row]}, as_json=False, out=out) == 0
    assert show({"job": "7.s", "nodes": [row, over, silent]}, as_json=False, out=out) == 1
    lines = out.getvalue().splitlines()
    assert lines[1].split()[:9] == ["n1", "running", "3", "1", "MiB", "of", "1", "GiB", "1.2"]
    assert lines[1].endswith("alpine:3")
    assert "512 MiB" in lines[4]
    assert lines[5].split() == ["n3", "no-answer", "-", "-", "-", "-", "-"]
    assert lines[6] == "n3: nobody listens"
    assert show({"job": "7.s", "nodes": [silent]}, as_json=True, out=(told := io.StringIO())) == 1
    assert json.loads(told.getvalue())["nodes"] == [silent]
