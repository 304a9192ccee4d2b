"""A job of several nodes on nodes of fakes: tickets, tasks that bring one or none, what is asked of whom; the channel
and the signatures are real."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent import all_nodes, announced, neighbours, prepare, tickets, witness
from pbsdock.agent.arrivals import Arrival, Outcome
from pbsdock.agent.reconcile import reconcile
from pbsdock.agent.refusals import new_record
from pbsdock.agent.stores import Stores
from pbsdock.cluster.signing import KeySigner
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.facts import Usage, uptime
from pbsdock.core.record import Record, State
from pbsdock.core.story import story_of
from pbsdock.core.ticket import VARIABLE, run_of
from pbsdock.engine.base import ImageFacts
from pbsdock.protocol import wire
from pbsdock.rm.base import Grant, Job
from pbsdock.stores.secret import name_of
from tests.support.torque import job as _job
from tests.unit.fakes import FakeNode, ask, fake_node, known
from tests.unit.test_neighbours import _listening
from tests.unit.test_policy import _plan

_KEY, _OTHER_KEY = KeySigner(b"k" * 32), KeySigner(b"o" * 32)
_UID, _BOB = 1000, 1001
_RUN = run_of("COOKIE", "7.s")
_HOSTS = ("localhost", "n2")


class FakeLive(SimpleNamespace):
    """A live job as a manager finds it on a sister."""

    def job(self, _env: Any) -> Job:
        found: Job = self.found
        return found


def _here(**changes: Any) -> FakeLive:
    made = replace(
        _job("nodes=2", job_id="7.s", uid=_UID, user="u", script_path=None), grant=Grant(hosts=_HOSTS, slots_total=2)
    )
    usual: dict[str, Any] = {"id": "7.s", "uid": _UID, "wrong": "", "run": _RUN, "slots": 1, "hosts": _HOSTS}
    usual |= {"found": made, "is_sister": True, "directive": "", "has_more": False}
    return FakeLive(**{**usual, **changes})


def _node(directory: Path, name: str, port: int = 15010, more: str = "") -> FakeNode:
    node = fake_node(directory, f"[nodes]\nport = {port}\n{more}")
    node.name, node._signer = name, _KEY
    return node


def _plan_of_job() -> Any:
    return replace(_plan("alpine:3"), uid=_UID, job_id="7.s")


@pytest.fixture
def mother(tmp_path: Path) -> FakeNode:
    return _node(tmp_path / "a", "localhost")


@pytest.fixture
def sister(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    node = _node(tmp_path / "b", "n2")
    monkeypatch.setattr(node.rm, "find", lambda _id, **_how: _here())
    return node


def _issued(mother: FakeNode, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Record:
    """The mother superior's record with a ticket in it."""
    monkeypatch.setattr(mother.rm, "find", lambda _id, **_how: _here(is_sister=False))
    record = known(mother, State.READY, plan=_plan_of_job(), uid=_UID, first_process=True, hosts=_HOSTS, **changes)
    record.image_digest = "sha256:" + "d" * 64
    tickets.issue(mother, _here().found, record, record.planned, "#DOCKER alpine:3\n", is_script=True)
    return record


def _task(ticket: str = "", job: str = "7.s") -> wire.Message:
    env = [f"{VARIABLE}={ticket}".encode()] if ticket else []
    return wire.Message("start", job=job, argv=b"/bin/true", cwd="/", env=env)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, tickets.Bearer]]:
    """What was prepared from a ticket: it becomes a record that is refused, which a start tells."""
    calls: list[tuple[Job, tickets.Bearer]] = []

    def from_ticket(node: FakeNode, job: Job, bearer: tickets.Bearer, _notify: Any, _wrong: str = "") -> Record:
        calls.append((job, bearer))
        record = new_record(node, job, bearer)
        record.refuse(Refusal("seen", f"prepared for {bearer.ticket.mother}"))
        node.jobs.create(record)
        return record

    monkeypatch.setattr(prepare, "from_ticket", from_ticket)
    return calls


# -- the mother superior ----------------------------------------------------------------------------------------------


