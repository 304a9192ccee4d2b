"""Release and the reaper on a node of fakes: what they undo, in which order, and what they leave alone."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from pbsdock.agent.reconcile import reconcile
from pbsdock.agent.release import release
from pbsdock.agent.requests.root import RootRequests
from pbsdock.agent.runs import JobRun
from pbsdock.agent.server import _stop
from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Usage, uptime
from pbsdock.core.record import Record, State
from pbsdock.protocol import wire
from tests.unit.fakes import AWAY, FakeNode, fake_node, known, session_of
from tests.unit.test_policy import _plan

_PLAN = _plan("alpine:3")
_STEPS = ["image", "files", "cgroup", "container", "credentials", "staging"]


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return fake_node(tmp_path)


def _whole(node: FakeNode, state: State = State.ENDED, job_id: str = "7.s") -> Record:
    """A record of which everything there can be is there."""
    record = known(node, state, plan=_PLAN, job_id=job_id, alive_at=uptime() - 1000.0, job_file=f"{job_id}.JB")
    record.begin(_STEPS)
    node.engine.add(record.container_name, incarnation=record.incarnation, owner=node.owner, job=job_id)
    node.fake_cgroups.made[record.cgroup] = None
    node.work_dir(record).mkdir()
    (node.work_dir(record) / "script").write_text("x")
    node.mark(record)
    return record


def _left(node: FakeNode) -> dict[str, list[str]]:
    return {
        "containers": [container.name for container in node.engine.containers.values()],
        "cgroups": list(node.fake_cgroups.made),
        "files": os.listdir(node.paths.work),
        "markers": os.listdir(node.paths.markers),
        "records": [record.job_id for record in node.jobs.records()],
    }


def _jobs(node: FakeNode) -> Path:
    return node.paths.mom_priv / "jobs"


_NOTHING: dict[str, list[str]] = {"containers": [], "cgroups": [], "files": [], "markers": [], "records": []}

# -- release ----------------------------------------------------------------------------------------------------------


def test_who_was_killed_for_memory_is_kept_of_a_container_that_still_runs(node: FakeNode) -> None:
    """A fake of cgroup v1, where only the container's own cgroup counts it, and goes with the container's processes."""
    record = _whole(node, State.RUNNING)
    node.fake_cgroups.used = Usage(oom_kills=1, cpu_seconds=1.0)
    kill = node.fake_cgroups.kill

    def kill_all(name: str, deadline_s: float) -> bool:
        node.fake_cgroups.used = Usage(oom_kills=0, cpu_seconds=2.0)
        return kill(name, deadline_s)

    node.fake_cgroups.kill = kill_all  # type: ignore[method-assign]
    assert release(node, record, why="epilogue")

    (story,) = node.history.of(record.job_id, None)
    assert story.used is not None
    assert (story.used.oom_kills, story.used.cpu_seconds) == (1, 2.0)


@pytest.mark.parametrize("state", [state for state in State if state is not State.REFUSED])
def test_a_release_with_fakes_leaves_nothing(node: FakeNode, state: State) -> None:
    """From every state."""
    record = _whole(node, state)

    assert release(node, record, why="epilogue")
    assert _left(node) == _NOTHING
    assert node.stores.calls == ["revoke"]
    assert node.events.names()[0] == "release.begun"
    assert node.events.names()[-1] == "release.done"


def test_a_release_with_fakes_kills_before_it_asks_anybody(node: FakeNode) -> None:
    """The cgroup's processes first, whatever stores and engine do; the cgroup itself after the container."""
    record = _whole(node)
    order: list[str] = []
    node.engine.calls = node.stores.calls = node.fake_cgroups.calls = order
    node.engine.fails["remove"] = AWAY

    assert not release(node, record, why="epilogue")
    assert [call for call in order if call != "usage"] == ["kill", "revoke", "remove", "remove"]


@pytest.mark.parametrize(
    ("edge", "call", "says"),
    [
        ("engine", "remove", "container: "),
        ("fake_cgroups", "remove", "cgroup: "),
        ("stores", "revoke", "credentials: "),
    ],
)
def test_a_release_with_fakes_that_fails_in_one_step_does_the_others(
    node: FakeNode, edge: str, call: str, says: str
) -> None:
    """The record stays, and the next release does what is left."""
    record = _whole(node)
    getattr(node, edge).fails[call] = NodeFault("x", "it stays")
    assert not release(node, record, why="epilogue")
    (failed,) = [fields for event, fields in node.events.told if event == "release.failed"]

    assert failed["reason"] == f"{says}it stays"
    assert node.jobs.records() == [record]
    assert record.state is State.RELEASING
    assert not node.work_dir(record).exists()
    getattr(node, edge).fails.clear()
    assert release(node, record, why="again")
    assert _left(node) == _NOTHING


