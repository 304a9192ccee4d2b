"""A job's end on a node of fakes: who is told, in which order, and what is torn down."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent import finish as finish_module
from pbsdock.agent import stage
from pbsdock.agent.finish import finish
from pbsdock.agent.runs import JobRun
from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Bound, Exit, Usage
from pbsdock.core.plan import Stage
from pbsdock.core.record import State
from pbsdock.engine.base import ContainerState
from tests.conftest import wait_until
from tests.unit.fakes import FakeNode, fake_node, known
from tests.unit.test_policy import _plan

_OUT = Stage(store="ceph", bucket="b", key="k", path="/home/alice/o", where="job.sh:2:9")
_IN = replace(_OUT, key="in")
_PLAN = _plan("alpine:3")
_SITE = "[s3.ceph]\nendpoint='https://s3.example.org'\nidentity='/etc/x'\nallow=['*']\n"
_HOME = Bound(source="/home/alice", target="/home/alice", read_only=False, device=1, inode=1)


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return fake_node(tmp_path, _SITE)


def _job(node: FakeNode, state: ContainerState, **plan: Any) -> JobRun:
    """A job that runs, and the container it has."""
    record = known(node, State.RUNNING, plan=replace(_PLAN, **plan), bound=(_HOME,))
    record.begin(["files", "cgroup", "container", *(["staging"] if plan else [])])
    node.engine.add(record.container_name).state = state
    running = JobRun(record)
    node.jobs.add(running)
    return running


def test_an_end_with_fakes_is_told_and_torn_down(node: FakeNode) -> None:
    """The status of the job; container and cgroup are gone before mom's epilogue asks."""
    job = _job(node, ContainerState(exit_code=7))
    finish(node, job)

    assert job.ended is not None
    assert job.ended.number("code") == 7
    assert (job.record.state, job.record.exit and job.record.exit.code) == (State.ENDED, 7)
    assert node.engine.containers == {}
    assert node.events.names() == ["job.ended", "cgroup.removed"]


def test_an_end_with_fakes_is_told_once(node: FakeNode) -> None:
    """However often it is noticed."""
    job = _job(node, ContainerState(exit_code=7))
    finish(node, job)
    ended = job.ended
    finish(node, job)

    assert job.ended is ended
    assert node.events.names().count("job.ended") == 1


def test_a_container_with_fakes_that_runs_has_not_ended(node: FakeNode) -> None:
    """An event of an earlier time, or a look too many."""
    job = _job(node, ContainerState(is_running=True, pid=1))
    finish(node, job)

    assert (job.ended, job.record.state) == (None, State.RUNNING)


def test_a_plain_event_with_fakes_needs_no_question(node: FakeNode) -> None:
    """The engine would answer some milliseconds later."""
    job = _job(node, ContainerState(is_running=True))
    finish(node, job, said=3)

    assert job.ended is not None
    assert job.ended.number("code") == 3
    assert "inspect" not in node.engine.calls


@pytest.mark.parametrize(("said", "hit"), [(137, False), (0, True), (0, None)])
def test_an_event_with_fakes_that_leaves_a_question_is_asked_about(node: FakeNode, said: int, hit: bool | None) -> None:
    """A signal, or a limit that was or may have been reached."""
    node.fake_cgroups.used = Usage(limit_hit=hit)
    finish(node, _job(node, ContainerState(exit_code=said, out_of_memory=True)), said=said)

    assert "inspect" in node.engine.calls
    assert "container.oom" in node.events.names()


def test_a_removed_container_with_fakes_is_told(node: FakeNode) -> None:
    """By somebody else's hand, while the job ran."""
    job = _job(node, ContainerState())
    node.engine.containers.clear()
    finish(node, job)

    assert job.ended is not None
    assert job.ended.number("code") == 137
    assert "removed by somebody else" in job.ended.text("sentence")


def test_an_end_with_fakes_that_no_hook_hears_is_kept(node: FakeNode) -> None:
    """For the epilogue to tell."""
    job = _job(node, ContainerState(exit_code=1, error="no such thing"))
    finish(node, job)

    assert job.record.facts.untold == ("the engine says: no such thing",)