def test_a_ticket_is_issued_for_several_nodes(mother: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what was planned, and is kept in the record, which the channel reads it from."""
    record = _issued(mother, monkeypatch)
    bearer = tickets.checked(mother, _here(), record.facts.ticket, _UID)

    assert (bearer.ticket.incarnation, bearer.ticket.run) == (record.incarnation, _RUN)
    assert (bearer.ticket.directive, bearer.ticket.image_id) == ("#DOCKER alpine:3\n", record.image_id)
    assert mother.events.names() == ["ticket.issued"]


@pytest.mark.parametrize("missing", ["nodes", "signer", "first-process"])
def test_no_ticket_where_nobody_could_use_it(mother: FakeNode, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """A job of one node; nodes that cannot sign; containers without a first process, which tasks need."""
    if missing == "signer":
        mother._signer, mother._signer_at = None, float("inf")
    record = known(mother, State.READY, plan=_plan_of_job(), first_process=missing != "first-process")
    made = _here().found if missing != "nodes" else replace(_here().found, grant=Grant(hosts=("localhost",)))
    tickets.issue(mother, made, record, record.planned, "#DOCKER alpine:3\n", is_script=True)

    assert record.facts.ticket == ""


def test_a_directive_too_long_to_travel_is_refused(mother: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it comes to and what may be."""
    monkeypatch.setattr(mother.rm, "find", lambda _id, **_how: _here(is_sister=False))
    record = known(mother, State.READY, plan=_plan_of_job(), first_process=True)
    record.image_digest = "sha256:1"
    long = f"#DOCKER --env A={os.urandom(30_000).hex()} alpine:3\n"

    with pytest.raises(Refusal, match="at most 32000 can be passed on") as caught:
        tickets.issue(mother, _here().found, record, record.planned, long, is_script=True)

    assert caught.value.code == "ticket-too-long"


@pytest.mark.parametrize(("has", "refuses"), [(True, False), (False, True), (None, False)])
def test_an_image_of_no_registry_is_looked_for_on_sisters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: bool | None, refuses: bool
) -> None:
    """One that a sister does not have is refused before anything is started; one that cannot be asked may have it."""
    there = _node(tmp_path / "b", "localhost")

    def inspect(_image: str) -> ImageFacts | None:
        if has is None:
            raise NodeFault("engine", "away")
        return ImageFacts(id="sha256:1", digests=(), architecture="amd64", size_bytes=1) if has else None

    monkeypatch.setattr(there.images, "inspect", inspect, raising=False)
    with _listening(there) as port:
        node = _node(tmp_path / "a", "n1", port)
        record = known(node, State.READY, plan=_plan_of_job(), first_process=True)
        made = replace(_here().found, grant=Grant(hosts=("n1", "localhost")))
        monkeypatch.setattr(node.rm, "find", lambda _id, **_how: _here(is_sister=False))
        if refuses:
            with pytest.raises(Refusal, match=r"is on n1, comes from no registry, and is not on localhost"):
                tickets.issue(node, made, record, record.planned, "#DOCKER alpine:3\n", is_script=True)
        else:
            tickets.issue(node, made, record, record.planned, "#DOCKER alpine:3\n", is_script=True)
            assert record.facts.ticket


# -- a sister's task with a ticket ------------------------------------------------------------------------------------