def test_an_agent_with_fakes_that_is_told_to_stop_first_keeps_what_it_has_promised(node: FakeNode) -> None:
    """Mom was told that the job is released while the engine still removes its container: its end comes before the agent's."""
    record = _whole(node)
    record.set_gone("credentials")
    argv = ["7.s", "u", "g", "x", "123", "nodes=1", "", "batch", "", "0", "/x"]
    told, let_go, stopped = threading.Event(), threading.Event(), threading.Event()
    remove = node.engine.remove

    def slow(name: str) -> bool:
        told.set()
        let_go.wait(10)
        return remove(name)

    node.engine.remove = slow  # type: ignore[method-assign]
    monitoring, service = SimpleNamespace(stop=lambda: None), SimpleNamespace(stopping=lambda: None)
    with session_of(node, 0) as session, mock.patch("os._exit", side_effect=lambda _code: stopped.set()):
        release_it = partial(RootRequests(session).release, wire.Message("release", argv=[w.encode() for w in argv]))
        threads = [threading.Thread(target=release_it)]
        threads[0].start()
        assert told.wait(10)
        assert session.client.recv(4096)  # mom has her answer
        threads.append(threading.Thread(target=_stop, args=(node, service, monitoring)))
        threads[1].start()
        assert not stopped.wait(0.3)
        let_go.set()
        for thread in threads:
            thread.join(10)

    assert stopped.is_set()
    assert node.events.names()[-2:] == ["job.finished", "agent.stopped"]


def test_a_release_with_fakes_does_what_is_done_no_second_time(node: FakeNode) -> None:
    """A step that is known to be gone is not tried."""
    record = _whole(node)
    for step in _STEPS:
        record.set_gone(step)
    node.fake_cgroups.calls.clear()
    release(node, record, why="epilogue")

    assert (node.engine.calls, node.stores.calls, node.fake_cgroups.calls) == ([], [], [])


def test_a_release_with_fakes_asks_no_store_for_a_job_without_one(node: FakeNode) -> None:
    """Nor for a worker."""
    record = _whole(node)
    record.steps = {step: record.steps[step] for step in ("files", "cgroup", "container")}

    assert release(node, record, why="epilogue")
    assert node.stores.calls == []
    assert _left(node) == _NOTHING


def test_a_release_with_fakes_of_a_refused_job_touches_nothing(node: FakeNode) -> None:
    """It has no plan, so nothing was ever made."""
    record = known(node, State.REFUSED, job_id="8.s")
    node.engine.add("other")

    assert release(node, record, why="epilogue")
    assert _left(node)["containers"] == ["other"]
    assert node.jobs.records() == []


def test_a_kept_record_with_fakes_stays_with_its_marker(node: FakeNode) -> None:
    """For the run hook to be told from."""
    record = _whole(node, State.PREPARING)

    assert release(node, record, why="refused", keep=True)
    assert record.state is State.PREPARING
    assert _left(node) == {**_NOTHING, "markers": ["7.s"], "records": ["7.s"]}


def test_the_marker_with_fakes_stays_for_a_newer_incarnation(node: FakeNode) -> None:
    """It has the job's id, and the newer one's hooks look for it."""
    older = _whole(node)
    older.created -= 100.0
    known(node, State.READY, plan=_PLAN)
    release(node, older, why="older-incarnation")

    assert os.listdir(node.paths.markers) == ["7.s"]


def test_a_run_hook_with_fakes_is_let_go_by_a_release(node: FakeNode) -> None:
    """Its container was taken away: it is told, and nothing runs any more."""
    running = JobRun(_whole(node, State.RUNNING))
    node.jobs.add(running)
    release(node, running.record, why="job-gone")

    assert running.ended is not None
    assert running.ended.number("code") == 137
    assert "removed while the job ran (job-gone)" in running.ended.text("sentence")
    assert node.jobs.runs() == []


# -- the reaper -------------------------------------------------------------------------------------------------------


def _strays(node: FakeNode) -> None:
    """One of everything that no record knows of."""
    node.engine.add("stray", owner=node.owner, incarnation="f", boot=node.boot, job="9.s")
    node.fake_cgroups.made["9.s.f"] = None
    (node.paths.work / "9.s.f").mkdir()
    (node.paths.markers / "9.s").touch()
    (node.paths.pins / "10.s.f").mkdir()
    node.stores.handles = [("ceph", "h", "f")]


def test_a_pass_with_fakes_releases_the_dead_and_removes_the_strays(node: FakeNode) -> None:
    """And looks again: the next pass finds nothing."""
    _whole(node)
    _strays(node)
    found = reconcile(node)

    assert (found.reaped, found.left, found.blocked) == (7, 0, "")
    assert _left(node) == _NOTHING
    assert (node.stores.handles, os.listdir(node.paths.pins)) == ([], [])
    assert reconcile(node).findings == []


def test_a_dry_pass_with_fakes_only_tells(node: FakeNode) -> None:
    """What it would do."""
    _whole(node)
    _strays(node)
    before = _left(node)

    assert len(reconcile(node, dry_run=True).findings) == 7
    assert _left(node) == before


