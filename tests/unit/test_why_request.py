"""Who is told what of a job: its owner and root, by a real socket; nobody else learns that it exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent import blame
from pbsdock.agent.requests.root import RootRequests
from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Usage
from pbsdock.core.record import State
from pbsdock.protocol import wire
from tests.unit.fakes import FakeNode, ask, fake_node, known, session_of
from tests.unit.stories import story

_ALICE, _BOB = 2001, 2002


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    """With nothing in it."""
    return fake_node(tmp_path)


def _why(node: FakeNode, uid: int, job: str = "7.vm", **fields: Any) -> dict[str, Any]:
    (answer,) = ask(node, uid, wire.Message("why", job=job, **fields))
    assert answer.op == "why", answer.text("sentence")
    told: dict[str, Any] = json.loads(answer.text("json"))
    return told


def _refused(node: FakeNode, uid: int, job: str = "7.vm") -> tuple[str, str]:
    (answer,) = ask(node, uid, wire.Message("why", job=job))
    assert answer.op == "refused"
    return answer.text("code"), answer.text("sentence")


@pytest.mark.parametrize("uid", [_ALICE, 0])
@pytest.mark.parametrize("job", ["7.vm", "7"])
def test_owner_and_root_are_told(node: FakeNode, uid: int, job: str) -> None:
    """Of a job that is here, by its id or its number."""
    known(node, State.ENDED, job_id="7.vm", uid=_ALICE, started_at=1.0)

    assert _why(node, uid, job)["job"] == "7.vm"


@pytest.mark.parametrize("is_here", [True, False])
def test_anothers_job_is_one_that_is_not_there(node: FakeNode, is_here: bool) -> None:
    """The very same words, while it is here and when it is over."""
    if is_here:
        known(node, State.RUNNING, job_id="7.vm", uid=_ALICE)
    else:
        node.history.keep(story(uid=_ALICE))
    code, sentence = _refused(node, _BOB)

    assert (code, sentence.replace("7.vm", "8.vm")) == _refused(node, _BOB, "8.vm")
    assert sentence == (
        f"{node.name} knows no job 7.vm of yours: ask on the node where it ran, of a job that had a #DOCKER line,"
        " within 14 days"
    )


def test_what_is_no_job(node: FakeNode) -> None:
    """Neither a path nor a pattern."""
    assert _refused(node, _ALICE, "../7")[0] == "bad-job-id"
    assert _refused(node, 0, "8.vm")[1].startswith(f"{node.name} knows no job 8.vm: ask on the node")


def test_a_job_that_runs(node: FakeNode) -> None:
    """With what it has used, and has now, as the kernel says at that moment."""
    node.fake_cgroups.used = Usage(memory_peak_bytes=5, cpu_seconds=0.5)
    node.fake_cgroups.members = [11, 12]
    known(node, State.RUNNING, job_id="7.vm", uid=_ALICE, started_at=1.0)
    told = _why(node, _ALICE)

    assert (told["state"], told["cause"]["code"]) == ("running", "running")
    assert told["used"]["memory_peak_bytes"] == 5
    assert told["now"] == {"memory_bytes": 1 << 20, "pids": 2, "shm_bytes": None}


def test_a_cgroup_that_cannot_be_read(node: FakeNode) -> None:
    """Then that is left out."""
    node.fake_cgroups.fails["level"] = NodeFault("cgroup-gone", "it is gone")
    known(node, State.RUNNING, job_id="7.vm", uid=_ALICE, started_at=1.0)

    assert _why(node, _ALICE)["now"] is None


def test_a_job_that_was_queued_again(node: FakeNode) -> None:
    """The newest incarnation whole, those before it in short; live, only what is here."""
    node.history.keep(story(3, uid=_ALICE, incarnation="00000001aa"))
    known(node, State.READY, job_id="7.vm", uid=_ALICE)
    told = _why(node, _ALICE)

    assert told["state"] == "ready"
    assert [(each["incarnation"], each["outcome"], each["cause"]["code"]) for each in told["earlier"]] == [
        ("00000001aa", "ran", "exit-status")
    ]
    assert _why(node, _ALICE, live=1)["earlier"] == []


def test_live_of_a_job_that_is_over(node: FakeNode) -> None:
    """It is told once more, from what is remembered."""
    node.history.keep(story(0, uid=_ALICE))

    assert _why(node, _ALICE, live=1)["cause"]["code"] == "well"


def test_whoever_asks_in_a_loop_is_refused(node: FakeNode) -> None:
    """Others are not, and root never."""
    node.history.keep(story(0, uid=_ALICE))
    with session_of(node, _ALICE) as session:
        answers = [ask(node, _ALICE, wire.Message("why", job="7.vm"), session=session)[0] for _ in range(60)]
    assert [answer.text("code") for answer in answers if answer.op == "refused"][-1] == "too-often"

    assert _refused(node, _BOB)[0] == "no-such-job"
    with session_of(node, 0) as session:
        answers = [ask(node, 0, wire.Message("why", job="7.vm"), session=session)[0] for _ in range(60)]
    assert {answer.op for answer in answers} == {"why"}


def test_a_prologue_that_made_no_record_is_remembered(node: FakeNode) -> None:
    """The node's fault, told once for one that is tried again at once; the job's owner has its script."""
    script = node.paths.mom_priv / "jobs/7.vm.SC"
    script.write_text("#!/bin/sh\n")
    argv = ["7.vm", "nobody-here", "g", "x", "nodes=1", "batch", "", str(script)]
    for _ in range(2):
        with pytest.raises(NodeFault):
            blame.failed(node, argv, {}, NodeFault("unknown-user", "user 'nobody-here' is not known here"))
    told = _why(node, 0)

    assert (told["outcome"], told["cause"]["code"], told["uid"]) == (
        "queued again",
        "unknown-user",
        script.stat().st_uid,
    )
    assert told["earlier"] == []


def test_the_managers_exit_status_is_remembered(node: FakeNode) -> None:
    """It comes with the epilogue's arguments."""
    known(node, State.ENDED, job_id="7.vm", uid=_ALICE, started_at=1.0)
    argv = ["7.vm", "u", "g", "x", "123", "nodes=1", "", "batch", "", "271", "/x"]
    with session_of(node, 0) as session:
        RootRequests(session).release(wire.Message("release", argv=[word.encode() for word in argv]))

    assert _why(node, _ALICE)["exit_status"] == 271
