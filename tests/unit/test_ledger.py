"""The ledger: written ahead, whole after any crash, honest about what it cannot read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pbsdock.core.facts import Bound, Exit
from pbsdock.core.ledger import Ledger
from pbsdock.core.record import Record, State


def _record(job: str = "7.vm", nonce: str = "aa") -> Record:
    return Record.new(job_id=job, safe=job, uid=1, user="a", node="n", boot_id="b", now=1000.0, nonce=nonce)


def test_round_trip_over_a_restart(tmp_path: Path) -> None:
    """What was saved is there for the next agent, root-only."""
    ledger = Ledger(tmp_path / "jobs")
    record = _record()
    ledger.create(record)
    record.advance(State.READY)
    record.advance(State.RUNNING)
    record.note(pid=12, bound=(Bound(source="/a", target="/b", read_only=True, device=1, inode=2),))
    record.begin(["cgroup"])
    record.exit = Exit(code=3, sentences=("why",), at=5)
    ledger.save(record)

    records, problems = Ledger(tmp_path / "jobs").load_all()
    assert (records, problems) == ([record], [])
    assert (tmp_path / "jobs" / f"{record.name}.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700


def test_half_a_write_is_no_write(tmp_path: Path) -> None:
    """A temporary file of a crash is swept, the record before it stands."""
    ledger = Ledger(tmp_path / "jobs")
    ledger.create(_record())
    (tmp_path / "jobs/.new-1234").write_text('{"half')

    records, problems = Ledger(tmp_path / "jobs").load_all()
    assert (len(records), problems) == (1, [])
    assert not (tmp_path / "jobs/.new-1234").exists()


def test_unreadable_records_are_problems_not_silence(tmp_path: Path) -> None:
    """A broken file is named: the reaper must not take its container for an orphan."""
    Ledger(tmp_path / "jobs")
    (tmp_path / "jobs/8.vm.3e8bb.json").write_text("{")
    ledger = Ledger(tmp_path / "jobs")

    assert ledger.load_all()[1] == [
        "8.vm.3e8bb.json: unreadable: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    ]
    (tmp_path / "jobs/9.vm.3e8cc.json").write_text("{}")
    (tmp_path / "jobs/18.vm.3e8bb.json").write_text("{")
    (tmp_path / "jobs/vm.3e8bb.json").write_text("{}")
    assert ledger.load_all()[1][1:] == [
        f"{name}.json appeared from elsewhere" for name in ("18.vm.3e8bb", "9.vm.3e8cc", "vm.3e8bb")
    ]


def test_newest_incarnation(tmp_path: Path) -> None:
    """A job id can come back; the newest record counts, and a removed one is not saved back to life."""
    ledger = Ledger(tmp_path / "jobs")
    old, new = _record(nonce="aa"), _record(nonce="bb")
    new.created = 2000.0
    ledger.create(old)
    ledger.create(new)
    assert ledger.for_job("7.vm") is new
    ledger.remove(new)
    ledger.save(new)

    assert ledger.for_job("7.vm") is old
    assert ledger.for_job("other") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"facts": None}, "facts: Facts: expected a table, got NoneType"),
        ({"facts": {"pid": "1"}}, "facts: expected int, got str"),
        ({"steps": {"cgroup": 1}}, "steps: Step: expected a table, got int"),
        ({"uid": "0"}, "uid: expected int, got str"),
        ({"version": 99}, "it is not a record of this release"),
        ({"safe": "9.vm"}, "it holds the record 9.vm.a1.json"),
    ],
)
def test_records_of_the_wrong_shape_are_not_believed(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    """A record that would fail later, in the middle of a release, is told at once."""
    ledger = Ledger(tmp_path / "jobs")
    record = Record.new(job_id="7.vm", safe="7.vm", uid=1, user="a", node="n", boot_id="b", now=1.0, nonce="x")
    record.incarnation = "a1"
    ledger.create(record)
    path = tmp_path / "jobs/7.vm.a1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    assert Ledger(tmp_path / "jobs").load_all() == ([], [f"7.vm.a1.json: unreadable: {reason}"])
