"""How ends are noticed on a node of fakes: by the engine's events, and by the kernel where those were lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pbsdock.agent.outage import Outage
from pbsdock.agent.refresh import Refresher
from pbsdock.agent.runs import ExecRun, JobRun, TaskRun
from pbsdock.agent.server import adopt
from pbsdock.agent.watch import Watcher
from pbsdock.core.record import Record, State
from pbsdock.engine.base import ContainerState, EngineEvent, EventKind, ExecState
from pbsdock.host.process import start_time
from tests.conftest import wait_until
from tests.unit.fakes import AWAY, FakeNode, fake_node, known
from tests.unit.test_policy import _plan

_PLAN = _plan("alpine:3")
_TASK = "a" * 64


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return fake_node(tmp_path)


def _running(node: FakeNode, *, is_alive: bool = True) -> JobRun:
    """A job whose first process is the test's own, or one that is gone."""
    record = known(node, State.RUNNING, plan=_PLAN)
    node.engine.add(record.container_name).state = ContainerState(exit_code=3)
    pid = os.getpid() if is_alive else 0
    running = JobRun(record, pid=pid, pid_start=start_time(pid))
    node.jobs.add(running)
    return running


def _event(kind: EventKind, running: JobRun, **fields: object) -> EngineEvent:
    labels = {"pbsdock.incarnation": running.record.incarnation}
    return EngineEvent(kind=kind, container_id="c", labels=labels, **fields)  # type: ignore[arg-type]  # its fields


def _ended(running: JobRun | TaskRun) -> int:
    wait_until("its end is told", running.over.is_set)
    assert running.ended is not None
    return running.ended.number("code")


def test_an_event_of_a_fake_engine_ends_its_job(node: FakeNode) -> None:
    """By the incarnation in the container's labels; another's goes on."""
    running = _running(node)
    node.engine.coming = [_event(EventKind.CONTAINER_DIED, running, exit_code=3)]
    Watcher(node)._stream()

    assert _ended(running) == 3


def test_an_event_of_a_fake_engine_of_nobodys_container_is_passed_over(node: FakeNode) -> None:
    """One that was released meanwhile."""
    running = _running(node)
    node.jobs.drop(running)
    node.engine.coming = [_event(EventKind.CONTAINER_DIED, running, exit_code=3)]
    Watcher(node)._stream()

    assert running.ended is None


def test_an_event_of_a_fake_engine_ends_a_task(node: FakeNode) -> None:
    """By the exec's own id, though the container's labels are the job's."""
    running = _running(node)
    task = ExecRun(running.record, name=_TASK, pid=os.getpid())
    node.jobs.add(task)
    node.engine.execs[_TASK] = ExecState(container_id="c", is_running=False, pid=0, exit_code=4)
    node.engine.coming = [_event(EventKind.EXEC_DIED, running, exec_id=_TASK)]
    Watcher(node)._stream()

    assert _ended(task) == 4
    assert running.ended is None


def test_a_killed_process_of_a_fake_engines_container_is_remembered(node: FakeNode) -> None:
    """The end is yet to come, and is asked about then."""
    running = _running(node)
    node.engine.coming = [_event(EventKind.OUT_OF_MEMORY, running)]
    Watcher(node)._stream()

    assert running.out_of_memory
    assert running.ended is None


def test_an_end_that_a_fake_engine_did_not_tell_is_found_by_a_look(node: FakeNode) -> None:
    """The kernel knows no such process any more; one that is there is left alone."""
    gone, there = _running(node, is_alive=False), _running(node)
    Watcher(node).look()

    assert _ended(gone) == 3
    assert there.ended is None
    assert there.gone_since is None


def test_what_ended_before_the_stream_of_a_fake_engine_was_open_is_found(node: FakeNode) -> None:
    """Nobody tells of it any more."""
    gone = _running(node, is_alive=False)
    Watcher(node)._stream()

    assert _ended(gone) == 3


def test_the_end_of_a_fake_engines_stream_is_an_outage(node: FakeNode) -> None:
    """What ends now may end by it."""
    running = _running(node)
    Watcher(node)._stream()

    assert isinstance(running.outage, Outage)
    assert running.outage.until is None


def test_a_fake_engine_that_fails_does_not_end_the_look(node: FakeNode) -> None:
    """The job's end is found out by the next one."""
    gone = _running(node, is_alive=False)
    node.engine.fails["inspect"] = AWAY
    watcher = Watcher(node)
    watcher.look()
    wait_until("the look is over", lambda: not watcher._looked_at)
    assert gone.ended is None
    node.engine.fails.clear()
    watcher.look()

    assert _ended(gone) == 3


def test_a_fake_engine_that_came_back_is_noticed_once(node: FakeNode) -> None:
    """What could not be released then can be now."""
    watcher = Watcher(node)
    node.engine.down_because = "it is away"
    assert not watcher._came_back()
    node.engine.down_because = None

    assert watcher._came_back()
    assert not watcher._came_back()


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_sessions_of_fake_stores_are_refreshed_while_their_jobs_run(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One job's trouble does not end the others'; what is over needs none."""
    monkeypatch.setattr("pbsdock.agent.refresh._LOOK_S", 0.001)
    records = [known(node, state, plan=_PLAN) for state in (State.RUNNING, State.ENDED, State.RUNNING)]
    stop, seen = threading.Event(), list[str]()

    def refresh(record: Record, _directory: Path) -> bool:
        seen.append(record.incarnation)
        if len(seen) == 1:
            raise ValueError("a slip")
        stop.set()
        return True

    monkeypatch.setattr(node.stores, "refresh", refresh)
    Refresher(node, stop).run()

    assert sorted(seen) == sorted([records[0].incarnation, records[2].incarnation])
    assert node.events.names() == ["agent.error"]


# -- an agent that comes after another --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
def test_a_new_agent_over_fakes_goes_on_with_what_there_is(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    """What runs is adopted, what was half prepared or half released is released, the rest stays."""
    monkeypatch.setattr(node.stores, "recall", lambda *_: None, raising=False)
    record = known(node, state, plan=None if state is State.REFUSED else _PLAN)
    adopt(node)
    is_adopted = state in (State.RUNNING, State.STAGING)
    is_released = state in (State.PREPARING, State.RELEASING)

    assert [run.key for run in node.jobs.runs()] == ([record.incarnation] if is_adopted else [])
    assert node.jobs.records() == ([] if is_released else [record])


def test_a_new_agent_over_fakes_leaves_another_boots_records_to_the_reaper(node: FakeNode) -> None:
    """Nothing of them runs."""
    record = known(node, State.RUNNING, plan=_PLAN)
    record.boot_id = "before"
    adopt(node)

    assert node.jobs.runs() == []
    assert node.jobs.records() == [record]
