"""What users may ask of a node of fakes, and what is refused; the requests come over a real socket."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent import attached, late_grant, start
from pbsdock.agent.channel import Channel
from pbsdock.agent.requests import running as requests_of_runs
from pbsdock.agent.runs import ExecRun, JobRun
from pbsdock.core.facts import Exit
from pbsdock.core.plan import Stage
from pbsdock.core.record import Refused, State
from pbsdock.engine.base import EngineError, ExecState, Failure, FoundFile
from pbsdock.host.process import start_time
from pbsdock.protocol import wire
from tests.unit.fakes import FakeNode, ask, fake_node, known, session_of
from tests.unit.test_policy import _plan

_OWNER, _OTHER = 1000, 1001
_PLAN = replace(_plan("alpine:3"), uid=_OWNER)
_TASK, _STRANGE = "a" * 64, "b" * 64
_OUT = Stage(store="ceph", bucket="b", key="k", path="/o", where="job.sh:2:9")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    monkeypatch.setattr(start, "limits_of", lambda _: {})
    monkeypatch.setattr(attached, "pinned", lambda *_: nullcontext([]))
    monkeypatch.setattr(requests_of_runs, "_EVENT_S", 0.01)
    monkeypatch.setattr(late_grant, "apply", lambda *_: None)  # see test_late_grant.py
    return fake_node(tmp_path)


def _start(job: str = "7.s", **fields: Any) -> wire.Message:
    return wire.Message("start", **{"job": job, "argv": b"/bin/sh", "cwd": "/", **fields})


def _running(node: FakeNode, **changes: Any) -> JobRun:
    """A job that runs; its first process is the test's own."""
    record = known(node, State.RUNNING, plan=_PLAN, **changes)
    record.container_id = node.engine.add(record.container_name).id
    running = JobRun(record, pid=os.getpid(), pid_start=start_time(os.getpid()))
    node.jobs.add(running)
    return running


def _code(answers: list[wire.Message]) -> str:
    (answer,) = answers
    return answer.text("code") or answer.op


# -- whose job it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        _start(),
        wire.Message("rejoin", job="7.s"),
        wire.Message("signal", job="7.s", signal=15),
        wire.Message("resize", job="7.s", rows=24, columns=80),
        wire.Message("adopted", job="7.s", status=0),
        wire.Message("eof", job="7.s"),
        wire.Message("over", job="7.s", kind=2, number=0),
    ],
    ids=lambda message: message.op,
)
def test_another_users_job_with_fakes_is_nobodys_business(node: FakeNode, message: wire.Message) -> None:
    """Every request, however harmless; it is told in the stream, and nothing is done."""
    running = _running(node)
    answers = ask(node, _OTHER, message)

    assert [(answer.op, answer.text("code")) for answer in answers] == [("refused", "not-your-job")]
    assert node.events.names() == ["client.refused"]
    assert (node.engine.calls, node.fake_cgroups.signalled, running.channel) == ([], [], None)


@pytest.mark.parametrize("op", ["prepare", "failed", "release", "sweep", "reap", "list"])
def test_what_is_roots_with_fakes_is_refused_to_users(node: FakeNode, op: str) -> None:
    """And to the job's own user."""
    record = known(node, State.ENDED, plan=_PLAN)

    assert _code(ask(node, _OWNER, wire.Message(op, argv=b"7.s"))) == "root-only"
    assert node.events.names() == ["client.refused"]
    assert node.jobs.records() == [record]


def test_an_unknown_request_with_fakes_is_refused(node: FakeNode) -> None:
    """No method is to be had by its name."""
    for op in ("_own", "node", "__init__", "nonsense"):
        assert _code(ask(node, 0, wire.Message(op))) == "unknown-request"


@pytest.mark.parametrize("job", ["", "../x", "7.s/../8.s"])
def test_a_job_id_with_fakes_that_is_none_is_refused(node: FakeNode, job: str) -> None:
    """It becomes part of paths."""
    assert _code(ask(node, _OWNER, wire.Message("rejoin", job=job))) == "bad-job-id"


# -- start ------------------------------------------------------------------------------------------------------------


def test_a_start_with_fakes_runs_the_container(node: FakeNode) -> None:
    """Its hook gets the streams and waits for the end."""
    record = known(node, State.READY, plan=_PLAN)
    (answer,) = ask(node, _OWNER, _start())
    (container,) = node.engine.containers.values()

    assert (answer.op, answer.text("task"), answer.number("fds")) == ("started", "", 1)
    assert (record.state, record.container_id) == (State.RUNNING, container.id)
    assert container.spec is not None
    assert (container.spec.uid, container.spec.cgroup_parent) == (_OWNER, f"/fake/{record.cgroup}")
    assert container.labels["pbsdock.incarnation"] == record.incarnation


