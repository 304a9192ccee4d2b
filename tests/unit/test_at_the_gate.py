"""A job from its run hook's request to its end, with the real first process in namespaces of its own; the engine and
the cgroups are fakes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent import late_grant, start, suspend, tasks
from pbsdock.agent.channel import Channel
from pbsdock.agent.first_process import LEADER
from pbsdock.agent.runs import ExecRun, JobRun, TaskRun
from pbsdock.agent.watch import Watcher
from pbsdock.core.errors import NodeFault
from pbsdock.core.record import Record, State
from pbsdock.engine.spec import parse_limits
from pbsdock.host.process import Caller, start_time
from pbsdock.protocol import init, wire
from pbsdock.rm.base import Adoption
from tests.conftest import wait_until
from tests.support.first_process import OTHER, OWNER, FirstProcess, build
from tests.unit.fakes import FakeNode, ask, fake_node, known, session_of
from tests.unit.test_policy import _plan

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="making namespaces needs root")
_PLAN = replace(_plan("alpine:3"), image="alpine:3", uid=OWNER, gid=OWNER, groups=())


@pytest.fixture(scope="module")
def lib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the program where the agent looks for it."""
    program = build(tmp_path_factory, sanitized=False)
    found = program.parent / "lib"
    place = found / "pbsdock/init"
    place.mkdir(parents=True)
    shutil.copy(program, place / "pbsdock-init")
    return found


@pytest.fixture
def first(lib: Path) -> Iterator[FirstProcess]:
    """The first process of the container to come, its gate closed."""
    with FirstProcess(lib / "pbsdock/init/pbsdock-init", is_open=False) as made:
        yield made


