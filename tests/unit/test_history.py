"""What is remembered of jobs that are over: files of root's alone, bounded in age and size, never in a release's way."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent.history import History, Kept, to_prune
from pbsdock.agent.reconcile import reconcile
from pbsdock.agent.release import release
from pbsdock.agent.server import adopt
from pbsdock.config.tables import HistoryConfig
from pbsdock.core import redact
from pbsdock.core.facts import Exit, Usage
from pbsdock.core.ledger import Ledger
from pbsdock.core.record import State
from tests.unit.fakes import FakeNode, fake_node, known
from tests.unit.stories import story

_DAY = 86400.0


def _history(directory: Path, told: list[str] | None = None, **config: Any) -> History:
    def emit(event: str, **fields: Any) -> None:
        if told is not None:
            told.append(f"{event} {fields['reason']}")

    return History(directory / "history", HistoryConfig(**config), emit)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / "history").rglob("*") if path.is_file())


def test_kept_and_found(tmp_path: Path) -> None:
    """By its id, or its number alone; as it was."""
    history, kept = _history(tmp_path), story(3)
    history.keep(kept)

    assert history.of("7.vm", 2001) == history.of("7", 2001) == history.of("7", None) == [kept]
    assert history.of("7.v", 2001) == history.of("70", 2001) == history.of("7.vm", 2002) == []


def test_files_are_roots_alone(tmp_path: Path) -> None:
    """0600 below 0700, whatever the umask."""
    before = os.umask(0)
    try:
        _history(tmp_path).keep(story())
    finally:
        os.umask(before)
    (file,) = _files(tmp_path)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_incarnations_are_told_the_newest_first(tmp_path: Path) -> None:
    """Also where a job of the same number came from another server; of other users' nothing."""
    history = _history(tmp_path)
    for number, uid in ((1, 2001), (2, 2001), (3, 2002)):
        history.keep(story(incarnation=f"{number:08x}aa", created_at=float(number), uid=uid))
    history.keep(story(job="7.other", incarnation="00000009bb", created_at=9.0))

    assert [found.created_at for found in history.of("7", 2001)] == [9.0, 2.0, 1.0]
    assert [found.created_at for found in history.of("7.vm", None)] == [3.0, 2.0, 1.0]


def test_an_array_element(tmp_path: Path) -> None:
    """Its id is no file name."""
    history = _history(tmp_path)
    history.keep(story(job="16[0].vm"))

    assert [found.job for found in history.of("16[0]", 2001)] == ["16[0].vm"]
    assert history.of("16[1]", 2001) == history.of("16", 2001) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', "\0", "[" * 100000])
def test_a_file_that_cannot_be_read_is_passed_over(tmp_path: Path, text: str) -> None:
    """A crash of the host may have left it empty."""
    history = _history(tmp_path)
    history.keep(story(incarnation="00000001aa"))
    _files(tmp_path)[0].write_text(text)
    history.keep(story(incarnation="00000002aa"))

    assert [found.incarnation for found in history.of("7", 2001)] == ["00000002aa"]


def test_nothing_is_kept_where_the_site_wants_none(tmp_path: Path) -> None:
    """And what was there before goes."""
    _history(tmp_path).keep(story())
    history = _history(tmp_path, days=0.0)
    history.keep(story(job="8.vm"))
    history.tidy()

    assert _files(tmp_path) == []


def test_no_secret_is_kept(tmp_path: Path) -> None:
    """A live key that an engine or a store has put into a sentence."""
    redact.known.add("7.vm", "s3cr3t-of-a-session")
    try:
        _history(tmp_path).keep(story(1, exit=Exit(code=1, sentences=("no: s3cr3t-of-a-session",))))
    finally:
        redact.known.forget("7.vm")

    assert "[redacted]" in _files(tmp_path)[0].read_text()
    assert "s3cr3t" not in _files(tmp_path)[0].read_text()


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    """And raises nothing."""
    told: list[str] = []
    history = _history(tmp_path, told)
    (tmp_path / "history").write_text("in the way")
    history.keep(story())

    assert len(told) == 1
    assert told[0].startswith("history.failed job 7.vm: ")
    assert history.of("7", 2001) == []
    assert history.prune() == 0