def test_a_pass_with_fakes_leaves_a_live_job_alone(node: FakeNode) -> None:
    """One with its file, and one that is young."""
    _whole(node, State.RUNNING)
    (_jobs(node) / "7.s.JB").touch()
    _whole(node, State.PREPARING, "8.s").note(alive_at=uptime())
    before = _left(node)

    assert reconcile(node).findings == []
    assert _left(node) == before


def test_a_pass_with_fakes_leaves_the_mark_of_a_job_whose_steps_are_still_to_come(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's Prolog makes it on another host than the job's first; it goes once the job is over."""
    node.paths.mark("7")
    alive = {"7"}
    monkeypatch.setattr(node.rm, "is_idle", lambda job: job in alive)
    assert reconcile(node).findings == []
    alive.clear()
    assert [(finding.kind, finding.name) for finding in reconcile(node).findings] == [("marker", "7")]
    assert not (node.paths.markers / "7").exists()


def test_a_pass_with_fakes_sees_no_other_owners_containers(node: FakeNode) -> None:
    """Neither a neighbour's nor one without our label."""
    node.engine.add("theirs", owner="test@other", incarnation="f")
    node.engine.add("nobodys")

    assert reconcile(node).findings == []
    assert len(node.engine.containers) == 2


@pytest.mark.parametrize("blocked_by", ["engine", "engine-list", "mom", "ledger", "cgroups"])
def test_a_pass_with_fakes_that_cannot_see_does_nothing(node: FakeNode, blocked_by: str) -> None:
    """What cannot be read must not look empty."""
    _whole(node)
    _strays(node)
    before = _left(node)
    if blocked_by == "engine":
        node.engine.down_because = "it is away"
    elif blocked_by == "engine-list":
        node.engine.fails["labelled"] = AWAY
    elif blocked_by == "mom":
        _jobs(node).rmdir()
    elif blocked_by == "cgroups":
        node.fake_cgroups.fails["names"] = NodeFault("cgroup-unknown", "it is gone")
    else:
        (node.paths.state_dir / "jobs/x.json").write_text("{")
    found = reconcile(node)

    assert found.blocked
    assert (found.findings, _left(node)) == ([], before)
    assert node.events.names() == ["reaper.blocked"]


def test_a_pass_with_fakes_has_a_cap(node: FakeNode) -> None:
    """Dead records first; the next pass goes on."""
    node.config = replace(node.config, reaper=replace(node.config.reaper, cap=1))
    _whole(node)
    _strays(node)

    assert (found := reconcile(node)).reaped == 1
    assert found.left == 6
    assert node.jobs.records() == []


def test_a_job_with_fakes_that_came_to_life_meanwhile_is_left_alone(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record is judged again under its lock, since its prologue may have been slow."""
    record = _whole(node, State.READY)
    listed = node.stores.listed

    def listed_late(**_: bool) -> list[tuple[str, str, str]]:
        (_jobs(node) / "7.s.JB").touch()
        return listed()

    monkeypatch.setattr(node.stores, "listed", listed_late)

    assert reconcile(node).reaped == 0
    assert node.jobs.records() == [record]


def test_a_stray_with_fakes_whose_record_was_made_meanwhile_is_left_alone(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was listed before its record was read for the last time."""
    record = known(node, State.PREPARING, plan=_PLAN, alive_at=uptime())
    node.fake_cgroups.made[record.cgroup] = None
    whole = node.jobs.records_and_problems
    answers = iter([([], [])])
    monkeypatch.setattr(node.jobs, "records_and_problems", lambda: next(answers, None) or whole())

    assert [finding.kind for finding in reconcile(node).findings] == ["cgroup"]
    assert list(node.fake_cgroups.made) == [record.cgroup]


def test_a_busy_job_with_fakes_is_left_to_the_next_pass(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook is at work on it."""
    monkeypatch.setattr("pbsdock.agent.reconcile._BUSY_S", 0.05)
    record = _whole(node)
    with node.job_lock(record.job_id, 1.0):
        assert reconcile(node).reaped == 0
    assert reconcile(node).reaped == 1


def test_a_container_with_fakes_that_is_being_removed_is_looked_at_again(node: FakeNode) -> None:
    """It is not gone yet, and is not told to be."""
    node.engine.add("stray", owner=node.owner, incarnation="f", created_at=time.time() - 1000.0)
    node.engine.removal_under_way = True

    assert (found := reconcile(node)).reaped == 0
    assert found.left == 1


def test_only_a_routine_pass_of_an_idle_node_spares_the_gateways(node: FakeNode) -> None:
    """A fake that tells how it was asked: what an admin asks for is looked at, and what a job has is, always."""
    reconcile(node)
    reconcile(node, is_routine=True)
    known(node, State.RUNNING, plan=_PLAN, alive_at=uptime()).begin(["credentials"])
    reconcile(node, is_routine=True)

    assert [call for call in node.stores.calls if call.startswith("listed")] == ["listed", "listed when idle", "listed"]