@pytest.fixture
def node(tmp_path: Path, lib: Path, first: FirstProcess, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    """A node whose next container that is."""
    made = fake_node(tmp_path)
    made.paths = replace(made.paths, lib=lib)  # type: ignore[misc]  # as of another installation
    made.engine.first_pid = first.pid
    made.fake_cgroups.members = [first.pid]
    monkeypatch.setattr(made.rm, "adopt", lambda *_: Adoption(told={}))  # whatever tools this machine has
    monkeypatch.setattr(made, "init_dir", lambda _record: first.directory)
    own = parse_limits(Path("/proc/self/limits").read_text())
    monkeypatch.setattr(start, "limits_of", lambda _caller: own)
    monkeypatch.setattr(tasks, "limits_of", lambda _caller: own)
    monkeypatch.setattr(late_grant, "apply", lambda *_: None)  # see test_late_grant.py
    return made


def _ready(node: FakeNode, **plan: Any) -> Record:
    record = known(node, State.READY, plan=replace(_PLAN, **plan), uid=OWNER, first_process=True)
    record.begin(["files", "cgroup", "container"])
    return record


def _start(*argv: str, **fields: Any) -> wire.Message:
    words = [word.encode() for word in argv or ("/bin/sh",)]
    return wire.Message("start", **{"job": "7.s", "argv": words, "cwd": "/", "env": [b"A=1", b"B=\xff"], **fields})


def _run(first: FirstProcess, answer: wire.Message, *, leader: bool = True) -> init.Connection:
    """As a run hook does with what it is given."""
    limits = {}
    for line in answer.raw("limit"):
        number, soft, hard = map(int, line.split())
        limits[number] = (soft, hard)
    flags = init.SESSION | (init.LEADER if leader else 0)
    environment = answer.raw("env")
    return first.start(answer.text("name"), *answer.raw("argv"), flags=flags, environment=environment, limits=limits)


def _is_closed(first: FirstProcess) -> bool:
    """Whether the gate is."""
    end, _ = first.run("probe", "/bin/true")
    return (end.kind, end.step) == (init.FAILED, "gate")


# -- the start ----------------------------------------------------------------------------------------------------


def test_a_job_is_let_in_and_its_end_is_told(node: FakeNode, first: FirstProcess) -> None:
    """From the request to the end: what the hook is given is what runs, and the record says what runs before it does."""
    record = _ready(node)
    with session_of(node, OWNER) as session:
        (answer,) = ask(node, OWNER, _start("/bin/sh", "-c", 'test "$A" = 1 && exit 7'), session=session)
        run = node.jobs.job_run(record.incarnation)
        assert run is not None
        assert (answer.op, answer.text("task"), answer.number("fds")) == ("started", "", 1)
        assert answer.text("name") == LEADER
        assert answer.raw("argv") == [b"/bin/sh", b"-c", b'test "$A" = 1 && exit 7']
        assert {b"A=1", b"B=\xff", b"OF_PROCESS_1=1"} <= set(answer.raw("env"))
        assert (answer.text("directory"), answer.number("results")) == ("/", 0)
        assert len(answer.raw("limit")) == init.LIMITS
        assert (record.state, record.facts.pid, run.pid) == (State.RUNNING, first.pid, first.pid)
        assert (run.hook, record.facts.tty) == (Caller(os.getpid(), OWNER, start_time(os.getpid())), False)
        assert node.events.names() == ["job.started"]

        end = first.end(_run(first, answer))
        assert end.number == 7 << 8
        over = wire.Message("over", job="7.s", kind=end.kind, number=end.number)
        (ended,) = ask(node, OWNER, over, session=session)

    assert (ended.op, ended.number("code"), ended.raw("sentence")) == ("ended", 7, [])
    assert record.state is State.ENDED
    assert record.exit is not None
    assert record.exit.code == 7


def test_what_was_written_down_counts_more_than_what_a_hook_says(node: FakeNode, first: FirstProcess) -> None:
    """It is the first process's own word; a hook that lies changes nothing in the accounts."""
    record = _ready(node)
    with session_of(node, OWNER) as session:
        (answer,) = ask(node, OWNER, _start("/bin/sh", "-c", "exit 7"), session=session)
        first.end(_run(first, answer))
        (ended,) = ask(node, OWNER, wire.Message("over", job="7.s", kind=init.ENDED, number=0), session=session)

    assert ended.number("code") == 7
    assert record.exit is not None


def test_a_command_that_cannot_be_run_after_all_is_told(node: FakeNode, first: FirstProcess) -> None:
    """What no look could know: 125 and the sentence."""
    _ready(node)
    with session_of(node, OWNER) as session:
        (answer,) = ask(node, OWNER, _start("/bin/sh"), session=session)
        answer.fields["env"] = [b"V=" + b"x" * 200_000]
        end = first.end(_run(first, answer))
        over = wire.Message("over", job="7.s", kind=end.kind, number=end.number, step=end.step, path=end.path)
        (ended,) = ask(node, OWNER, over, session=session)

    assert ended.number("code") == 125
    assert ended.text("sentence").startswith("the environment and arguments are longer than the kernel takes (E2BIG)")


def test_a_first_process_that_is_killed_is_not_its_hooks_fault(node: FakeNode, first: FirstProcess) -> None:
    """The hook has heard nothing and says so; the engine knows how the container ended."""
    record = _ready(node)
    with session_of(node, OWNER) as session:
        (answer,) = ask(node, OWNER, _start("/bin/sleep", "60"), session=session)
        connection = _run(first, answer)
        assert connection.receive().kind == init.PID
        os.kill(first.pid, signal.SIGKILL)
        first.outer.wait(10)
        first.errors.truncate(0)  # unshare complains that it cannot end by SIGKILL itself
        connection.close()
        container = node.engine.find(record.container_name)
        assert container is not None
        container.state = replace(container.state, is_running=False, pid=0, exit_code=137)
        (ended,) = ask(node, OWNER, wire.Message("over", job="7.s"), session=session)

    assert (ended.op, ended.number("code")) == ("ended", 137)
    assert "client.refused" not in node.events.names()


def test_only_the_hook_of_a_run_says_how_it_ended(node: FakeNode) -> None:
    """Not another connection of the same user's, which has none."""
    _ready(node)
    with session_of(node, OWNER) as session:
        ask(node, OWNER, _start(), session=session)
        (refused,) = ask(node, OWNER, wire.Message("over", job="7.s", kind=init.ENDED, number=0))
        assert refused.text("code") == "not-your-run"
        for kind, number in ((init.PID, 0), (9, 0), (init.ENDED, 1 << 16), (init.ENDED, -1)):
            over = wire.Message("over", job="7.s", kind=kind, number=number)
            assert [answer.text("code") for answer in ask(node, OWNER, over, session=session)] == ["bad-request"]


# -- what is refused at the gate ----------------------------------------------------------------------------------


def test_a_command_that_cannot_be_run_keeps_the_gate_closed(node: FakeNode, first: FirstProcess) -> None:
    """Nothing is left of the container, and the job is as ready as before."""
    record = _ready(node)
    (refused,) = ask(node, OWNER, _start("/bin/none"))

    assert (refused.op, refused.text("code")) == ("refused", "no-such-program")
    assert _is_closed(first)
    assert (record.state, record.container_id, node.engine.containers, node.jobs.runs()) == (State.READY, None, {}, [])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [("cgroup", "it is outside of the job's cgroup"), ("groups", "its supplementary groups are not the job owner's")],
)
def test_a_container_that_is_not_as_planned_keeps_the_gate_closed(
    node: FakeNode, first: FirstProcess, wrong: str, says: str
) -> None:
    """The node's fault: told to the hook and in the stream."""
    record = _ready(node, groups=(77,) if wrong == "groups" else ())
    if wrong == "cgroup":
        node.fake_cgroups.members = []
    (fault,) = ask(node, OWNER, _start())

    assert (fault.op, fault.text("code")) == ("fault", "container-mismatch")
    assert fault.text("sentence") == f"the container was stopped before the job began: {says}"
    assert "container.mismatch" in node.events.names()
    assert _is_closed(first)
    assert (record.state, node.engine.containers) == (State.READY, {})