def test_a_full_disk_with_fakes_does_not_keep_a_job_from_its_end(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told all the same; the next agent asks the engine again."""
    job = _job(node, ContainerState(exit_code=0))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(node.jobs, "save", full)
    finish(node, job)

    assert job.ended is not None
    assert job.record.state is State.ENDED
    assert node.events.names()[0] == "agent.error"


# -- results ----------------------------------------------------------------------------------------------------------


def _staged(node: FakeNode, job: JobRun) -> None:
    finish(node, job)
    wait_until("it is torn down", lambda: job.record.is_gone("files"))


def test_results_with_fakes_are_staged_out_before_the_hook_is_told(node: FakeNode) -> None:
    """The sentence comes with the status."""
    job = _job(node, ContainerState(exit_code=0), stage_out=(_OUT,))
    _staged(node, job)

    assert job.ended is not None
    assert job.ended.number("code") == 0
    assert "staged out 1 file, " in job.ended.text("sentence")
    assert (job.record.state, job.record.facts.staged_out) == (State.ENDED, "done")


@pytest.mark.parametrize(("code", "becomes"), [(0, 74), (7, 7)])
def test_a_failed_stage_out_with_fakes_is_no_success(node: FakeNode, code: int, becomes: int) -> None:
    """A status of the job's own stands."""
    node.spawner.told = [{"failed": {"code": "no", "sentence": "the store is away", "where": "job.sh:2:9"}}]
    job = _job(node, ContainerState(exit_code=code), stage_out=(replace(_OUT, always=True),))
    finish(node, job)
    wait_until("it is told", job.over.is_set)

    assert job.ended is not None
    assert job.ended.number("code") == becomes
    assert "job.sh:2:9: the store is away; " in job.ended.text("sentence")


def test_results_with_fakes_of_a_failed_job_are_left_where_they_are(node: FakeNode) -> None:
    """Unless they are wanted in any case."""
    job = _job(node, ContainerState(exit_code=1), stage_out=(_OUT,))
    finish(node, job)

    assert job.record.state is State.ENDED
    assert node.spawner.calls == []


# -- stage-in, and what interrupts ------------------------------------------------------------------------------------


def _ready(node: FakeNode, **facts: Any) -> Any:
    record = known(node, State.READY, plan=replace(_PLAN, stage_in=(_IN,)), bound=(_HOME,), **facts)
    record.begin(["files", "cgroup", "container", "staging"])
    return record


def test_a_stage_in_with_fakes_is_waited_for(node: FakeNode) -> None:
    """Its user is told once; the next start does not stage again."""
    record = _ready(node)
    (said,) = stage.await_in(node, record, lambda: None)

    assert said.startswith("staged in 1 file")
    assert record.facts.staged_in == "done"
    assert stage.await_in(node, record, lambda: None) == []
    assert node.spawner.calls == ["worker"]


def test_a_stage_in_with_fakes_that_fails_starts_nothing(node: FakeNode) -> None:
    """With the worker's own sentence."""
    node.spawner.told = [{"failed": {"code": "no", "sentence": "the store is away", "where": ""}}]
    with pytest.raises(Refusal, match="the store is away; nothing was started"):
        stage.await_in(node, _ready(node), lambda: None)


def test_a_stage_in_with_fakes_that_slips_lets_go(node: FakeNode) -> None:
    """Whoever waits is told, and so is the admin."""
    node.spawner.fails["worker"] = TypeError("a slip")
    with pytest.raises(Refusal, match="could not be staged in"):
        stage.await_in(node, _ready(node), lambda: None)

    assert "agent.error" in node.events.names()


@pytest.mark.parametrize(("always", "interrupted"), [(False, "SIGTERM"), (True, "")])
def test_a_signal_with_fakes_ends_what_need_not_be(node: FakeNode, always: bool, interrupted: str) -> None:
    """What is to be uploaded in any case still is."""
    record = known(node, State.STAGING, plan=replace(_PLAN, stage_out=(replace(_OUT, always=always),)))
    work = node.jobs.begin_work(record)
    stage.interrupt(node, record, "SIGTERM")

    assert work.interrupted == interrupted


def test_an_undo_with_fakes_removes_what_is_half_done(node: FakeNode) -> None:
    """Both directions in one order, and once."""
    record = _ready(node, staged_in="begun")
    stage.undo(node, record)
    stage.undo(node, record)

    assert record.facts.staged_in == "undone"
    assert node.spawner.calls == ["worker"]


def test_an_upload_with_fakes_is_written_down_as_it_goes(node: FakeNode) -> None:
    """For the agent that comes after one that is killed."""
    upload = {"store": "ceph", "bucket": "b", "key": "k", "id": "u1"}
    node.spawner.told = [{"upload": upload}, {"failed": {"code": "no", "sentence": "killed", "where": ""}}]
    job = _job(node, ContainerState(exit_code=0), stage_out=(_OUT,))
    finish(node, job)
    wait_until("it is told", job.over.is_set)

    assert list(job.record.facts.uploads) == ["ceph:b/k"]


def test_a_settled_job_with_fakes_has_its_last_words_told(node: FakeNode) -> None:
    """Before it is released."""
    record = known(node, State.ENDED, plan=_PLAN, untold=("bye",))
    told: list[str] = []
    stage.settle(node, record, time.monotonic(), lambda _: None, told.append)

    assert told == ["bye"]


def test_a_stage_out_with_fakes_ends_with_the_epilogues_time(node: FakeNode) -> None:
    """It is interrupted with a reason, by a worker's end."""
    record = known(node, State.STAGING, plan=replace(_PLAN, stage_out=(_OUT,)))
    work = node.jobs.begin_work(record)
    worker: Any = SimpleNamespace(kill=work.over.set)
    work.worker = worker
    stage.settle(node, record, time.monotonic(), lambda _: None, lambda _: None)

    assert work.interrupted == "the time mom grants the epilogue is over"


def test_a_conclusion_with_fakes_ends_only_what_stages(node: FakeNode) -> None:
    """A release may have been faster."""
    running = JobRun(known(node, State.RELEASING, plan=_PLAN))
    running.record.exit = Exit(code=0)
    finish_module._conclude(node, running)

    assert (running.ended, running.record.state) == (None, State.RELEASING)
