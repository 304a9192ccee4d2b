"""What a prologue prepares on a node of fakes, what it refuses and what it leaves behind when it fails.

Files and mounts are real, so this needs root.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.agent import blame, prepare, script
from pbsdock.agent.attempts import MOST
from pbsdock.agent.refusals import refuse
from pbsdock.core.errors import BadValue, NodeFault, Refusal
from pbsdock.core.plan import Mount, Stage, Tmpfs
from pbsdock.core.record import Record, State
from pbsdock.engine.base import EngineError
from pbsdock.protocol import wire
from tests.support.torque import job
from tests.unit.fakes import AWAY, FakeNode, ask, fake_node, known
from tests.unit.test_policy import _plan

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="writes files as other users")

_USER = "nobody"
_UID = pwd.getpwnam(_USER).pw_uid
_SCRIPT = b"#!/bin/sh\n#DOCKER alpine:3\ntrue\n"
_OUT = Stage(store="ceph", bucket="b", key="k", path="/o", where="job.sh:2:9")


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return fake_node(tmp_path)


def _arguments(tmp_path: Path, text: bytes | None = _SCRIPT, user: str = _USER, uid: int = _UID) -> list[str]:
    path = tmp_path / "7.s.SC"
    if text is not None:
        path.write_bytes(text)
        os.chown(path, uid, uid)
    return ["7.s", user, "nogroup", "job.sh", "nodes=1,mem=64mb", "batch", "", str(path)]


def _prologue(node: FakeNode, arguments: list[str], notify: Callable[[str], None] = lambda _: None) -> Record | None:
    return prepare.from_prologue(node, arguments, {}, notify)


def _left(node: FakeNode) -> list[str]:
    """What there is of any job, but records."""
    places = (node.paths.work, node.paths.markers, node.paths.pins)
    return [name for place in places for name in os.listdir(place)] + list(node.fake_cgroups.made)


# -- what is prepared -------------------------------------------------------------------------------------------------


def test_a_prologue_with_fakes_prepares_its_job(node: FakeNode, tmp_path: Path) -> None:
    """Everything but the container, and the hooks see the marker."""
    record = _prologue(node, _arguments(tmp_path))
    assert record is not None
    copy = node.work_dir(record) / "script"

    assert (record.state, record.image_id, record.uid) == (State.READY, "sha256:1", _UID)
    assert list(node.fake_cgroups.made) == [record.cgroup]
    assert os.listdir(node.paths.markers) == ["7.s"]
    assert (copy.read_bytes(), copy.stat().st_uid, stat.S_IMODE(copy.stat().st_mode)) == (_SCRIPT, _UID, 0o700)
    assert record.facts.interpreter == "/bin/sh"
    assert node.engine.containers == {}


def test_a_prologue_with_fakes_writes_ahead(node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first side effect the record has the name of everything there will be."""
    seen: list[tuple[int, set[str], bool]] = []
    ensure = node.images.ensure

    def looked(reference: str, **bounds: object) -> object:
        (record,) = node.jobs.records()
        on_disk = len(list((node.paths.state_dir / "jobs").glob("*.json")))
        seen.append((on_disk, set(record.steps), bool(record.container_name and record.cgroup)))
        return ensure(reference, **bounds)

    monkeypatch.setattr(node.images, "ensure", looked)
    _prologue(node, _arguments(tmp_path))

    assert seen == [(1, {"image", "files", "cgroup", "container"}, True)]


def test_a_job_with_fakes_without_a_directive_is_none_of_ours(node: FakeNode, tmp_path: Path) -> None:
    """Nothing is written; nor for a job without a script."""
    assert _prologue(node, _arguments(tmp_path, b"#!/bin/sh\ntrue\n")) is None
    assert _prologue(node, [*_arguments(tmp_path)[:7], "/no/such/script"]) is None
    assert (node.jobs.records(), _left(node)) == ([], [])


def test_a_prologue_with_fakes_sweeps_what_is_older(node: FakeNode, tmp_path: Path) -> None:
    """An incarnation of the same id, before anything else; another job's stays."""
    older = known(node, State.RUNNING, plan=_plan("alpine:3"))
    other = known(node, State.RUNNING, plan=_plan("alpine:3"), job_id="8.s")
    for record in (older, other):
        node.engine.add(record.container_name)
        node.fake_cgroups.made[record.cgroup] = None
    made = _prologue(node, _arguments(tmp_path))
    assert made is not None

    assert node.jobs.records() == [other, made]
    assert [container.name for container in node.engine.containers.values()] == [other.container_name]
    assert set(node.fake_cgroups.made) == {other.cgroup, made.cgroup}


