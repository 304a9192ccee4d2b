"""What belongs to no live job, found in a snapshot; nothing here is listed from anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pbsdock.agent.findings import Finding, Snapshot, Verdict, claims, dead_records, judge, orphans
from pbsdock.core.record import Record, State
from pbsdock.engine.base import ListedContainer
from tests.unit.records import record_in

_UP, _NOW, _GRACE = 5000.0, 90000.0, 120.0


def _record(state: State, *, age_s: float = 1000.0, boot: str = "b", job_file: str = "7.s.JB") -> Record:
    record = record_in(state, alive_at=_UP - age_s, job_file=job_file)
    record.boot_id = boot
    return record


def _seen(*records: Record, job_files: tuple[str, ...] = (), **listed: object) -> Snapshot:
    plain = Snapshot(boot="b", up_s=_UP, now=_NOW, job_files=frozenset(job_files), records=records)
    return replace(plain, **listed)  # type: ignore[arg-type]  # names of its fields


def _container(record: Record | None = None, *, age_s: float = 1000.0, boot: str = "b") -> ListedContainer:
    incarnation = record.incarnation if record is not None else "0"
    labels = {"pbsdock.incarnation": incarnation, "pbsdock.boot": boot, "pbsdock.job": "7.s"}
    return ListedContainer(id="c1", labels=labels, created_at=_NOW - age_s)


@pytest.mark.parametrize("state", [state for state in State if state is not State.RELEASING])
def test_a_job_with_its_file_lives(state: State) -> None:
    """However old it is."""
    assert dead_records(_seen(_record(state), job_files=("7.s.JB",)), _GRACE) == []


@pytest.mark.parametrize(
    ("state", "age_s", "verdict"),
    [
        (State.PREPARING, 119.0, Verdict.YOUNG),
        (State.PREPARING, 121.0, Verdict.JOB_GONE),
        (State.RUNNING, 119.0, Verdict.YOUNG),
        (State.ENDED, 9.0, Verdict.YOUNG),
        (State.ENDED, 11.0, Verdict.JOB_GONE),
        (State.RELEASING, 0.0, Verdict.JOB_GONE),
    ],
)
def test_a_job_without_its_file_dies_with_its_grace(state: State, age_s: float, verdict: Verdict) -> None:
    """A prologue at work has none yet; what has ended, or is being released, need not wait so long."""
    record = _record(state, age_s=age_s)

    assert judge(record, boot="b", job_files=frozenset(), up_s=_UP, grace_s=_GRACE) is verdict
    assert bool(dead_records(_seen(record), _GRACE)) is verdict.is_dead


def test_a_record_of_another_boot_is_dead() -> None:
    """Though a job has its file, and though it is young."""
    ((_dead, finding),) = dead_records(
        _seen(_record(State.RUNNING, age_s=0.0, boot="a"), job_files=("7.s.JB",)), _GRACE
    )

    assert (finding.kind, finding.why) == ("record", "other-boot")


def test_what_a_record_knows_of_is_no_orphan() -> None:
    """By its incarnation, its name or its job."""
    record = _record(State.PREPARING)
    seen = _seen(
        record,
        containers=(_container(record),),
        cgroups=(record.name,),
        files=(record.name,),
        markers=(record.job_id,),
        pins=(record.name,),
        credentials=(("ceph", "h", record.incarnation),),
    )

    assert orphans(seen, _GRACE) == []


def test_what_no_record_knows_of_is_an_orphan() -> None:
    """Containers before what they hold."""
    seen = _seen(
        containers=(_container(boot="a"), _container()),
        cgroups=("x.1",),
        files=("x.1",),
        markers=("x",),
        pins=("x.1",),
        credentials=(("ceph", "h", "1"),),
    )

    assert [(found.kind, found.name, found.why) for found in orphans(seen, _GRACE)] == [
        ("container", "c1", "other-boot"),
        ("container", "c1", "no-record"),
        ("cgroup", "x.1", "no-record"),
        ("files", "x.1", "no-record"),
        ("marker", "x", "no-record"),
        ("pins", "x.1", "not-starting"),
        ("credentials", "ceph:h", "no-record"),
    ]


@pytest.mark.parametrize(("age_s", "is_orphan"), [(119.0, False), (120.0, True)])
def test_a_young_container_is_left_alone(age_s: float, is_orphan: bool) -> None:
    """Its record may be on its way."""
    assert bool(orphans(_seen(containers=(_container(age_s=age_s),)), _GRACE)) is is_orphan


@pytest.mark.parametrize("state", list(State))
def test_pins_are_for_a_job_that_may_start(state: State) -> None:
    """Of any other they are left over."""
    record = _record(state)
    seen = _seen(record, pins=(record.name,))
    is_left = state in (State.RUNNING, State.STAGING, State.ENDED, State.REFUSED)

    assert [found.kind for found in orphans(seen, _GRACE)] == (["pins"] if is_left else [])
    finding = Finding(kind="pins", name=record.name, job="", why="")
    assert claims([record], finding) is not is_left


@pytest.mark.parametrize(
    ("kind", "name"), [("cgroup", "{0.name}"), ("marker", "{0.job_id}"), ("credentials", "ceph:x-{0.incarnation}-y")]
)
def test_a_record_made_since_claims_what_is_its_own(kind: str, name: str) -> None:
    """And nothing else."""
    record, other = _record(State.PREPARING), record_in(State.PREPARING, job_id="8.s")
    finding = Finding(kind=kind, name=name.format(record), job="", why="")

    assert claims([other, record], finding)
    assert not claims([other], finding)