def test_the_last_room_is_the_ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is nearly full nothing is remembered, and that is told; the size of the disk is a fake."""
    told: list[str] = []
    history = _history(tmp_path, told)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=99, f_blocks=1000))
    history.keep(story())

    assert told == [
        "history.failed job 7.vm: [Errno 28] the last tenth of the file system is left to the jobs' records"
    ]
    assert _files(tmp_path) == []


# -- room ---------------------------------------------------------------------------------------------------------------


def _kept(name: str, uid: str, at: float, size: int = 10) -> Kept:
    return Kept(name, uid, at, size)


def test_what_is_old_goes() -> None:
    """To the second."""
    files = [_kept("a", "1", 0.0), _kept("b", "1", 1.0)]

    assert [file.path for file in to_prune(files, now=14 * _DAY, days=14, most=1000)] == ["a"]


def test_who_has_most_makes_room() -> None:
    """The oldest of theirs, until a tenth is free; who has little keeps it, however old."""
    files = [_kept(f"big{number}", "1", 10.0 + number) for number in range(9)] + [_kept("small", "2", 1.0)]
    gone = to_prune(files, now=20.0, days=1, most=99)

    assert [file.path for file in gone] == ["big0", "big1"]
    assert to_prune(files, now=20.0, days=1, most=100) == []


def test_pruned_by_age_and_looked_at_now_and_then(tmp_path: Path) -> None:
    """An empty directory goes with its last file; the next look is an hour later."""
    history = _history(tmp_path)
    history.keep(story())
    (file,) = _files(tmp_path)
    os.utime(file, (time.time() - 15 * _DAY,) * 2)
    history.tidy()
    assert not file.parent.exists()

    history.keep(story())
    os.utime(file, (time.time() - 15 * _DAY,) * 2)
    history.tidy()
    assert file.exists()


def test_too_much_is_looked_at_at_once(tmp_path: Path) -> None:
    """A wave of jobs does not have to wait for the hour."""
    history = _history(tmp_path, max_bytes=1 << 20)
    history.tidy()
    asked = "#DOCKER " + "x" * 60000
    for number in range(20):
        history.keep(story(incarnation=f"{number:08x}aa", asked=asked))
    history.tidy()

    total = sum(file.stat().st_size for file in _files(tmp_path))
    assert 500_000 < total < 1 << 20


# -- by a release -------------------------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    """With nothing in it."""
    return fake_node(tmp_path)


def test_a_release_keeps_it_once(node: FakeNode) -> None:
    """With why it was released, where it was then, and how long that took."""
    record = known(node, State.ENDED, job_id="7.vm", uid=2001, started_at=1.0, usage=Usage(pids_peak=4))
    record.exit = Exit(code=3, at=2.0)
    assert release(node, record, why="epilogue")
    (kept,) = node.history.of("7", 2001)

    assert (kept.removed_for, kept.over_from, kept.exit, kept.used) == (
        "epilogue",
        "ended",
        record.exit,
        Usage(pids_peak=4),
    )
    assert [phase.note for phase in kept.phases if phase.name == "release"] == ["epilogue"]
    assert len(_files(node.paths.state_dir)) == 1


def test_a_release_that_is_not_complete_keeps_nothing_yet(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record is there, and is asked."""
    monkeypatch.setattr("pbsdock.agent.release.tear_down", lambda *_: ["container: it stays"])
    record = known(node, State.READY, job_id="7.vm", uid=2001)

    assert not release(node, record, why="epilogue")
    assert node.history.of("7", 2001) == []


def test_a_refusal_that_is_still_to_be_told_is_not_over(node: FakeNode) -> None:
    """Its record is released when its job is."""
    record = known(node, State.REFUSED, job_id="7.vm", uid=2001)

    assert release(node, record, why="refused", keep=True)
    assert node.history.of("7", 2001) == []


def test_no_release_waits_for_the_history(node: FakeNode) -> None:
    """A full disk, here a file in its place: the teardown is complete, and the event tells."""
    (node.paths.state_dir / "history").write_text("in the way")
    record = known(node, State.ENDED, job_id="7.vm")

    assert release(node, record, why="epilogue")
    assert node.jobs.records() == []
    assert "history.failed" in node.events.names()


def test_an_agent_killed_between_history_and_ledger(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one releases again, and it is kept once all the same."""
    record = known(node, State.ENDED, job_id="7.vm", uid=2001)

    def killed(_record: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(node.jobs, "remove", killed)
        with pytest.raises(SystemExit):
            release(node, record, why="epilogue")
    assert len(_files(node.paths.state_dir)) == 1

    node.jobs._ledger = Ledger(node.paths.state_dir / "jobs")  # as the next agent reads it
    adopt(node)

    assert node.jobs.records() == []
    (file,) = _files(node.paths.state_dir)
    assert json.loads(file.read_bytes())["incarnation"] == record.incarnation


def test_an_agent_killed_while_it_writes(node: FakeNode) -> None:
    """Half a file has another name, and is written over."""
    record = known(node, State.ENDED, job_id="7.vm", uid=2001)
    half = node.paths.state_dir / "history/2001" / f".new-{record.incarnation}"
    half.parent.mkdir(parents=True)
    half.write_text('{"version"')
    assert node.history.of("7", 2001) == []
    assert release(node, record, why="epilogue")

    assert len(node.history.of("7", 2001)) == 1
    assert not half.exists()


def test_the_reaper_tidies_up(node: FakeNode) -> None:
    """But not when it only looks."""
    node.history.keep(story())
    (file,) = _files(node.paths.state_dir)
    os.utime(file, (1.0, 1.0))
    reconcile(node, dry_run=True)
    assert file.exists()

    reconcile(node)
    assert not file.exists()
