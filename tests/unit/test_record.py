"""A job's state: one table of transitions, one writer, written ahead, told, and drawn in the manual as it is."""

from __future__ import annotations

import itertools
import re
import threading
from typing import Any

import pytest

from pbsdock.core.errors import Refusal
from pbsdock.core.record import TRANSITIONS, IllegalTransitionError, Record, State
from tests.conftest import ROOT
from tests.unit.records import record_in


class FakeJournal:
    """Keeps what it is told; a full disk where the test says so."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.is_full = is_full
        self.lines: list[str] = []

    def save(self, record: Record, *, durable: bool = False) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.lines.append(f"saved {record.state.value}")

    def emit(self, event: str, record: Record, **fields: Any) -> None:
        self.lines.append(" ".join([event, *(f"{key}={value}" for key, value in fields.items())]))


@pytest.mark.parametrize(("before", "to"), list(itertools.product(State, State)))
def test_only_the_table_leads_anywhere(before: State, to: State) -> None:
    """Written first and told then; where no way leads nothing is written, told or changed."""
    record, journal = record_in(before), FakeJournal()
    record.belongs_to(journal)
    event = TRANSITIONS.get((before, to))
    if event is None:
        with pytest.raises(IllegalTransitionError, match=f"cannot become {to.value}: it is {before.value}"):
            record.advance(to)
        assert (record.state, journal.lines) == (before, [])
    else:
        record.advance(to, why="x")
        assert (record.state, journal.lines) == (to, [f"saved {to.value}", *([f"{event} why=x"] if event else [])])


def test_a_state_that_a_fake_full_disk_does_not_take() -> None:
    """It stays as it was, unless the way has to be gone all the same; and then that is told."""
    record, journal = record_in(State.READY), FakeJournal(is_full=True)
    record.belongs_to(journal)
    with pytest.raises(OSError, match="No space"):
        record.advance(State.RUNNING)
    assert (record.state, journal.lines) == (State.READY, [])

    record.advance(State.RELEASING, must_be_written=False)
    assert record.state is State.RELEASING
    assert [line.split()[0] for line in journal.lines] == ["agent.error", "release.begun"]


def test_a_refusal_is_kept_and_told() -> None:
    """With its code and sentence."""
    record, journal = record_in(), FakeJournal()
    record.belongs_to(journal)
    record.refuse(Refusal("image-not-allowed", "no"))

    assert (record.state, record.refusal and record.refusal.code) == (State.REFUSED, "image-not-allowed")
    assert journal.lines == ["saved refused", "job.refused code=image-not-allowed sentence=no phase=prologue"]


def test_facts_of_two_threads_are_both_kept() -> None:
    """A refresh of credentials and the end of a container come at the same time."""
    record = record_in()

    def put(name: str) -> None:
        for number in range(2000):
            record.note(**{name: number})

    threads = [threading.Thread(target=put, args=(name,)) for name in ("pid", "nodes", "pid_start")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (record.facts.pid, record.facts.nodes, record.facts.pid_start) == (1999, 1999, 1999)


def test_nobody_else_writes_a_state() -> None:
    """Not even by the private name, which only the record and the ledger's reader know."""
    writers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "lib/pbsdock").rglob("*.py")
        if re.search(r"\b_state = ", path.read_text())
    ]

    assert writers == ["lib/pbsdock/core/record.py"]
    with pytest.raises(AttributeError):
        record_in().state = State.ENDED  # type: ignore[misc]


def test_every_event_of_the_table_is_registered() -> None:
    """An event that the stream does not know would be refused there."""
    from pbsdock.events.register import EVENTS

    assert {event for event in TRANSITIONS.values() if event} <= set(EVENTS)


def picture() -> str:
    """The table as a state diagram of Mermaid's."""
    lines = ["stateDiagram-v2", "    [*] --> preparing", "    [*] --> refused"]
    lines += [
        f"    {before.value} --> {to.value}" + (f": {event}" if event else "")
        for (before, to), event in TRANSITIONS.items()
    ]
    return "\n".join([*lines, "    releasing --> [*]: release.done"])


def test_the_picture_in_the_manual_is_the_table() -> None:
    """docs/design.md shows every way and its event, and no other."""
    found = re.search(r"```mermaid\n(stateDiagram-v2\n.*?)\n```", (ROOT / "docs/design.md").read_text(), re.DOTALL)

    assert found is not None
    assert found[1] == picture()