def test_another_program_in_its_place_keeps_the_gate_closed(
    node: FakeNode, first: FirstProcess, tmp_path: Path
) -> None:
    """As of a release that was exchanged meanwhile: the same bytes are not the same file."""
    copy = tmp_path / "lib/pbsdock/init"
    copy.mkdir(parents=True)
    shutil.copy(f"/proc/{first.pid}/exe", copy / "pbsdock-init")
    node.paths = replace(node.paths, lib=tmp_path / "lib")  # type: ignore[misc]
    _ready(node)
    (fault,) = ask(node, OWNER, _start())

    assert fault.text("sentence").endswith("its first process is not pbsdock's")
    assert _is_closed(first)


def test_another_listener_in_its_place_is_not_spoken_to(node: FakeNode, first: FirstProcess) -> None:
    """The first process is alive, and another one has its socket."""
    with subprocess.Popen(["sleep", "60"]) as process:
        node.engine.first_pid = process.pid
        node.fake_cgroups.members = [process.pid]
        _ready(node)
        (fault,) = ask(node, OWNER, _start())
        process.kill()

    assert (fault.op, fault.text("code")) == ("fault", "first-process")
    assert "listens in the place of the container's first one" in fault.text("sentence")
    assert _is_closed(first)
    assert node.engine.containers == {}


# -- one that is over before the gate -----------------------------------------------------------------------------


def _over() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def _with_first_pids(node: FakeNode, monkeypatch: pytest.MonkeyPatch, *makes: Callable[[], int]) -> None:
    """The containers to come have these first processes, in order."""
    coming = list(makes)
    real = node.engine.start

    def begin(container: str) -> None:
        node.engine.first_pid = coming.pop(0)()
        real(container)

    monkeypatch.setattr(node.engine, "start", begin)


