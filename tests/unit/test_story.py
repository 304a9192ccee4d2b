"""A job's story: from its record, through JSON and back."""

from __future__ import annotations

import json

import pytest

from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Exit, Usage
from pbsdock.core.record import State
from pbsdock.core.story import from_json, story_of, to_json
from pbsdock.core.trail import MOST_PHASES, Decision, Fault, Phase, phase_of, with_phase
from tests.unit.records import record_in
from tests.unit.stories import story, unstarted


def test_from_a_record_that_runs() -> None:
    """Its times and facts; it is not over, and runs until it is asked about."""
    record = record_in(State.RUNNING, started_at=1000.0, asked="#DOCKER x")
    record.node = "main@n1"
    found = story_of(record, 1010.0)

    assert (found.job, found.user, found.node, found.state, found.asked) == ("7.s", "u", "n1", "running", "#DOCKER x")
    assert (found.is_over, found.outcome, found.run_s, found.ended_at) == (False, "", 10.0, None)


def test_from_a_record_that_goes() -> None:
    """With how it ended, what it used, and why it goes."""
    record = record_in(State.ENDED, started_at=1000.0, usage=Usage(pids_peak=3), exit_status=0)
    record.exit = Exit(code=0, at=1004.0)
    found = story_of(record, 1010.0, removed_for="epilogue", over_from="ended")

    assert (found.state, found.outcome, found.run_s, found.used) == ("over", "ran", 4.0, Usage(pids_peak=3))
    assert (found.removed_for, found.over_from, found.exit_status) == ("epilogue", "ended", 0)


def test_a_container_that_was_taken_away() -> None:
    """Nobody saw its end, which was at the latest when it was removed."""
    record = record_in(State.RUNNING, started_at=1000.0)

    assert story_of(record, 1010.0, removed_for="epilogue", over_from="running").run_s == 10.0


def test_from_a_record_that_was_refused() -> None:
    """It says so before it is released, too."""
    record = record_in(State.PREPARING)
    record.refuse(Refusal("network-not-allowed", "no"))

    assert story_of(record, 1.0).outcome == "refused"
    assert [phase.name for phase in story_of(record, 1.0).phases] == ["refusal"]


def test_outcomes_without_a_start() -> None:
    """The node's fault has the job queued again, the user's and a job that was deleted do not."""
    fault = Fault(code="c", sentence="s")
    assert unstarted(removed_for="prologue-failed", fault=fault).outcome == "queued again"
    assert unstarted(removed_for="prologue-failed", fault=fault, on_demand=True).outcome == "not started"
    assert unstarted(removed_for="epilogue", fault=fault).outcome == "not started"
    assert unstarted(fault=Fault(code="c", sentence="s", blame="user")).outcome == "not started"
    assert unstarted().outcome == "not started"


def test_json_and_back() -> None:
    """Nothing is lost, and what a later release has added is passed over."""
    before = story(
        3,
        decided=(Decision(what="image", value="x", rule="images.allow", line=3),),
        phases=(Phase(name="image", at=1.0, ms=2.0, note="pulled"),),
        fault=Fault(code="c", sentence="s"),
        kept=("/x",),
    )
    data = json.loads(json.dumps(to_json(before)))

    assert (data["outcome"], data["run_s"]) == ("ran", 12.0)
    assert from_json({**data, "added": [1]}) == before


@pytest.mark.parametrize("data", [None, [], {}, {"version": 2}, {"version": 1}, {"version": 1, "job": 3}])
def test_what_is_no_story(data: object) -> None:
    """One kind of error, whatever a file holds."""
    with pytest.raises(ValueError):  # noqa: PT011 - any reason
        from_json(data)


# -- the trail --------------------------------------------------------------------------------------------------------


def test_states_leave_phases() -> None:
    """The prologue and the start with how long they took; written with the state they lead to."""
    record = record_in(State.PREPARING)
    record.advance(State.READY, phase="prologue", ms=250.0)
    record.advance(State.RUNNING, ms=90.0)

    assert [(phase.name, phase.ms) for phase in record.facts.phases] == [("prologue", 250.0), ("start", 90.0)]
    assert record.facts.phases[0].at < record.facts.phases[1].at


def test_a_state_that_cannot_be_written_leaves_none() -> None:
    """It never was."""

    class Full:
        def save(self, *_: object, **__: object) -> None:
            raise OSError(28, "full")

        def emit(self, *_: object, **__: object) -> None:
            pass

    record = record_in(State.PREPARING)
    record.belongs_to(Full())
    with pytest.raises(OSError, match="full"):
        record.advance(State.READY, ms=1.0)

    assert (record.state, record.facts.phases) == (State.PREPARING, ())


@pytest.mark.parametrize(
    ("event", "fields", "phase"),
    [
        ("cgroup.created", {"ms": 500.0}, Phase(name="cgroup", at=99.5, ms=500.0)),
        ("job.signalled", {"signal": "SIGTERM"}, Phase(name="signal", at=100.0, note="SIGTERM")),
        (
            "mount.skipped",
            {"target": "/t", "reason": "it is gone"},
            Phase(name="mount left out", at=100.0, note="/t: it is gone"),
        ),
        (
            "stage.done",
            {"direction": "in", "files": 2, "bytes": 7, "ms": 1000.0},
            Phase(name="stage-in", at=99.0, ms=1000.0, note="2 files, 7 bytes"),
        ),
        (
            "stage.failed",
            {"direction": "out", "code": "stage-failed"},
            Phase(name="stage-out", at=100.0, note="stage-failed"),
        ),
        ("job.signalled", {}, Phase(name="signal", at=100.0, note="?")),
        ("job.started", {"ms": 1.0}, None),
    ],
)
def test_events_leave_phases(event: str, fields: dict[str, object], phase: Phase | None) -> None:
    """Those a person asks about; states tell their own."""
    assert phase_of(event, fields, 100.0) == phase


def test_the_trail_is_bounded() -> None:
    """A user who signals a job for ever leaves room for the rest, and a record stays small."""
    phases: tuple[Phase, ...] = ()
    for _ in range(100):
        phases = with_phase(phases, Phase(name="signal", at=1.0))
    assert len(phases) == 8

    for number in range(100):
        phases = with_phase(phases, Phase(name=f"n{number}", at=1.0))
    assert len(phases) == MOST_PHASES
    assert len(phase_of("mount.skipped", {"target": "/" + "x" * 5000, "reason": ""}, 1.0).note) == 300  # type: ignore[union-attr]