def test_a_ticket_makes_the_container(
    mother: FakeNode, sister: FakeNode, monkeypatch: pytest.MonkeyPatch, prepared: list[Any]
) -> None:
    """Under the mother superior's name for it, so that the events of all nodes belong together; once."""
    issued = _issued(mother, monkeypatch)
    answers = [ask(sister, _UID, _task(issued.facts.ticket))[0].text("sentence") for _ in (1, 2)]

    assert answers == ["prepared for localhost"] * 2
    ((job, bearer),) = prepared
    (record,) = sister.jobs.records()
    assert (record.incarnation, record.facts.mother) == (issued.incarnation, "localhost")
    assert record.facts.run == bearer.ticket.run == _RUN
    assert job.id == "7.s"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"signed": "other"}, "ticket-not-genuine"),
        ({"signed": "edited"}, "ticket-not-genuine"),
        ({"run": "another"}, "ticket-other-run"),
        ({"slots": 0}, "ticket-other-node"),
        ({"uid": _BOB}, "ticket-other-user"),
        ({"caller": _BOB}, "ticket-other-user"),
        ({"now": -2e9}, "ticket-clock"),
        ({"now": 2e9}, "ticket-expired"),
        ({"signer": None}, "ticket-unverified"),
        ({"live": None}, "no-such-job"),
    ],
    ids=str,
)
def test_a_wrong_ticket_makes_nothing(
    mother: FakeNode,
    sister: FakeNode,
    monkeypatch: pytest.MonkeyPatch,
    prepared: list[Any],
    changes: dict[str, Any],
    code: str,
) -> None:
    """Forged, edited, of another run, job, user, node or time; each is told, and one line in the stream."""
    changes = dict(changes)
    signed, apart_s = changes.pop("signed", ""), changes.pop("now", 0.0)
    caller = changes.pop("caller", changes.get("uid", _UID))
    mother._signer = _OTHER_KEY if signed == "other" else _KEY
    text = _issued(mother, monkeypatch).facts.ticket
    if signed == "edited":
        text = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    if "signer" in changes:
        sister._signer, sister._signer_at = changes.pop("signer"), float("inf")
    live = changes["live"] if "live" in changes else _here(**changes)
    monkeypatch.setattr(sister.rm, "find", lambda _id, **_how: live)
    now = time.time()
    monkeypatch.setattr(tickets, "time", SimpleNamespace(time=lambda: now + apart_s))
    (answer,) = ask(sister, caller, _task(text))

    assert (answer.op, answer.text("code")) == ("refused", code)
    assert (prepared, sister.jobs.records()) == ([], [])
    told = [name for name in sister.events.names() if name == "ticket.refused"]
    assert len(told) == (code not in ("no-such-job", "ticket-unverified"))


def test_another_jobs_ticket_is_as_good_as_none(
    mother: FakeNode, sister: FakeNode, monkeypatch: pytest.MonkeyPatch, prepared: list[Any]
) -> None:
    """A job that was submitted within another has that one's in its environment (qsub -V)."""
    text = _issued(mother, monkeypatch).facts.ticket
    monkeypatch.setattr(sister.rm, "find", lambda _id, **_how: _here(id="8.s", hosts=("127.0.0.1", "n2")))
    monkeypatch.setattr(announced, "_STARTS_S", 0.0)
    sister.config = replace(sister.config, nodes=replace(sister.config.nodes, port=1))

    assert [answer.op for answer in ask(sister, _UID, _task(text, job="8.s"))] == ["bare"]
    record = known(
        sister, State.READY, job_id="8.s", plan=_plan_of_job(), uid=_UID, mother="127.0.0.1", ticket="k1.own.x"
    )
    record.refuse(Refusal("seen", "its own"))
    assert ask(sister, _UID, _task(text, job="8.s"))[0].text("sentence") == "its own"
    assert (prepared, "ticket.refused" in sister.events.names()) == ([], False)


def test_a_task_without_a_ticket_goes_where_the_others_are(
    mother: FakeNode, sister: FakeNode, monkeypatch: pytest.MonkeyPatch, prepared: list[Any]
) -> None:
    """Once the job is known here, its owner's tasks need none; another user's are another user's."""
    ask(sister, _UID, _task(_issued(mother, monkeypatch).facts.ticket))

    assert ask(sister, _UID, _task())[0].text("sentence") == "prepared for localhost"
    assert ask(sister, _BOB, _task())[0].text("code") == "not-your-job"
    assert len(prepared) == 1


def test_what_an_earlier_run_left_is_not_used(
    mother: FakeNode, sister: FakeNode, monkeypatch: pytest.MonkeyPatch, prepared: list[Any]
) -> None:
    """A record of another ticket is no answer to this one."""
    known(sister, State.RUNNING, plan=_plan_of_job(), uid=_UID, mother="localhost", ticket="k1.older.x", run="r0")
    ask(sister, _UID, _task(_issued(mother, monkeypatch).facts.ticket))

    assert len(prepared) == 1


def test_the_run_hook_of_the_first_node_needs_no_ticket(
    mother: FakeNode, monkeypatch: pytest.MonkeyPatch, prepared: list[Any]
) -> None:
    """There the record is from the prologue; a ticket in the environment changes nothing."""
    record = _issued(mother, monkeypatch)
    record.advance(State.REFUSED)
    (answer,) = ask(mother, _UID, _task("k1.forged.x"))

    assert (answer.op, prepared) == ("refused", [])


# -- a job that is announced ------------------------------------------------------------------------------------------


def _announced(node: FakeNode, live: FakeLive) -> Arrival:
    arrival = announced.ask(node, live, {})
    assert arrival.over.wait(10.0)
    return arrival