def test_a_container_that_ended_before_the_gate_is_made_once_more(
    node: FakeNode, first: FirstProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an engine that was restarted just then."""
    _with_first_pids(node, monkeypatch, _over, lambda: first.pid)
    record = _ready(node)
    (answer,) = ask(node, OWNER, _start())

    assert answer.op == "started"
    assert node.engine.calls.count("create") == 2
    assert (record.facts.pid, len(node.engine.containers)) == (first.pid, 1)


def test_a_container_that_ends_before_the_gate_again_is_the_nodes_fault(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No third one is made."""
    _with_first_pids(node, monkeypatch, _over, _over, _over)
    record = _ready(node)
    (fault,) = ask(node, OWNER, _start())

    assert (fault.op, fault.text("code")) == ("fault", "first-process")
    assert fault.text("sentence") == "the container's first process ended before the job began"
    assert node.engine.calls.count("create") == 2
    assert (record.state, node.engine.containers, node.jobs.runs()) == (State.READY, {}, [])


def test_a_record_that_cannot_be_written_keeps_the_job_from_running(
    node: FakeNode, first: FirstProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate is open by then, and nobody has been let in."""
    _ready(node)

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "advance", fail)
    (fault,) = ask(node, OWNER, _start())

    assert (fault.op, fault.text("code")) == ("fault", "record-not-written")
    assert (node.engine.containers, node.jobs.runs()) == ({}, [])
    assert first.status(LEADER) is None


# -- an agent that was lost ---------------------------------------------------------------------------------------


def test_a_hook_whose_agent_was_lost_is_given_the_same_again(node: FakeNode, first: FirstProcess) -> None:
    """The first process runs it once, however often it is asked."""
    _ready(node)
    (before,) = ask(node, OWNER, _start("/bin/sleep", "60"))
    (again,) = ask(node, OWNER, _start("/bin/sleep", "60", again=1))
    for field in ("name", "argv", "env", "directory", "limit"):
        assert again.raw(field) == before.raw(field), field
    assert again.text("task") == ""
    assert node.engine.calls.count("create") == 1
    leader = _run(first, before)
    leader.receive()
    second = first.end(_run(first, again))
    assert (second.kind, second.step) == (init.FAILED, "id")
    leader.close()


# -- tasks --------------------------------------------------------------------------------------------------------


def _running(node: FakeNode, first: FirstProcess) -> JobRun:
    _ready(node)
    (answer,) = ask(node, OWNER, _start())
    assert answer.op == "started"
    (run,) = node.jobs.runs()
    assert isinstance(run, JobRun)
    return run


def test_a_task_runs_beside_the_leader_and_is_told(node: FakeNode, first: FirstProcess) -> None:
    """The engine has no part in it."""
    _running(node, first)
    before = list(node.engine.calls)
    with session_of(node, OWNER) as session:
        (answer,) = ask(node, OWNER, _start("/bin/sh", "-c", "exit 3"), session=session)
        assert answer.text("task") == answer.text("name")
        end = first.end(_run(first, answer, leader=False))
        over = wire.Message("over", job="7.s", task=answer.text("task"), kind=end.kind, number=end.number)
        (ended,) = ask(node, OWNER, over, session=session)

    assert (ended.op, ended.number("code")) == ("ended", 3)
    assert first.status(answer.text("task")) is None
    assert node.engine.calls == before
    assert node.events.names()[-2:] == ["task.started", "task.ended"]
    assert len(node.jobs.runs()) == 1


@pytest.mark.parametrize(
    ("kind", "number", "step", "code", "says"),
    [
        (init.ENDED, 9, "", 137, ""),
        (init.FAILED, 2, "execve", 127, "image 'alpine:3' has no /x that can be run"),
        (init.FAILED, 13, "execve", 126, "image 'alpine:3': /x cannot be run: Permission denied"),
        (init.FAILED, 11, "fork", 126, "no process more can be started for the job"),
    ],
)
def test_a_tasks_end_as_a_shell_tells_it(
    node: FakeNode, first: FirstProcess, kind: int, number: int, step: str, code: int, says: str
) -> None:
    """With a sentence for what was not run."""
    _running(node, first)
    with session_of(node, OWNER) as session:
        (answer,) = ask(node, OWNER, _start("/bin/true"), session=session)
        task = answer.text("task")
        over = wire.Message("over", job="7.s", task=task, kind=kind, number=number, step=step, path=b"/x")
        (ended,) = ask(node, OWNER, over, session=session)

    assert ended.number("code") == code
    assert ended.text("sentence").startswith(says)
    assert bool(ended.raw("sentence")) is bool(says)


def test_tasks_have_a_bound(node: FakeNode, first: FirstProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the first process's own."""
    monkeypatch.setattr(tasks, "_MOST", 2)
    _running(node, first)
    answers = [ask(node, OWNER, _start("/bin/true"))[0] for _ in range(3)]

    assert [answer.text("code") or answer.op for answer in answers] == ["started", "started", "too-many-tasks"]


def test_a_task_whose_hook_is_gone_is_killed(
    node: FakeNode, first: FirstProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time in which it may come back, as mom kills a bare one's."""
    now = [1000.0]
    monkeypatch.setattr("pbsdock.agent.runs.time.monotonic", lambda: now[0])
    run = _running(node, first)
    run.pid = os.getpid()  # the leader is there
    run.pid_start = start_time(os.getpid())
    (answer,) = ask(node, OWNER, _start("/bin/sleep", "60"))
    with session_of(node, OWNER) as session:  # whose hook is there
        (other,) = ask(node, OWNER, _start("/bin/sleep", "60"), session=session)
        alone, kept = _run(first, answer, leader=False), _run(first, other, leader=False)
        task = node.jobs.task_run(f"{run.record.incarnation}/{answer.text('task')}")
        assert task is not None
        task.channel = None
        assert (alone.receive().kind, kept.receive().kind) == (init.PID, init.PID)
        watcher = Watcher(node)
        watcher.look()
        now[0] += 4.9
        watcher.look()
        assert task.ended is None
        now[0] += 0.2
        watcher.look()
        assert first.end(alone).number == signal.SIGKILL
        wait_until("its end is told", task.over.is_set)
        assert task.ended is not None
        assert task.ended.number("code") == 137
        assert first.status(other.text("task")) is None
        kept.close()


def test_a_task_that_no_agent_remembers_is_the_first_processs(node: FakeNode, first: FirstProcess) -> None:
    """Its hook knows its name, of the form such names have; the engine is not asked for it."""
    run = _running(node, first)
    before = list(node.engine.calls)
    with session_of(node, OWNER) as session:
        task = "task-0123456789abcdef"
        assert ask(node, OWNER, wire.Message("rejoin", job="7.s", task=task), session=session) == []
        over = wire.Message("over", job="7.s", task=task, kind=init.ENDED, number=5 << 8)
        (ended,) = ask(node, OWNER, over, session=session)
        assert (ended.op, ended.number("code")) == ("ended", 5)
    for name in ("task-x", "leader", "task-0123456789abcdeF", "../x"):
        (refused,) = ask(node, OWNER, wire.Message("rejoin", job="7.s", task=name))
        assert refused.text("code") == "no-such-task", name
    assert node.engine.calls == before
    assert node.jobs.runs() == [run]


# -- whether a run is alive ---------------------------------------------------------------------------------------


def test_a_task_is_alive_as_long_as_its_hook_may_come_back(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds from when nobody was there; one that came back begins anew."""
    now = [0.5]
    monkeypatch.setattr("pbsdock.agent.runs.time.monotonic", lambda: now[0])
    task = TaskRun(_ready(node), name="task-1")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert task.is_alive()
        now[0] += 4.9
        assert task.is_alive()
        channel = Channel(ours)
        task.join(channel)
        now[0] += 60
        assert task.is_alive()
        task.leave(channel)
        assert task.is_alive()
        now[0] += 4.9
        assert task.is_alive()
        now[0] += 0.2
        assert not task.is_alive()


def test_a_job_and_an_exec_are_alive_as_long_as_their_process(node: FakeNode) -> None:
    """And not by another of its number."""
    record = _ready(node)
    for kind in (JobRun, ExecRun):
        assert kind(record, pid=os.getpid(), pid_start=start_time(os.getpid())).is_alive()
        assert not kind(record, pid=os.getpid(), pid_start=1).is_alive()
        assert not kind(record, pid=_over()).is_alive()


# -- suspended jobs -----------------------------------------------------------------------------------------------


@pytest.fixture
def hook() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a run hook."""
    with subprocess.Popen(["sleep", "60"]) as process:
        wait_until("it runs", lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", 5)
        yield process
        process.kill()


def test_a_job_whose_hook_is_stopped_stands_still(node: FakeNode, hook: subprocess.Popen[bytes]) -> None:
    """SIGSTOP cannot be caught: the agent sees it. The cgroup is told once each time."""
    record = _ready(node)
    run = JobRun(record, hook=Caller(hook.pid, OWNER, start_time(hook.pid)))
    node.fake_cgroups.frozen.clear()
    suspend.follow(node, run)
    suspend.follow(node, run)
    assert node.fake_cgroups.frozen == [(record.cgroup, False)]
    for number, state, frozen in ((signal.SIGSTOP, "T", True), (signal.SIGCONT, "S", False)):
        hook.send_signal(number)
        wait_until("it has got it", lambda state=state: f") {state} " in Path(f"/proc/{hook.pid}/stat").read_text(), 5)
        suspend.follow(node, run)
        suspend.follow(node, run)
        assert node.fake_cgroups.frozen[-1] == (record.cgroup, frozen)
    assert len(node.fake_cgroups.frozen) == 3


def test_a_job_whose_stopped_hook_is_another_process_goes_on(node: FakeNode, hook: subprocess.Popen[bytes]) -> None:
    """Its number is another's by now: nobody would thaw the job."""
    run = JobRun(_ready(node), hook=Caller(hook.pid, OWNER, start_time(hook.pid) + 1))
    hook.send_signal(signal.SIGSTOP)
    wait_until("it is stopped", lambda: ") T " in Path(f"/proc/{hook.pid}/stat").read_text(), 5)
    suspend.follow(node, run)

    assert [frozen for _, frozen in node.fake_cgroups.frozen] == [False]


def test_who_has_no_first_process_or_no_hook_is_left_alone(node: FakeNode, hook: subprocess.Popen[bytes]) -> None:
    """The engine's way, and a job whose hook has not come back to an agent that was restarted."""
    caller = Caller(hook.pid, OWNER, start_time(hook.pid))
    record = known(node, State.RUNNING, plan=_PLAN, job_id="8.s")
    suspend.follow(node, JobRun(record, hook=caller))
    suspend.follow(node, JobRun(_ready(node)))

    assert node.fake_cgroups.frozen == []


def test_a_freeze_that_fails_is_tried_again(node: FakeNode) -> None:
    """There was no engine to ask which cgroups these are."""
    run = JobRun(_ready(node))
    node.fake_cgroups.fails["freeze"] = NodeFault("cgroup-unknown", "no")
    suspend.freeze(node, run, True)
    assert run.is_frozen is None
    node.fake_cgroups.fails.clear()
    suspend.freeze(node, run, True)
    assert run.is_frozen is True
    assert node.fake_cgroups.frozen == [(run.record.cgroup, True)]


@pytest.mark.parametrize(
    ("number", "frozen"), [(signal.SIGTSTP, []), (signal.SIGCONT, [False]), (signal.SIGUSR1, []), (15, [])]
)
def test_a_signal_that_a_hook_has_passed_on_itself(
    node: FakeNode, first: FirstProcess, number: int, frozen: list[bool]
) -> None:
    """It is told in the stream and sent by nobody again; what is to go on does so at once, if it was frozen."""
    _running(node, first)
    ask(node, OWNER, wire.Message("signal", job="7.s", signal=number))

    assert node.fake_cgroups.signalled == []
    assert [now for _, now in node.fake_cgroups.frozen] == frozen
    assert node.events.names()[-1] == "job.signalled"
    assert ask(node, OTHER, wire.Message("signal", job="7.s", signal=number))[0].text("code") == "not-your-job"


def test_the_time_a_polite_end_leaves(node: FakeNode, first: FirstProcess) -> None:
    """What a leader that TERM has ended has left goes on; the end is told when that is over, or process 1 is."""
    run = _running(node, first)
    began = time.monotonic()
    with session_of(node, OWNER) as session:
        session.running = run
        run.join(session.channel)
        over = wire.Message("over", job="7.s", kind=init.ENDED, number=signal.SIGTERM)
        assert ask(node, OWNER, over, session=session) == []
        assert run.ended is None
        run.pid = _over()
        (ended,) = ask(node, OWNER, over, session=session)

    assert ended.number("code") == 143
    assert time.monotonic() - began < 5
