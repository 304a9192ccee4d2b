"""A container that is made ahead of its run hook, on a node of fakes: what becomes of it whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.agent import first_process, standing
from pbsdock.agent.release import release
from pbsdock.agent.stand import Standing
from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.plan import Stage
from pbsdock.core.record import Record, State
from pbsdock.engine.base import ContainerState, EngineError, Failure
from pbsdock.host.process import start_time
from tests.conftest import wait_until
from tests.unit.fakes import AWAY, FakeNode, fake_node, known
from tests.unit.test_policy import _plan

_PLAN = replace(_plan("alpine:3"), image="alpine:3")
_STAGE = Stage(store="ceph", bucket="b", key="k", path="/o", where="job.sh:2:9")
_HOME = Bound(source="/home/alice", target="/home/alice", read_only=False, device=1, inode=1)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    """One with a program, whose containers' first process is the test's own."""
    made = fake_node(tmp_path)
    program = first_process.program(made.paths)
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/true", program)
    program.chmod(0o755)
    made.engine.first_pid = os.getpid()
    yield made
    wait_until("no thread is left", lambda: not [one for one in threading.enumerate() if one.name == "stand"], 10)


def _ready(node: FakeNode, *, first_process: bool = True, **changes: object) -> Record:
    record = known(node, State.READY, plan=replace(_PLAN, **changes), first_process=first_process)  # type: ignore[arg-type]
    record.begin(["files", "cgroup", "container"])
    return record


def _begun(node: FakeNode, record: Record) -> Standing:
    """What comes of a beginning, when it is over."""
    standing.begin(node, record)
    found = node.jobs.standing_of(record)
    assert found is not None
    assert found.over.wait(10)
    return found


# -- whether and how ----------------------------------------------------------------------------------------------


def test_a_job_with_fakes_has_a_first_process_where_there_is_one(node: FakeNode, tmp_path: Path) -> None:
    """And the site has not chosen otherwise."""
    assert standing.is_wanted(node)
    other = fake_node(tmp_path / "other", "[engine]\nfirst_process = false\n")
    other.paths = node.paths  # type: ignore[misc]  # it has the program
    assert not standing.is_wanted(other)
    first_process.program(node.paths).chmod(0o777)
    assert not standing.is_wanted(node)


def test_a_container_with_fakes_stands_ready(node: FakeNode) -> None:
    """Its first process is ours, and has nothing of the job's but its rights, its mounts and its place in the cgroup."""
    record = _ready(node)
    found = _begun(node, record)
    (container,) = node.engine.containers.values()

    assert (found.is_ready, found.error) == (True, None)
    assert (found.container, found.pid, found.pid_start) == (container.id, os.getpid(), start_time(os.getpid()))
    assert record.container_id == container.id
    spec = container.spec
    assert spec is not None
    assert spec.argv == ("/run/pbsdock/pbsdock-init", "/run/pbsdock/init", "600000")
    assert (spec.entrypoint, spec.environment, spec.workdir, spec.rlimits) == ((), (), "/", {})
    assert (spec.tty, spec.has_streams, spec.uid, spec.cgroup_parent) == (
        False,
        False,
        _PLAN.uid,
        f"/fake/{record.cgroup}",
    )
    mounts = {mount.target: (mount.source, mount.read_only) for mount in spec.mounts}
    assert mounts == {
        "/run/pbsdock/pbsdock-init": (str(first_process.program(node.paths)), True),
        "/run/pbsdock/init": (str(node.init_dir(record)), False),
    }


@pytest.mark.parametrize("is_staged", [True, False])
def test_a_container_with_fakes_that_has_to_wait_is_not_begun(node: FakeNode, is_staged: bool) -> None:
    """For files that are staged in, and where the job has no first process of ours."""
    record = _ready(node, stage_in=(_STAGE,)) if is_staged else _ready(node, first_process=False)
    standing.begin(node, record)

    assert node.jobs.standing_of(record) is None
    assert node.engine.calls == []


def test_a_container_with_fakes_is_taken_as_it_stands(node: FakeNode) -> None:
    """The engine is not asked again."""
    record = _ready(node)
    found = _begun(node, record)
    before = list(node.engine.calls)

    assert standing.take(node, record, ()) is found
    assert node.engine.calls == before