def test_an_announced_job_is_prepared_ahead(
    mother: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: list[Any]
) -> None:
    """By the ticket that the mother superior tells of; asked for once however many tasks come."""
    issued = _issued(mother, monkeypatch)
    with _listening(mother) as port:
        node = _node(tmp_path / "c", "n2", port)
        arrivals = [_announced(node, _here()) for _ in (1, 2)]

    assert [arrival.outcome for arrival in arrivals] == [Outcome.PREPARED] * 2
    assert [bearer.text for _job, bearer in prepared] == [issued.facts.ticket]
    assert dict(node.events.told)["job.announced"]["outcome"] == "prepared"


@pytest.mark.parametrize(
    ("script", "directive", "bare"),
    [
        (b"#!/bin/sh\nmpirun x\n", "", True),
        (b"#!/bin/sh\n#DOCKER alpine:3\n", "", False),
        (b"#!/bin/sh\n#DOCKER --nonsense\n", "", False),
        (b"#!/bin/sh\nmpirun x\n", "alpine:3", False),
        (None, "", True),
        (None, "alpine:3", False),
    ],
)
def test_what_the_mother_superior_says_of_a_job_to_come(
    mother: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: bytes | None, directive: str, bare: bool
) -> None:
    """Before its prologue: by the script, and by what qsub was given."""
    path = tmp_path / "7.s.SC"
    if script is not None:
        path.write_bytes(script)
    found = replace(_here().found, script_path=str(path) if script is not None else None)
    live = _here(is_sister=False, found=found, directive=directive)
    monkeypatch.setattr(mother.rm, "find", lambda _id, **_how: live)
    with _listening(mother) as port:
        node = _node(tmp_path / "c", "n2", port)

        assert neighbours.ask(node, "localhost", "ticket", "7.s")["bare"] is bare


def test_a_bare_job_is_let_go(
    mother: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: list[Any]
) -> None:
    """Its tasks become what mom would have started, and no marker makes them ask."""
    monkeypatch.setattr(mother.rm, "find", lambda _id, **_how: _here(is_sister=False))
    with _listening(mother) as port:
        node = _node(tmp_path / "c", "n2", port, 'without_ticket = "refuse"\n')
        monkeypatch.setattr(node.rm, "find", lambda _id, **_how: _here())
        node.paths.mark("7.s")
        answers = ask(node, _UID, _task())

    assert [answer.op for answer in answers] == ["bare"]
    assert (os.listdir(node.paths.markers), prepared) == ([], [])


@pytest.mark.parametrize(("policy", "last"), [("bare", "bare"), ("refuse", "refused")])
def test_a_job_that_nobody_can_tell_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: list[Any], policy: str, last: str
) -> None:
    """As the site says, since it may be a job without a container."""
    node = _node(tmp_path, "n2", 1, f'without_ticket = "{policy}"\n')
    monkeypatch.setattr(node.rm, "find", lambda _id, **_how: _here(hosts=("127.0.0.1", "n2")))
    monkeypatch.setattr(node.rm, "is_live", lambda _id: True)
    answers = ask(node, _UID, _task())

    assert [answer.op for answer in answers] == [last]
    assert prepared == []
    if last == "refused":
        assert answers[-1].text("code") == "no-ticket"
        assert "nobody listens on 127.0.0.1 at port 1" in answers[-1].text("sentence")


def test_a_job_that_is_gone_is_not_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its marker goes, also where the agents ask each other nothing."""
    node = _node(tmp_path, "n2", 0)
    monkeypatch.setattr(node.rm, "find", lambda _id, **_how: None)
    node.paths.mark("7.s")
    (answer,) = ask(node, 0, wire.Message("announce", argv=b"7.s"))

    assert (answer.op, os.listdir(node.paths.markers)) == ("swept", [])


def test_another_users_announced_job_is_not_told_of(sister: FakeNode, prepared: list[Any]) -> None:
    """Whoever asks about it hears what a job that is not there gives."""
    assert ask(sister, _BOB, _task())[0].text("code") == "no-such-job"


# -- the second witness -----------------------------------------------------------------------------------------------


def _idle(node: FakeNode, **facts: Any) -> Record:
    """A sister's record that mom's file alone speaks for."""
    (node.paths.mom_priv / "jobs/7.s.JB").touch()
    usual: dict[str, Any] = {"mother": "localhost", "hosts": _HOSTS, "job_file": "7.s.JB", "alive_at": uptime() - 1000}
    return known(node, State.RUNNING, plan=_plan_of_job(), uid=_UID, **{**usual, **facts})


def test_a_job_that_its_mother_superior_does_not_know_is_over(mother: FakeNode, tmp_path: Path) -> None:
    """Although mom's file is there."""
    with _listening(mother) as port:
        node = _node(tmp_path / "c", "n2", port)
        _idle(node)
        found = reconcile(node)

    assert [finding.why for finding in found.findings] == [witness.FORSAKEN]
    assert (found.reaped, node.jobs.records()) == (1, [])