def test_root_with_fakes_starts_no_job(node: FakeNode) -> None:
    """Not even one of root's own."""
    known(node, State.READY, plan=_PLAN, uid=0)

    assert _code(ask(node, 0, _start())) == "root-start"
    assert node.engine.calls == []


@pytest.mark.parametrize("state", [State.PREPARING, State.STAGING, State.ENDED, State.RELEASING])
def test_a_job_with_fakes_is_started_only_when_it_is_ready(node: FakeNode, state: State) -> None:
    """Before, and after its end, nothing is."""
    known(node, state, plan=_PLAN)

    assert _code(ask(node, _OWNER, _start())) == "job-over"
    assert node.engine.calls == []


def test_a_refused_job_with_fakes_is_told_why(node: FakeNode) -> None:
    """In the words of its refusal."""
    record = known(node, State.REFUSED)
    record.refusal = Refused(code="image-not-allowed", sentence="no")
    (answer,) = ask(node, _OWNER, _start())

    assert (answer.op, answer.text("code"), answer.text("sentence")) == ("refused", "image-not-allowed", "no")
    assert node.engine.calls == []


def test_a_job_with_fakes_that_is_gone_does_not_run_on_the_host(node: FakeNode) -> None:
    """Its hook saw a marker; a second answer of the hook's would be exec."""
    assert _code(ask(node, _OWNER, _start())) == "no-such-job"


def test_a_connection_with_fakes_has_one_run(node: FakeNode) -> None:
    """A second one needs a connection of its own, which is counted."""
    record = known(node, State.READY, plan=_PLAN)
    started, refused = ask(node, _OWNER, _start(), _start())

    assert (started.op, refused.text("code")) == ("started", "one-run-a-connection")
    assert len(node.engine.execs) == 0
    assert record.state is State.RUNNING


def test_a_container_with_fakes_that_is_not_as_planned_is_stopped(node: FakeNode) -> None:
    """The node's fault; nothing of it is left and the job is as ready as before."""
    node.engine.first_pid = os.getpid()  # in no cgroup of the job's
    record = known(node, State.READY, plan=_PLAN)
    (answer,) = ask(node, _OWNER, _start())

    assert (answer.op, answer.text("code")) == ("fault", "container-mismatch")
    assert "container.mismatch" in node.events.names()
    assert (node.engine.containers, record.state, node.jobs.runs()) == ({}, State.READY, [])


def test_an_image_with_fakes_without_a_shell_gets_its_command_bare(node: FakeNode) -> None:
    """The second container is the command itself; if that cannot be run either, it is named."""
    known(node, State.READY, plan=_PLAN)
    node.engine.fails["start"] = EngineError(400, "no such file", Failure.NO_PROGRAM)

    assert _code(ask(node, _OWNER, _start(argv=b"/bin/tcsh"))) == "no-such-program"
    assert node.engine.calls.count("create") == 3  # the last one only to look into the image
    assert node.engine.containers == {}


@pytest.mark.parametrize("call", ["create", "look"])
def test_an_image_with_fakes_that_cannot_be_looked_into(node: FakeNode, call: str) -> None:
    """The program is named all the same, and nothing is left."""
    known(node, State.READY, plan=replace(_PLAN, entrypoint="/bin/tool"))
    node.engine.fails["start"] = EngineError(400, "no such file", Failure.NO_PROGRAM)
    if call == "look":
        node.engine.fails["look"] = EngineError(500, "no")
    else:
        node.engine.files = {}
    (answer,) = ask(node, _OWNER, _start())

    assert answer.text("code") == "no-such-program"
    assert answer.text("sentence").endswith("has no entry point /bin/tool that can be run")
    assert node.engine.containers == {}


def test_a_shell_with_fakes_whose_loader_is_missing(node: FakeNode) -> None:
    """runc has started it; that it was over at once, with a status of runc's, makes the agent look."""
    record = known(node, State.READY, plan=_PLAN)
    node.engine.exit_code = 1
    open_to_all = FoundFile(kind="directory", mode=0o755, uid=0, gid=0)
    shell = FoundFile(kind="file", mode=0o755, uid=0, gid=0, head=b"#!/opt/shell\n")
    node.engine.files = {"/": open_to_all, "/bin": open_to_all, "/bin/sh": shell}
    (answer,) = ask(node, _OWNER, _start())

    assert answer.text("code") == "no-interpreter"
    assert "there is no /opt/shell, which the '#!' line of /bin/sh names" in answer.text("sentence")
    assert (node.engine.containers, record.state, node.jobs.runs()) == ({}, State.READY, [])


