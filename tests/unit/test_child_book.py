"""What is remembered of the containers of jobs: each in its file, whatever becomes of another's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent.child_book import Book, over
from pbsdock.agent.children.start import making
from pbsdock.core.child import Child, ChildState
from pbsdock.core.errors import Refusal
from pbsdock.core.record import State
from tests.unit.fakes import fake_node, known
from tests.unit.test_plan import PLAN

JOB = "1.vm.x"


def _book(directory: Path) -> tuple[Book, list[str]]:
    told: list[str] = []
    return Book(directory, lambda event, **fields: told.append(f"{event} {fields.get('reason', '')}")), told


def _child(key: str, **changes: Any) -> Child:
    return Child(key=key, name=f"name-{key}", plan=PLAN, created=float(len(key)), **changes)


def test_a_damaged_file_hides_no_other(tmp_path: Path) -> None:
    """As a power cut leaves one; that it is damaged is told."""
    book, _ = _book(tmp_path)
    book.add(JOB, _child("aa"))
    book.add(JOB, _child("bbb"))
    (tmp_path / JOB / "aa.json").write_bytes(b"")
    again, told = _book(tmp_path)

    assert [child.key for child in again.of(JOB)] == ["bbb"]
    assert [line.split(":")[0] for line in told] == [f"agent.error {JOB}"]


def test_what_is_forgotten_takes_its_output_along(tmp_path: Path) -> None:
    """Its record, and what it has written."""
    book, _ = _book(tmp_path)
    book.add(JOB, _child("aa"))
    for suffix in ("out", "err"):
        (tmp_path / JOB / f"aa.{suffix}").touch()
    book.forget(JOB, "aa")

    assert list((tmp_path / JOB).iterdir()) == []


def test_the_name_of_one_that_removes_itself_is_free_at_its_end(tmp_path: Path) -> None:
    """Though its container is still being removed; that of any other is taken until it is removed."""
    book, _ = _book(tmp_path)
    book.add(JOB, _child("aa", removes_itself=True))
    book.add(JOB, _child("bb"))
    for key in ("aa", "bb"):
        book.note(JOB, key, **over(0, 1.0))
    book.add(JOB, replace(_child("cc"), name="name-aa"))

    with pytest.raises(Refusal, match='"/name-bb" is already in use'):
        book.add(JOB, replace(_child("dd"), name="name-bb"))


def test_half_made_is_what_nobody_makes(tmp_path: Path) -> None:
    """Not one that is being made, nor one that runs or is over, nor any of a job that is being released."""
    book, _ = _book(tmp_path)
    book.add(JOB, _child("lost"))
    book.add(JOB, _child("over", **over(0, 1.0)))
    book.add(JOB, _child("runs", state=ChildState.RUNNING))
    with book.starting(JOB, "new"):
        book.add(JOB, _child("new"))
        during = book.half_made()
    book.close(JOB, 0.0)

    assert during == [(JOB, "lost")]
    assert book.half_made() == []


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("state", list(State))
def test_nothing_is_made_for_a_job_that_is_over(tmp_path: Path, state: State, is_bare: bool) -> None:
    """Its image may have been fetched for longer than it has lived."""
    node = fake_node(tmp_path)
    record = known(node, state)
    record.note(bare=is_bare)
    if state is (State.READY if is_bare else State.RUNNING):
        with making(node, record):
            assert "children" in record.steps
        return
    with pytest.raises(Refusal, match="is over; nothing more is started in it"), making(node, record):
        pass
    assert "children" not in record.steps


def test_nothing_is_made_for_a_run_of_a_job_that_another_follows(tmp_path: Path) -> None:
    node = fake_node(tmp_path)
    record = known(node, State.RUNNING)
    known(node, State.RUNNING)

    with pytest.raises(Refusal, match="is over"), making(node, record):
        pass