@pytest.mark.parametrize("reason", ["alive", "young", "task", "mothers own", "other run"])
def test_what_is_known_or_at_work_stays(
    mother: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Nobody is asked while tasks run, or about what the prologue made; a word of the mother superior's counts for the
    run it is of."""
    with _listening(mother) as port:
        node = _node(tmp_path / "c", "n2", port)
        record = _idle(
            node, **({"alive_at": uptime()} if reason == "young" else {"mother": ""} if reason == "mothers own" else {})
        )
        if reason in ("alive", "other run"):
            (mother.paths.mom_priv / "jobs/7.s.JB").touch()
            there = known(mother, State.RUNNING, plan=_plan_of_job(), job_file="7.s.JB", alive_at=uptime())
            if reason == "alive":
                there.incarnation = record.incarnation
        monkeypatch.setattr(node, "tasks", lambda _record: int(reason == "task"))
        found = witness.forsaken(node, [record], 120.0)

    assert [finding.name for _record, finding in found] == ([record.name] if reason == "other run" else [])


@pytest.mark.parametrize(("server_knows", "dead"), [(True, False), (False, True), (None, False)])
def test_the_server_is_asked_where_the_mother_superior_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_knows: bool | None, dead: bool
) -> None:
    """And who knows nothing changes nothing."""
    node = _node(tmp_path, "n2", 1)
    record = _idle(node, hosts=("127.0.0.1", "n2"))
    monkeypatch.setattr(node.rm, "knows", lambda _id: server_knows)

    assert bool(witness.forsaken(node, [record], 120.0)) is dead


# -- what all nodes used ----------------------------------------------------------------------------------------------


def test_what_all_nodes_used_is_added_up() -> None:
    """Of those that have told; how many have not can be seen."""
    found = all_nodes.total([{"cpu_seconds": 1.5, "memory_peak_bytes": 10}, None, {"cpu_seconds": None}])

    assert (found.nodes, found.told, found.cpu_seconds, found.memory_peak_bytes) == (3, 2, 1.5, 10)


def test_what_a_sister_used_is_told_when_it_is_over(
    mother: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its history, by the incarnation; one that is lost costs no more than being asked."""
    there = mother
    record = known(there, State.ENDED, plan=_plan_of_job(), uid=_UID, usage=Usage(cpu_seconds=2.0, memory_peak_bytes=7))
    there.jobs.remove(record)
    there.history.keep(story_of(record, 1.0, removed_for="epilogue", over_from="ended"))
    with _listening(there) as port:
        node = _node(tmp_path / "c", "n1", port)
        own = known(node, State.ENDED, plan=_plan_of_job(), hosts=("n1", "localhost", "no-such-host.invalid"))
        own.incarnation = record.incarnation
        own.note(usage=Usage(cpu_seconds=1.0, memory_peak_bytes=3))
        found = all_nodes.of_job(node, own)

    assert (found.nodes, found.told, found.cpu_seconds, found.memory_peak_bytes) == (3, 2, 3.0, 10)


# -- credentials ------------------------------------------------------------------------------------------------------


def test_the_mother_superior_revokes_what_sisters_have(mother: FakeNode) -> None:
    """A sister that was lost cannot; a sister revokes its own alone."""
    stores = Stores(mother.config, "test@n1", mother.emit)
    record = known(mother, State.ENDED, plan=_plan_of_job(), hosts=("n1", "n2", "n3"), ticket="k1.x.y")

    expected = [name_of(f"test@{host}", record.incarnation, "ceph") for host in ("n2", "n3")]
    assert stores._names_elsewhere(record, "ceph") == expected
    record.note(mother="n0")
    assert stores._names_elsewhere(record, "ceph") == []
