"""The story of one incarnation of a job, as ``pbsdock why`` tells it: made from its record, kept when that goes. Pure.

Plain data, versioned; fields are only added. Sizes are bytes, ``*_at`` seconds since the epoch, CPU thousandths of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pbsdock.core.facts import Exit, Level, Usage
from pbsdock.core.plain import from_plain, to_plain
from pbsdock.core.plan import Limits
from pbsdock.core.record import Record, Refused, State
from pbsdock.core.trail import Decision, Fault, Phase

VERSION = 1
OVER = "over"  # the state of a job whose record is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What is known of one incarnation of a job.

    ``state`` is its record's, or "over". ``removed_for`` says by what the record was released, "" while it is there:
    the word of the event ``release.begun``. ``exit_status`` is the resource manager's, ``exit`` the container's.
    ``now`` is what a running job has at this moment. ``over_from`` is the record's state when its release began.
    ``hosts`` are the whole job's, the mother superior first, as far as they are known; ``mother`` is named on a sister.
    """

    version: int = VERSION
    job: str
    incarnation: str
    uid: int
    user: str
    node: str
    state: str
    created_at: float
    told_at: float
    asked: str = ""
    on_demand: bool = False
    decided: tuple[Decision, ...] = ()
    image: str = ""
    image_digest: str = ""
    image_id: str = ""
    phases: tuple[Phase, ...] = ()
    limits: Limits | None = None
    walltime_s: int | None = None
    used: Usage | None = None
    shm_peak_bytes: int | None = None
    now: Level | None = None
    started_at: float | None = None
    ended_at: float | None = None
    over_from: str = ""
    removed_for: str = ""
    exit: Exit | None = None
    exit_status: int | None = None
    refusal: Refused | None = None
    fault: Fault | None = None
    kept: tuple[str, ...] = field(default=())  # where to results were moved that could not be uploaded
    hosts: tuple[str, ...] = ()
    mother: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it will change any more, but for what the resource manager says of it."""
        return self.state in (OVER, State.ENDED.value, State.REFUSED.value, State.RELEASING.value)

    @property
    def run_s(self) -> float | None:
        """How long its container has run, None if it never did."""
        if self.started_at is None:
            return None
        return max(0.0, (self.ended_at or self.told_at) - self.started_at)

    @property
    def outcome(self) -> str:
        """One word or two for what became of it; "" while that is open."""
        if self.refusal is not None:
            return "refused"
        if not self.is_over:
            return ""
        if self.started_at is not None:
            return "ran"
        return "queued again" if self.is_queued_again else "not started"

    @property
    def is_queued_again(self) -> bool:
        """Whether its prologue failed by the node's fault; a container on demand has the job's run hook fail."""
        is_faulty = self.fault is not None and self.fault.blame == "node"
        return is_faulty and self.removed_for == "prologue-failed" and not self.on_demand


def story_of(record: Record, now: float, *, removed_for: str = "", over_from: str = "") -> Story:
    """Make it *now*; with *removed_for* the job is over, and its record goes for that reason."""
    facts, plan, end = record.facts, record.plan, record.exit
    ended_at = end.at if end is not None else now if removed_for and facts.started_at is not None else None
    return Story(
        job=record.job_id,
        incarnation=record.incarnation,
        uid=record.uid,
        user=record.user,
        node=record.node.rpartition("@")[2],
        state=OVER if removed_for else record.state.value,
        created_at=record.created,
        told_at=now,
        asked=facts.asked,
        on_demand=facts.on_demand,
        decided=facts.decided,
        image=plan.image if plan is not None else "",
        image_digest=record.image_digest or "",
        image_id=record.image_id or "",
        phases=facts.phases,
        limits=plan.limits if plan is not None else None,
        walltime_s=plan.walltime_s if plan is not None else None,
        used=facts.usage,
        shm_peak_bytes=facts.shm_peak_bytes,
        started_at=facts.started_at,
        ended_at=ended_at,
        over_from=over_from,
        removed_for=removed_for,
        exit=end,
        exit_status=facts.exit_status,
        refusal=record.refusal,
        fault=facts.fault,
        kept=facts.kept,
        hosts=facts.hosts,
        mother=facts.mother,
    )


def to_json(story: Story) -> dict[str, Any]:
    """Plain JSON types: the documented fields, ``outcome`` and ``run_s`` among them."""
    return {**to_plain(story), "outcome": story.outcome, "run_s": story.run_s}


def from_json(data: Any) -> Story:
    """The same back; what a later release has added is passed over. Raises ValueError for what is no such story."""
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        raise ValueError("it is not a job's story of this release")
    story = from_plain(Story, data, newer=True)
    assert isinstance(story, Story)
    return story