def test_a_stage_in_with_fakes_that_fails_refuses_the_job(node: FakeNode) -> None:
    """For good: the sentence is told again, and the container's parts are released."""
    record = known(node, State.READY, plan=replace(_PLAN, stage_in=(_OUT,)))
    record.begin(["files", "cgroup", "container", "staging"])

    assert _code(ask(node, _OWNER, _start())) == "stage-path-not-mounted"
    assert record.state is State.REFUSED
    assert _code(ask(node, _OWNER, _start())) == "stage-path-not-mounted"


def test_a_second_start_with_fakes_of_a_command_that_may_have_begun_is_refused(node: FakeNode) -> None:
    """It must not run twice."""
    _running(node)

    assert _code(ask(node, _OWNER, _start(again=1))) == "agent-lost"
    assert len(node.engine.containers) == 1


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_a_second_command_with_fakes_is_a_task(node: FakeNode) -> None:
    """Beside the first process, as the job's user."""
    _running(node)
    (answer,) = ask(node, _OWNER, _start(argv=b"hostname"))

    assert (answer.op, len(answer.text("task"))) == ("started", 64)
    assert f"exec_create {_OWNER}:{_PLAN.gid} / hostname" in node.engine.calls


def test_tasks_with_fakes_have_a_bound(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs the engine threads and descriptors."""
    running = _running(node)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    for number in range(64):
        node.jobs.add(ExecRun(running.record, name=str(number)))

    assert _code(ask(node, _OWNER, _start(argv=b"hostname"))) == "too-many-tasks"
    assert node.engine.execs == {}


def test_a_task_with_fakes_is_found_again_in_the_engine(node: FakeNode) -> None:
    """By an agent that did not start it: the engine knows whose container it is in."""
    running = _running(node)
    node.engine.execs[_TASK] = ExecState(
        container_id=running.record.container_id or "", is_running=True, pid=os.getpid(), exit_code=None
    )

    assert ask(node, _OWNER, wire.Message("rejoin", job="7.s", task=_TASK)) == []
    found = node.jobs.task_run(_TASK)
    assert found is not None
    assert found.pid == os.getpid()


@pytest.mark.parametrize("known_to", ["agent", "engine", "nobody"])
def test_a_task_with_fakes_of_another_job_is_refused(node: FakeNode, known_to: str) -> None:
    """Its name is no secret."""
    _running(node)
    theirs = known(node, State.RUNNING, plan=_PLAN, uid=_OTHER, job_id="8.s")
    task = "x" if known_to == "nobody" else _STRANGE
    if known_to == "agent":
        node.jobs.add(ExecRun(theirs, name=_STRANGE))
    node.engine.execs[_STRANGE] = ExecState(container_id="theirs", is_running=True, pid=1, exit_code=None)
    signal = ask(node, _OWNER, wire.Message("signal", job="7.s", task=task, signal=15))

    assert _code(ask(node, _OWNER, wire.Message("rejoin", job="7.s", task=task))) == "no-such-task"
    assert _code(signal) == "not-running"
    assert node.fake_cgroups.signalled == []


def test_a_task_with_fakes_that_the_engine_forgot_has_a_lost_status(node: FakeNode) -> None:
    """It was restarted."""
    _running(node)
    (answer,) = ask(node, _OWNER, wire.Message("rejoin", job="7.s", task=_TASK))

    assert (answer.op, answer.number("code")) == ("ended", 137)
    assert "its exit status is lost" in answer.text("sentence")


# -- rejoin -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attached", [0, 1])
def test_a_hook_with_fakes_that_comes_back_has_lost_its_streams_or_not(node: FakeNode, attached: int) -> None:
    """It gets no others: the job runs on, and its end will say since when nobody has read its output."""
    running = _running(node)
    with session_of(node, _OWNER) as session:
        assert ask(node, _OWNER, wire.Message("rejoin", job="7.s", attached=attached), session=session) == []
        assert running.channel is session.channel

    assert (running.stream_lost_at is None) is bool(attached)
    assert node.engine.calls == []


def test_a_hook_with_fakes_that_comes_too_late_is_told_the_end(node: FakeNode) -> None:
    """From the record, or a status that stands for it."""
    record = known(node, State.ENDED, plan=_PLAN, untold=("bye",))
    record.exit = Exit(code=3, sentences=("bye",))
    (answer,) = ask(node, _OWNER, wire.Message("rejoin", job="7.s"))

    assert (answer.op, answer.number("code"), answer.text("sentence")) == ("ended", 3, "bye")
    assert record.facts.untold == ()


def test_a_job_with_fakes_that_has_its_hook_gets_no_second(node: FakeNode) -> None:
    """Only one may speak for it."""
    running = _running(node)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        running.join(Channel(ours))

        assert _code(ask(node, _OWNER, wire.Message("rejoin", job="7.s"))) == "has-a-run-hook"


# -- signals and the rest ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [15, 2, 1, 3, 10, 12, 18, 20, 24])
def test_a_signal_with_fakes_goes_to_all_of_the_job(node: FakeNode, number: int) -> None:
    """Those mom does not send itself."""
    _running(node)
    node.fake_cgroups.members = [10, 11]

    assert ask(node, _OWNER, wire.Message("signal", job="7.s", signal=number)) == []
    assert node.fake_cgroups.signalled == [number]
    assert node.events.told[-1][1]["processes"] == 2


@pytest.mark.parametrize("number", [0, 9, 19, 11, 64, -1])
def test_a_signal_with_fakes_that_no_hook_gets_is_refused(node: FakeNode, number: int) -> None:
    """Mom's SIGKILL never reaches a hook."""
    _running(node)

    assert _code(ask(node, _OWNER, wire.Message("signal", job="7.s", signal=number))) == "bad-signal"
    assert node.fake_cgroups.signalled == []


def test_a_signal_with_fakes_to_nothing_is_refused(node: FakeNode) -> None:
    """A job that is prepared and not started, and one that is not there."""
    known(node, State.READY, plan=_PLAN)

    assert _code(ask(node, _OWNER, wire.Message("signal", job="7.s", signal=15))) == "not-running"
    assert _code(ask(node, _OWNER, wire.Message("signal", job="8.s", signal=15))) == "not-running"


@pytest.mark.parametrize(("number", "is_interrupted"), [(15, True), (10, False)])
def test_a_signal_with_fakes_interrupts_a_stage_out(node: FakeNode, number: int, is_interrupted: bool) -> None:
    """One that ends a job; the container is over, so no process gets it."""
    running = _running(node)
    running.record.advance(State.STAGING)
    running.record.plan = replace(_PLAN, stage_out=(_OUT,))
    work = node.jobs.begin_work(running.record)
    ask(node, _OWNER, wire.Message("signal", job="7.s", signal=number))

    assert bool(work.interrupted) is is_interrupted
    assert node.fake_cgroups.signalled == []


@pytest.mark.parametrize(
    ("rows", "tty", "calls"), [(24, True, ["resize 24x80"]), (24, False, []), (0, True, []), (10000, True, [])]
)
def test_a_terminal_with_fakes_is_resized(node: FakeNode, rows: int, tty: bool, calls: list[str]) -> None:
    """Where there is one, to a size there can be."""
    _running(node).record.note(tty=tty)
    ask(node, _OWNER, wire.Message("resize", job="7.s", rows=rows, columns=80))

    assert node.engine.calls == calls


def test_a_lost_stream_with_fakes_is_told_by_its_own_hook_only(node: FakeNode) -> None:
    """Whoever else says so may want a stream too many."""
    _running(node)

    assert _code(ask(node, _OWNER, wire.Message("eof", job="7.s"))) == "not-your-stream"


def test_a_job_with_fakes_is_finished_when_its_streams_are_over(node: FakeNode) -> None:
    """Its first process is gone; no event has come."""
    running = _running(node)
    running.pid, running.pid_start = 0, 0
    with session_of(node, _OWNER) as session:
        running.join(session.channel)
        (answer,) = ask(node, _OWNER, wire.Message("eof", job="7.s"), session=session)

    assert (answer.op, answer.number("code")) == ("ended", 0)


# -- on demand --------------------------------------------------------------------------------------------------------


def test_a_directive_with_fakes_for_no_live_job_is_refused(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mom's own file is the only proof of a job."""
    monkeypatch.setattr("pbsdock.rm.torque.manager._JOB_FILE_S", 0.05)

    assert _code(ask(node, _OWNER, _start(directive="alpine:3"))) == "no-such-job"
    assert node.jobs.records() == []