def test_a_plain_job_with_fakes_sweeps_too(node: FakeNode, tmp_path: Path) -> None:
    """The id may have come back without a directive."""
    known(node, State.RUNNING, plan=_plan("alpine:3"))
    _prologue(node, _arguments(tmp_path, b"true\n"))

    assert node.jobs.records() == []


def test_a_job_with_fakes_that_was_prepared_is_forgiven(node: FakeNode, tmp_path: Path) -> None:
    """Earlier failures do not count any more."""
    node.attempts.failed("7.s", "disk-full")
    _prologue(node, _arguments(tmp_path))

    assert "7.s" not in node.attempts


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"#DOCKER --privileged alpine:3\n", "bad-directive"),
        (b"#DOCKER --network other alpine:3\n", "network-not-allowed"),
    ],
)
def test_a_refusal_with_fakes_is_kept_for_the_run_hook(node: FakeNode, tmp_path: Path, text: bytes, code: str) -> None:
    """A record and a marker, and nothing else; the prologue itself goes well."""
    record = _prologue(node, _arguments(tmp_path, text))
    assert record is not None
    assert record.refusal is not None

    assert (record.state, record.refusal.code) == (State.REFUSED, code)
    assert node.jobs.newest("7.s") is record
    assert (_left(node), node.images.calls) == (["7.s"], [])


def test_a_refusal_with_fakes_half_way_releases_what_there_is(node: FakeNode, tmp_path: Path) -> None:
    """An image that cannot be had: the sentence stays, and the marker."""
    node.images.fails["ensure"] = Refusal("no-such-image", "there is no such image")
    record = _prologue(node, _arguments(tmp_path))
    assert record is not None
    assert record.refusal is not None

    assert (record.state, record.refusal.code) == (State.REFUSED, "no-such-image")
    assert _left(node) == ["7.s"]


@pytest.mark.parametrize("kind", ["link", "second-name", "another-users", "fifo", "too-long"])
def test_a_script_with_fakes_that_may_be_another_is_refused(node: FakeNode, tmp_path: Path, kind: str) -> None:
    """What is read must be what mom has written for this user."""
    arguments = _arguments(tmp_path, uid=_UID if kind != "another-users" else _UID - 1)
    path = tmp_path / "7.s.SC"
    if kind == "link":
        path.rename(tmp_path / "other")
        path.symlink_to(tmp_path / "other")
    elif kind == "second-name":
        os.link(path, tmp_path / "other")
    elif kind == "fifo":
        path.unlink()
        os.mkfifo(path)
        os.chown(path, _UID, _UID)
    elif kind == "too-long":
        with path.open("ab") as file:
            file.truncate(script.SCRIPT_LIMIT + 1)
    record = _prologue(node, arguments)
    assert record is not None
    assert record.refusal is not None

    assert record.refusal.code in ("script-unsafe", "script-unreadable", "script-too-long")
    assert node.images.calls == []


def test_a_ready_job_with_fakes_can_be_refused(node: FakeNode, tmp_path: Path) -> None:
    """Everything of it is released."""
    record = _prologue(node, _arguments(tmp_path))
    assert record is not None
    refuse(node, record, Refusal("x", "no"))

    assert (record.state, _left(node)) == (State.REFUSED, ["7.s"])


# -- what fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edge", "call", "error", "code"),
    [
        ("images", "ensure", AWAY, "engine-unreachable"),
        ("images", "ensure", EngineError(500, "no"), "prepare-failed"),
        ("images", "ensure", OSError(28, "No space left on device"), "prepare-failed"),
        ("fake_cgroups", "create", NodeFault("cgroup-limit", "the kernel holds another"), "cgroup-limit"),
        ("engine", "info", AWAY, "engine-unreachable"),
    ],
)
def test_a_prologue_with_fakes_that_fails_leaves_nothing(
    node: FakeNode, tmp_path: Path, edge: str, call: str, error: Exception, code: str
) -> None:
    """Wherever it fails: no record, no marker, and a fault to be looked into."""
    getattr(node, edge).fails[call] = error
    with pytest.raises(NodeFault) as caught:
        _prologue(node, _arguments(tmp_path))

    assert caught.value.code == code
    assert (node.jobs.records(), _left(node)) == ([], [])


