"""Records for unit tests, in any state, and a registry for them without a disk."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pbsdock.agent.jobs import Jobs
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record, State


def record_in(
    state: State | str = State.PREPARING,
    *,
    uid: int = 1000,
    job_id: str = "7.s",
    plan: Plan | None = None,
    **facts: Any,
) -> Record:
    """A record that has come as far as *state*, with these facts."""
    record = Record.new(job_id=job_id, safe=job_id, uid=uid, user="u", node="n1", boot_id="b")
    record._state, record.plan = State(state), plan
    record.note(**facts)
    return record


def fake_jobs(*records: Record, emit: Any = lambda *_, **__: None, **ledger: Any) -> Jobs:
    """The agent's registry over a fake ledger, which holds *records* and writes nothing."""
    methods = {
        "load_all": lambda: (list(records), []),
        "for_job": lambda job_id: next((record for record in records if record.job_id == job_id), None),
        "create": lambda record: None,
        "save": lambda record, durable=False: None,
        "remove": lambda record: None,
        "count_of": lambda uid: 0,
    }
    jobs = Jobs(SimpleNamespace(**methods), emit)  # type: ignore[arg-type] - a fake
    jobs._ledger = SimpleNamespace(**{**methods, **ledger})  # type: ignore[assignment] - may fail from now on
    return jobs
