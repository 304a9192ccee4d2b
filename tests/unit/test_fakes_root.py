"""What root's hooks and the admin's command ask of a node of fakes; the requests come over a real socket."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent.channel import ClientGone
from pbsdock.agent.requests import root
from pbsdock.agent.runs import JobRun
from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Bound, Exit, Usage, uptime
from pbsdock.core.plan import Stage
from pbsdock.core.record import Record, State
from pbsdock.engine.base import ContainerState
from pbsdock.protocol import wire
from tests.unit.fakes import AWAY, FakeNode, ask, fake_node, known, session_of
from tests.unit.test_policy import _plan

_PLAN = _plan("alpine:3")
_SITE = "[s3.ceph]\nendpoint='https://s3.example.org'\nidentity='/etc/x'\nallow=['*']\n"
_ALWAYS = Stage(store="ceph", bucket="b", key="k", path="/home/alice/o", where="job.sh:2:9", always=True)


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return fake_node(tmp_path, _SITE)


def _whole(node: FakeNode, state: State = State.ENDED, **changes: Any) -> Record:
    record = known(node, state, plan=_PLAN, alive_at=uptime(), **changes)
    record.begin(["files", "cgroup", "container"])
    node.engine.add(record.container_name)
    node.mark(record)
    return record


def _release(*more: bytes) -> wire.Message:
    return wire.Message("release", argv=[b"7.s", *more])


def _told(node: FakeNode, event: str) -> dict[str, Any]:
    (fields,) = [fields for name, fields in node.events.told if name == event]
    return fields


# -- release ----------------------------------------------------------------------------------------------------------


def test_an_epilogue_with_fakes_releases_its_job(node: FakeNode) -> None:
    """Every incarnation of it, and no other job; the end is told once each."""
    _whole(node)
    _whole(node, State.READY)
    other = _whole(node, State.RUNNING, job_id="8.s")
    (answer,) = ask(node, 0, _release())

    assert (answer.op, answer.number("clean")) == ("released", 1)
    assert node.jobs.records() == [other]
    assert node.events.names().count("job.finished") == 2


def test_an_epilogue_with_fakes_tells_what_was_used(node: FakeNode) -> None:
    """With the exit status mom has told, and the outcome."""
    record = _whole(node, started_at=100.0, usage=Usage(memory_peak_bytes=7, cpu_seconds=1.5))
    record.exit = Exit(code=3, oom=True, at=101.5)
    argv = [b"7.s", b"u", b"g", b"name", b"1", b"neednodes=1", b"cput=1", b"batch", b"", b"3"]
    ask(node, 0, wire.Message("release", argv=argv))
    told = _told(node, "job.finished")

    assert (told["exit_status"], told["code"], told["oom"], told["outcome"]) == (3, 3, True, "ran")
    assert (told["memory_peak_bytes"], told["cpu_seconds"], told["run_s"]) == (7, 1.5, 1.5)


def test_an_epilogue_with_fakes_whose_arguments_make_no_sense_releases_all_the_same(node: FakeNode) -> None:
    """Only the job's id is needed."""
    _whole(node)

    assert ask(node, 0, _release(b"?"))[0].op == "released"
    assert _told(node, "job.finished")["exit_status"] is None
    assert node.jobs.records() == []


@pytest.mark.parametrize("state", [State.READY, State.RUNNING])
def test_an_epilogue_with_fakes_waits_for_what_may_run(node: FakeNode, state: State) -> None:
    """A failed release is told, and left to the reaper."""
    record = _whole(node, state)
    node.engine.fails["remove"] = AWAY
    (answer,) = ask(node, 0, _release())

    assert answer.number("clean") == 0
    assert _told(node, "job.fault")["code"] == "release-failed"
    assert node.jobs.records() == [record]


def test_an_epilogue_with_fakes_of_a_job_that_is_over_is_answered_at_once(node: FakeNode) -> None:
    """Mom need not wait while the engine tidies up."""
    _whole(node)
    node.engine.fails["remove"] = AWAY

    assert ask(node, 0, _release())[0].number("clean") == 1


def test_an_epilogue_with_fakes_waits_for_credentials_to_be_revoked(node: FakeNode) -> None:
    """A job's keys must not outlive it, though its container is over."""
    record = _whole(node)
    record.begin(["credentials"])
    node.stores.fails["revoke"] = NodeFault("credentials-stay", "the gateway is away")

    assert ask(node, 0, _release())[0].number("clean") == 0


def test_an_epilogue_with_fakes_tells_what_no_hook_has_heard(node: FakeNode) -> None:
    """As a notice, for mom's own log or the job's output."""
    _whole(node, untold=("the engine says: no",))
    with session_of(node, 0) as session:
        notices: list[str] = []
        session.notify = notices.append  # type: ignore[method-assign]
        ask(node, 0, _release(), session=session)

    assert notices == ["the engine says: no"]