def test_a_run_hook_with_fakes_waits_for_what_is_under_way(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not begin a second one."""
    go = threading.Event()
    real = node.engine.start

    def start(container: str) -> None:
        assert go.wait(10)
        real(container)

    monkeypatch.setattr(node.engine, "start", start)
    record = _ready(node)
    standing.begin(node, record)
    threading.Timer(0.2, go.set).start()
    found = standing.take(node, record, ())

    assert found.is_ready
    assert node.engine.calls.count("create") == 1


# -- made now, or anew --------------------------------------------------------------------------------------------


def test_a_container_with_fakes_that_was_not_begun_is_made(node: FakeNode) -> None:
    """What an agent that was killed has left is removed before: this one knows nothing of it."""
    record = _ready(node)
    node.engine.add(record.container_name)
    found = standing.take(node, record, ())

    assert found.is_ready
    assert node.engine.calls.index("remove") < node.engine.calls.index("create")
    assert node.jobs.standing_of(record) is found


def test_a_container_with_fakes_whose_first_process_ended_is_made_anew(node: FakeNode) -> None:
    """By an engine that was restarted, before its run hook came."""
    record = _ready(node)
    with subprocess.Popen(["sleep", "60"]) as process:
        node.engine.first_pid = process.pid
        before = _begun(node, record)
        assert before.is_ready
        process.kill()
    assert not before.is_ready
    node.engine.first_pid = os.getpid()
    found = standing.take(node, record, ())

    assert found is not before
    assert (found.is_ready, found.pid, len(node.engine.containers)) == (True, os.getpid(), 1)


def test_a_first_process_with_fakes_is_known_by_its_start_too(node: FakeNode) -> None:
    """Its number may be another's by now."""
    record = _ready(node)
    found = _begun(node, record)
    found.pid_start -= 1

    assert not found.is_ready
    assert standing.take(node, record, ()) is not found


def test_a_container_with_fakes_of_other_mounts_is_made_anew(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a job that was given another directory to start in."""
    held: list[tuple[Bound, ...]] = []
    pinned = standing.pinned

    def note(events: FakeNode, directory: Path, plan: object, bound: tuple[Bound, ...]) -> object:
        held.append(tuple(bound))
        return pinned(events, directory, plan, ())  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(standing, "pinned", note)
    record = _ready(node)
    before = _begun(node, record)
    found = standing.take(node, record, [_HOME])

    assert found is not before
    assert (found.bound, held) == ((_HOME,), [(), (_HOME,)])
    assert node.engine.calls.count("create") == 2
    assert len(node.engine.containers) == 1
    assert standing.take(node, record, [_HOME]) is found


def test_a_container_with_fakes_for_which_no_thread_can_be_had(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prologue is not the worse for it; the run hook's own thread makes it."""

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    record = _ready(node)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        standing.begin(node, record)
    found = node.jobs.standing_of(record)
    assert found is not None
    assert (found.over.is_set(), found.is_ready, node.engine.calls) == (True, False, [])

    assert standing.take(node, record, ()).is_ready


# -- failures -----------------------------------------------------------------------------------------------------


_ERRORS = [
    (EngineError(404, "no", Failure.IMAGE_GONE), NodeFault, "image-gone", "image 'alpine:3' was removed from "),
    (EngineError(404, "no", Failure.NO_NETWORK), Refusal, "no-such-network", "does not exist on "),
    (
        EngineError(400, "is not a directory", Failure.NO_DIRECTORY),
        Refusal,
        "workdir-closed",
        "the work directory that the job starts in is no directory; choose another with --workdir",
    ),
    (
        EngineError(400, "Permission denied", Failure.NO_DIRECTORY),
        Refusal,
        "workdir-closed",
        "the work directory that the job starts in is closed to you",
    ),
    (EngineError(500, "no room"), NodeFault, "engine-error", "could not start the container: "),
    (AWAY, NodeFault, "engine-unreachable", "the Docker engine does not answer"),
    (ValueError("a slip"), NodeFault, "agent-error", "could not be made: a slip"),
]


@pytest.mark.parametrize("call", ["create", "start", "inspect"])
@pytest.mark.parametrize(("error", "kind", "code", "says"), _ERRORS, ids=lambda value: getattr(value, "code", None))
def test_a_failure_with_fakes_in_the_background_is_told_to_the_run_hook(
    node: FakeNode, call: str, error: Exception, kind: type[HookError], code: str, says: str
) -> None:
    """By whose fault it is, if a second attempt fails too; the prologue has answered long since."""
    node.engine.fails[call] = error
    record = _ready(node)
    begun = _begun(node, record)
    assert isinstance(begun.error, kind)
    with pytest.raises(kind) as caught:
        standing.take(node, record, ())

    assert isinstance(caught.value, NodeFault | Refusal)
    assert caught.value.code == code
    assert says in str(caught.value)
    assert node.engine.calls.count("create") == 2
    assert node.events.names() == (["agent.error"] * 2 if isinstance(error, ValueError) else [])


@pytest.mark.parametrize("call", ["create", "start", "inspect"])
def test_a_failure_with_fakes_that_has_passed_is_nobodys_business(node: FakeNode, call: str) -> None:
    """An engine that was restarted between the prologue and the run hook."""
    node.engine.fails[call] = AWAY
    record = _ready(node)
    assert not _begun(node, record).is_ready
    node.engine.fails.clear()

    assert standing.take(node, record, ()).is_ready
    assert len(node.engine.containers) == 1


@pytest.mark.parametrize(
    "error", [Refusal("mount-changed", "exchanged"), NodeFault("pin-failed", "no"), OSError(5, "io")]
)
def test_mounts_with_fakes_that_cannot_be_held_are_told(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As they are."""

    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(standing, "pinned", fail)
    record = _ready(node)
    assert _begun(node, record).error is error
    with pytest.raises(type(error)) as caught:
        standing.take(node, record, ())

    assert caught.value is error
    assert "create" not in node.engine.calls


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (ContainerState(exit_code=125, error="no such file"), "it ended with 125; no such file"),
        (None, "it was removed"),
    ],
)
def test_a_first_process_with_fakes_that_is_over_at_once_is_told(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, state: ContainerState | None, says: str
) -> None:
    """With what the engine knows of it."""
    monkeypatch.setattr(node.engine, "inspect", lambda _: state)
    record = _ready(node)
    with pytest.raises(NodeFault) as caught:
        standing.take(node, record, ())

    assert caught.value.code == "first-process"
    assert str(caught.value) == f"the container's first process is not there: {says}"


# -- a release meanwhile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["create", "start"])
def test_a_release_with_fakes_while_a_container_is_made_leaves_nothing(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A job that is deleted before it begins: the release waits for the engine's answer, and nothing more is asked."""
    under_way, go = threading.Event(), threading.Event()
    real = getattr(node.engine, call)

    def hold(*arguments: object) -> object:
        found = real(*arguments)
        under_way.set()
        assert go.wait(10)
        return found

    monkeypatch.setattr(node.engine, call, hold)
    record = _ready(node)
    standing.begin(node, record)
    assert under_way.wait(10)
    releasing = threading.Thread(target=release, args=(node, record), kwargs={"why": "deleted"})
    releasing.start()
    releasing.join(0.2)
    assert releasing.is_alive()
    assert "remove" not in node.engine.calls
    go.set()
    releasing.join(10)

    assert node.engine.containers == {}
    assert node.jobs.records() == []
    assert node.jobs.standing_of(record) is None
    asked = [call for call in node.engine.calls if call in ("create", "start", "remove")]
    assert asked == (["create", "remove"] if call == "create" else ["create", "start", "remove"])


def test_a_release_with_fakes_before_the_thread_has_come_to_the_engine(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked of it at all."""
    go = threading.Event()
    pinned = standing.pinned

    def hold(*arguments: object) -> object:
        assert go.wait(10)
        return pinned(*arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(standing, "pinned", hold)
    record = _ready(node)
    standing.begin(node, record)
    threading.Timer(0.1, go.set).start()
    standing.end(node, record)
    found = node.jobs.standing_of(record)

    assert found is not None
    assert isinstance(found.error, NodeFault)
    assert "create" not in node.engine.calls


def test_an_engine_with_fakes_that_does_not_come_back_is_told(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release does not wait for ever: it is told what stays, and tries again later."""
    monkeypatch.setattr(standing, "_CALLS", 0.01)
    under_way, go = threading.Event(), threading.Event()

    def hang(*_arguments: object) -> str:
        under_way.set()
        assert go.wait(10)
        return "id"

    monkeypatch.setattr(node.engine, "create", hang)
    record = _ready(node)
    standing.begin(node, record)
    assert under_way.wait(10)
    with pytest.raises(NodeFault) as caught:
        standing.end(node, record)
    go.set()

    assert (caught.value.code, str(caught.value)) == (
        "container-stays",
        f"the engine is still making container {record.container_name}",
    )
    standing.end(node, record)


def test_the_end_with_fakes_of_what_was_not_begun(node: FakeNode) -> None:
    """Nothing is to be waited for."""
    standing.end(node, _ready(node))

    assert node.engine.calls == []