@pytest.mark.parametrize("error", [TypeError("a slip"), MemoryError(), SystemExit()])
def test_a_slip_with_fakes_leaves_nothing(node: FakeNode, tmp_path: Path, error: BaseException) -> None:
    """Nobody has foreseen it; what was begun is released all the same."""
    node.fake_cgroups.fails["create"] = error
    with pytest.raises(type(error)):
        _prologue(node, _arguments(tmp_path))

    assert (node.jobs.records(), _left(node)) == ([], [])


def test_an_unknown_user_with_fakes_is_the_nodes_fault(node: FakeNode, tmp_path: Path) -> None:
    """The directory service may be away."""
    with pytest.raises(NodeFault) as caught:
        _prologue(node, _arguments(tmp_path, user="no-such-user"))

    assert caught.value.code == "unknown-user"


def test_arguments_with_fakes_that_name_no_job(node: FakeNode) -> None:
    """They are nobody's job."""
    with pytest.raises(BadValue):
        _prologue(node, ["../x"])


def test_a_fault_with_fakes_takes_no_node_down_unconfirmed(node: FakeNode, tmp_path: Path) -> None:
    """The engine answers to a look: the job is queued again, and the third time it is its own fault."""
    arguments = _arguments(tmp_path)
    for _ in range(MOST - 1):
        with pytest.raises(NodeFault, match="does not answer"):
            blame.failed(node, arguments, {}, AWAY)
    record = blame.failed(node, arguments, {}, AWAY)

    assert not node.paths.unhealthy.exists()
    assert record.refusal is not None
    assert (record.state, record.refusal.code, record.uid) == (State.REFUSED, "failed-again", _UID)


def test_a_fault_with_fakes_that_a_look_confirms_takes_the_node_down(node: FakeNode, tmp_path: Path) -> None:
    """However often: it is not the job's."""
    node.engine.down_because = "it is away"
    for _ in range(MOST + 1):
        with pytest.raises(NodeFault):
            blame.failed(node, _arguments(tmp_path), {}, AWAY)

    assert "does not answer" in node.paths.unhealthy.read_text()
    assert node.jobs.records() == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NodeFault("x", "y"), "x"),
        (OSError(28, "full"), "prepare-failed"),
        (EngineError(500, "no"), "prepare-failed"),
        (Refusal("x", "y"), "prepare-failed"),
        (TypeError("secret"), "agent-error"),
    ],
)
def test_what_an_error_is(error: Exception, code: str) -> None:
    """A slip's own words are for the stream only."""
    fault = blame.fault_of(error, "n1")

    assert fault.code == code
    assert "secret" not in fault.sentence


def test_a_slip_with_fakes_is_told_in_the_stream(node: FakeNode, tmp_path: Path) -> None:
    """With its own words; the same code from elsewhere is no slip."""
    with pytest.raises(NodeFault):
        blame.failed(node, _arguments(tmp_path), {}, TypeError("a slip"))
    assert node.events.names() == ["agent.error", "job.fault"]
    with pytest.raises(NodeFault):
        blame.failed(node, _arguments(tmp_path), {}, NodeFault("agent-error", "gone"))
    assert node.events.names() == ["agent.error", "job.fault", "job.fault"]


# -- on demand --------------------------------------------------------------------------------------------------------

_JOB = job("nodes=1,mem=64mb", job_id="7.s", uid=_UID, gid=_UID, groups=(), user=_USER, script_path=None)


@pytest.mark.parametrize("line", [b"#DOCKER alpine:3", b"#DOCKER --bad", b"#DOCKER --network nowhere alpine:3"])
def test_a_directive_with_fakes_beats_the_scripts_own(node: FakeNode, tmp_path: Path, line: bytes) -> None:
    """What the prologue prepared, or refused, for the script's line is released; the script goes along."""
    arguments = _arguments(tmp_path, b"#!/bin/sh\n" + line + b"\ntrue\n")
    first = _prologue(node, arguments)
    assert first is not None
    made = prepare.on_demand(node, replace(_JOB, script_path=arguments[-1], uid=_UID), "busybox:1", lambda _: None)

    assert (made.state, made.planned.image) == (State.READY, "docker.io/library/busybox:1")
    assert [record.incarnation for record in node.jobs.records()] == [made.incarnation]
    assert (node.work_dir(made) / "script").exists()
    assert not node.work_dir(first).exists()
    assert os.listdir(node.paths.markers) == ["7.s"]


