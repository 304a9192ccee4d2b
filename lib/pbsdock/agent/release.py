"""Release: the one idempotent teardown of a record. The epilogue, a failed prologue and the reaper all call it."""

from __future__ import annotations

import time

from pbsdock.agent.node import Node, ms_since
from pbsdock.agent.teardown import tear_down
from pbsdock.core.record import Record, State
from pbsdock.core.story import story_of
from pbsdock.core.trail import Phase
from pbsdock.protocol import wire


def release(node: Node, record: Record, *, why: str, keep: bool = False) -> bool:
    """Undo every step of *record*, look whether it worked, and forget the record; returns whether all is gone.

    Safe for steps that never happened or happened half. With *keep* the record and its marker stay (a refusal is
    still to be told). What could not be undone keeps the record, and the reaper tries again.
    """
    began, before = time.monotonic(), record.state
    told = {"why": why, "state": record.state.value, "phase": "release"}
    if keep:
        node.emit("release.begun", record, **told)
    else:
        # Room is what this makes: a full disk must not stop it. The next agent would find the record as it was before.
        record.advance(State.RELEASING, must_be_written=False, **told)
    failures = tear_down(node, record)
    if failures:
        node.emit("release.failed", record, level="error", reason="; ".join(failures), phase="release")
        return False
    if not keep:
        node.rm.released(record.job_id)
        _remember(node, record, before, why, ms_since(began))
        node.unmark(record)
        node.jobs.remove(record)
        node.planned_by.pop(record.incarnation, None)
        _tell_run_hook(node, record, why)
    node.emit("release.done", record, why=why, ms=ms_since(began), phase="release")
    return True


def _remember(node: Node, record: Record, before: State, why: str, ms: float) -> None:
    """Keep what ``pbsdock why`` tells. Best effort: a crash from here on makes it once more, and the same."""
    now = time.time()
    record.put_down(Phase(name="release", at=now - ms / 1000, ms=ms, note=why))
    node.history.keep(story_of(record, now, removed_for=why, over_from=before.value))


def _tell_run_hook(node: Node, record: Record, why: str) -> None:
    """Let a run hook that still waits go: its container was taken away from under it."""
    run = node.jobs.job_run(record.incarnation)
    if run is not None:
        node.jobs.drop(run)
        if run.ended is None:
            sentence = f"the container was removed while the job ran ({why}); exit status 137 is not the job's own"
            run.end(wire.Message("ended", code=137, sentence=sentence))
    node.streams.end(record.incarnation)