def test_an_epilogue_with_fakes_ends_a_killed_job_that_stages_in_any_case(node: FakeNode) -> None:
    """Its container is over first; a stage-out is what it wants then."""
    home = Bound(source="/home/alice", target="/home/alice", read_only=False, device=1, inode=1)
    record = _whole(node, State.RUNNING, bound=(home,))
    record.plan = replace(_PLAN, stage_out=(_ALWAYS,))
    running = JobRun(record)
    node.jobs.add(running)
    node.engine.containers[f"id-{record.container_name}"].state = ContainerState(exit_code=137)
    ask(node, 0, _release())

    assert node.fake_cgroups.calls[0] == "kill"
    assert running.ended is not None
    assert running.ended.number("code") == 137
    assert running.ended.text("sentence").startswith("staged out 1 file")
    assert node.jobs.records() == []


# -- prepare ----------------------------------------------------------------------------------------------------------


def test_a_prologue_with_fakes_that_is_gone_leaves_nothing_prepared(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its epilogue may be over: nobody else would release this."""
    record = _whole(node, State.READY)
    monkeypatch.setattr(root.prepare, "from_prologue", lambda *_: record)
    with session_of(node, 0) as session:
        session.client.close()
        with pytest.raises(ClientGone):
            root.RootRequests(session).prepare(wire.Message("prepare", argv=b"7.s"))

    assert node.jobs.records() == []
    assert node.engine.containers == {}


def test_a_prologue_with_fakes_that_names_no_job_is_ended(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the same on every node; a plain job is none of ours."""
    monkeypatch.setattr(node.rm, "script_named", lambda argv, _env: argv[0])
    monkeypatch.setattr(root.script, "has_directive", lambda _rm, path: path == "?")
    (aborted,) = ask(node, 0, wire.Message("prepare", argv=b"?"))
    (plain,) = ask(node, 0, wire.Message("prepare", argv=b"!"))

    assert (aborted.op, plain.op, plain.text("state")) == ("aborted", "prepared", "none")
    assert _told(node, "job.refused")["code"] == "bad-arguments"


# -- sweep, reap, list ------------------------------------------------------------------------------------------------


def test_a_sweep_with_fakes_releases_older_incarnations(node: FakeNode) -> None:
    """Of this job only."""
    _whole(node, State.RUNNING)
    _whole(node, State.ENDED)
    other = _whole(node, State.RUNNING, job_id="8.s")
    (answer,) = ask(node, 0, wire.Message("sweep", argv=b"7.s"))

    assert answer.number("count") == 2
    assert node.jobs.records() == [other]


@pytest.mark.parametrize(("dry_run", "left"), [(1, 1), (0, 0)])
def test_a_reap_with_fakes_answers_what_it_found(node: FakeNode, dry_run: int, left: int) -> None:
    """And does it, unless it is to be dry."""
    known(node, State.RUNNING, plan=_PLAN, alive_at=uptime() - 1000.0)
    (answer,) = ask(node, 0, wire.Message("reap", dry_run=dry_run))
    found = json.loads(answer.text("json"))

    assert [finding["why"] for finding in found["findings"]] == ["job-gone"]
    assert (found["reaped"], len(node.jobs.records())) == (1 - left, left)


def test_a_list_with_fakes_has_every_job_and_problem(node: FakeNode) -> None:
    """As ``pbsdock ps`` shows them."""
    _whole(node, State.RUNNING)
    known(node, State.REFUSED, job_id="8.s")
    (node.paths.state_dir / "jobs/x.json").write_text("{")
    (answer,) = ask(node, 0, wire.Message("list"))
    told = json.loads(answer.text("json"))

    assert {row["job"]: (row["state"], row["image"]) for row in told["jobs"]} == {
        "7.s": ("running", "docker.io/library/alpine:3"),
        "8.s": ("refused", None),
    }
    assert told["problems"] == ["x.json appeared from elsewhere"]


@pytest.mark.parametrize("op", ["release", "sweep"])
def test_a_request_with_fakes_without_a_job_is_refused(node: FakeNode, op: str) -> None:
    """Told, not hung up on."""
    record = _whole(node)
    (answer,) = ask(node, 0, wire.Message(op, argv=b"no job/../id"))

    assert (answer.op, answer.text("code")) == ("refused", "bad-request")
    assert node.jobs.records() == [record]


def test_a_busy_job_with_fakes_is_told(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another hook is at work on it."""
    began = time.monotonic()
    lock = node.job_lock
    monkeypatch.setattr(node, "job_lock", lambda job_id, _wait: lock(job_id, 0.05))
    with lock("7.s", 1.0):
        (answer,) = ask(node, 0, wire.Message("sweep", argv=b"7.s"))

    assert (answer.op, answer.text("code")) == ("fault", "job-busy")
    assert time.monotonic() - began < 5