def test_a_directive_with_fakes_comes_too_late_for_what_runs(node: FakeNode, tmp_path: Path) -> None:
    """A task whose environment names an image gets the job's container."""
    record = _prologue(node, _arguments(tmp_path))
    assert record is not None
    record.advance(State.RUNNING)

    assert prepare.on_demand(node, _JOB, "busybox:1", lambda _: None) is record


def test_a_directive_with_fakes_is_prepared_on_demand_once(node: FakeNode) -> None:
    """Whoever asks second gets what the first was given."""
    node.config = replace(node.config, interactive=replace(node.config.interactive, allow=True))
    made = prepare.on_demand(node, _JOB, "alpine:3", lambda _: None)

    assert made.state is State.READY
    assert prepare.on_demand(node, _JOB, "busybox:1", lambda _: None) is made


def test_a_site_with_fakes_can_refuse_containers_on_demand(node: FakeNode) -> None:
    """By its configuration."""
    node.reconfigure(replace(node.config, interactive=replace(node.config.interactive, allow=False)), {})
    made = prepare.on_demand(node, _JOB, "alpine:3", lambda _: None)

    assert made.refusal is not None
    assert (made.state, made.refusal.code, node.images.calls) == (State.REFUSED, "on-demand-off", [])


def test_another_users_live_job_with_fakes_is_not_prepared(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mom's own file says whose it is."""

    class Live:
        id, uid, wrong = "7.s", _UID, ""

    monkeypatch.setattr(node.rm, "find", lambda _: Live())
    (answer,) = ask(node, _UID - 1, wire.Message("start", job="7.s", directive="alpine:3"))

    assert answer.text("code") == "not-your-job"
    assert node.jobs.records() == []


# -- from plain data --------------------------------------------------------------------------------------------------


def test_the_steps_of_a_plan() -> None:
    """Credentials and staging are steps of a job that has them."""
    plan = _plan("alpine:3")
    least = ["image", "files", "cgroup", "container"]

    assert prepare.steps_of(plan) == least
    assert prepare.steps_of(replace(plan, stage_out=(_OUT,))) == [*least, "staging"]
    assert prepare.steps_of(replace(plan, stage_in=(_OUT,))) == [*least, "staging"]


def test_what_must_exist() -> None:
    """What an engine would make as root; a directory that is staged in may be made yet."""
    volume = Mount(source="/a", target="/v", read_only=True, origin="volume", required=True)
    home = replace(volume, target="/h", origin="home")
    tmpfs = Tmpfs(target="/t", size_bytes=None)
    plan = replace(_plan("alpine:3"), mounts=(home, volume), tmpfs=(tmpfs,), workdir="/w")

    assert prepare.must_exist(plan) == ["/v", "/t", "/w"]
    assert prepare.must_exist(replace(plan, stage_in=(_OUT,))) == ["/v", "/t"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"#!/bin/bash -l\n", "/bin/bash"),
        (b"#! /usr/bin/env python3\n", "/usr/bin/env"),
        (b"#!bash\n", ""),
        (b"#!/bin/sh;x\n", ""),
        (b"true\n", ""),
        (b"#!/bin/sh", "/bin/sh"),
    ],
)
def test_the_interpreter_of_a_script(text: bytes, named: str) -> None:
    """A plain path, or nothing: it becomes part of a shell line."""
    assert script.interpreter(text) == named


def test_a_reload_with_fakes_in_the_middle_of_a_prologue_counts_for_the_next(
    node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the image comes the site closes what the job was allowed to mount: it keeps that, and the next is refused."""
    data = tmp_path / "data"
    data.mkdir()
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o055)  # one may be the host's own directory for all
    open_ = replace(node.config, mounts=replace(node.config.mounts, allow=(str(data),)))
    node.reconfigure(open_, {})
    ensure = node.images.ensure

    def reloaded(reference: str, **bounds: object) -> object:
        node.reconfigure(replace(open_, mounts=replace(open_.mounts, allow=()), images=replace(open_.images)), {})
        return ensure(reference, **bounds)

    monkeypatch.setattr(node.images, "ensure", reloaded)
    text = b"#!/bin/sh\n#DOCKER --volume %s:/data:ro alpine:3\ntrue\n" % str(data).encode()
    made = _prologue(node, _arguments(tmp_path, text))
    assert made is not None
    assert (made.state, made.refusal) == (State.READY, None)
    assert node.config_of(made) is open_
    second = _prologue(node, _arguments(tmp_path, text))

    assert second is not None
    assert second.refusal is not None
    assert second.refusal.code == "mount-not-allowed"
