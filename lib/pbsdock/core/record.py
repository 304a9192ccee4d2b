"""The record of a job: one incarnation on this node, its state, its plan, its steps, and what exists of it.

A job's state changes in one place, :meth:`Record.advance`, along one table, :data:`TRANSITIONS`.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Exit, Facts, uptime
from pbsdock.core.plan import Plan
from pbsdock.core.trail import Phase, with_phase

VERSION = 1


class State(StrEnum):
    """Where a job is on its way through the prologue, the run hook and the epilogue."""

    PREPARING = "preparing"
    REFUSED = "refused"  # the run hook will tell why
    READY = "ready"
    RUNNING = "running"
    STAGING = "staging"  # the container is over, its results are being copied to an object store
    ENDED = "ended"
    RELEASING = "releasing"

    @property
    def is_past_start(self) -> bool:
        """Whether the engine needs the job's mounts no longer: its container starts no more."""
        return self in (State.RUNNING, State.STAGING, State.ENDED, State.REFUSED)


# From, to: the event that tells of it, "" where another one has told already or will.
TRANSITIONS: Mapping[tuple[State, State], str] = {
    (State.PREPARING, State.READY): "job.ready",
    (State.PREPARING, State.REFUSED): "job.refused",
    (State.PREPARING, State.RELEASING): "release.begun",
    (State.READY, State.RUNNING): "job.started",
    (State.READY, State.REFUSED): "job.refused",
    (State.READY, State.RELEASING): "release.begun",
    (State.RUNNING, State.READY): "",  # a start that was undone, for another one
    (State.RUNNING, State.STAGING): "job.ended",
    (State.RUNNING, State.ENDED): "job.ended",
    (State.RUNNING, State.RELEASING): "release.begun",
    (State.STAGING, State.ENDED): "",
    (State.STAGING, State.RELEASING): "release.begun",
    (State.ENDED, State.RELEASING): "release.begun",
    (State.REFUSED, State.RELEASING): "release.begun",
    (State.RELEASING, State.RELEASING): "release.begun",  # tried again: something was left
}


# What a job has behind it when it becomes so.
_PHASES = {State.READY: "prologue", State.REFUSED: "refusal", State.RUNNING: "start"}


class IllegalTransitionError(Exception):
    """A job was to go where no way leads from its state: a slip of ours."""


class Journal(Protocol):
    """What a record is written to, and its events."""

    def save(self, record: Record, *, durable: bool = False) -> None:
        """Replace the record's file. Raises OSError."""

    def emit(self, event: str, record: Record, **fields: Any) -> None:
        """Tell of an event of the job's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One side effect with its own undo: whether it may have been begun, and whether it is known to be undone."""

    begun: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why a job was refused: a stable code, one sentence, and whose it is to mend."""

    code: str
    sentence: str
    blame: str = "user"

    @classmethod
    def of(cls, error: Refusal) -> Refused:
        """As a record keeps it."""
        return cls(code=error.code, sentence=error.sentence, blame=error.blame.value)


@dataclass(slots=True, kw_only=True)
class Record:
    """One incarnation of one job on this node. Times are seconds since the epoch."""

    version: int = VERSION
    job_id: str
    safe: str
    incarnation: str
    uid: int
    user: str
    node: str
    boot_id: str
    created: float
    plan: Plan | None = None
    refusal: Refused | None = None
    steps: Mapping[str, Step] = field(default_factory=dict)
    container_id: str | None = None
    container_name: str = ""
    cgroup: str = ""
    image_id: str | None = None
    image_digest: str | None = None
    exit: Exit | None = None
    script_path: str | None = None
    facts: Facts = field(default_factory=Facts)
    _state: State = State.PREPARING
    _journal: Journal | None = field(default=None, compare=False, repr=False)
    _lock: Any = field(default_factory=threading.RLock, compare=False, repr=False)

    @classmethod
    def new(
        cls,
        *,
        job_id: str,
        safe: str,
        uid: int,
        user: str,
        node: str,
        boot_id: str,
        now: float | None = None,
        nonce: str | None = None,
    ) -> Record:
        """Make the record of a new incarnation: a job id can come back, so it gets the time and a nonce."""
        moment = time.time() if now is None else now
        tag = nonce if nonce is not None else secrets.token_hex(4)
        return cls(
            job_id=job_id,
            safe=safe,
            incarnation=f"{int(moment):x}{tag}",
            uid=uid,
            user=user,
            node=node,
            boot_id=boot_id,
            created=moment,
            facts=Facts(alive_at=uptime()),
        )

    @property
    def name(self) -> str:
        """What its cgroup and directories are called, and its file without ``.json``."""
        return f"{self.safe}.{self.incarnation}"

    @property
    def state(self) -> State:
        """See :meth:`advance`."""
        return self._state

    @property
    def planned(self) -> Plan:
        """The plan of a job that has one. Raises LookupError for a job refused before there was any."""
        if self.plan is None:
            raise LookupError(f"job {self.job_id} has no plan: it is {self._state.value}")
        return self.plan

    def belongs_to(self, journal: Journal) -> None:
        """From now on it is written there."""
        self._journal = journal

    def advance(self, to: State, *, must_be_written: bool = True, **told: Any) -> None:
        """Go to another state: written ahead, then told by the table's event with the fields *told*.

        A record that belongs to no journal yet only changes. Raises IllegalTransitionError; OSError, with the state as
        it was, unless *must_be_written* is false: then the state is the new one, and the next agent finds the old.
        """
        with self._lock:
            before, facts = self._state, self.facts
            event = TRANSITIONS.get((before, to))
            if event is None:
                raise IllegalTransitionError(f"job {self.job_id} cannot become {to.value}: it is {before.value}")
            self._state = to
            if to in _PHASES:
                ms = told.get("ms")
                self.put_down(Phase(name=_PHASES[to], at=time.time() - (ms or 0.0) / 1000, ms=ms))
            try:
                self.save() if must_be_written else self.save_or_tell()
            except OSError:
                self._state, self.facts = before, facts
                raise
            if event and self._journal is not None:
                self._journal.emit(event, self, **told)

    def advance_from(self, before: State, to: State, *, must_be_written: bool = True, **told: Any) -> bool:
        """The same, if *before* is still its state: a release may have begun meanwhile. Returns whether it was."""
        with self._lock:
            if self._state is not before:
                return False
            self.advance(to, must_be_written=must_be_written, **told)
            return True

    def refuse(self, error: Refusal) -> None:
        """Keep why, and become refused. Raises OSError."""
        self.refusal = Refused.of(error)
        self.advance(State.REFUSED, code=error.code, sentence=error.sentence, phase="prologue")

    def note(self, **changes: Any) -> None:
        """Put down what has become known, by the names of :class:`pbsdock.core.facts.Facts`; not yet written."""
        with self._lock:
            self.facts = replace(self.facts, **changes)

    def put_down(self, phase: Phase) -> None:
        """Remember a phase of its way; not yet written."""
        with self._lock:
            self.note(phases=with_phase(self.facts.phases, phase))

    def save(self, *, durable: bool = False) -> None:
        """Write it down as it is. Raises OSError."""
        if self._journal is not None:
            self._journal.save(self, durable=durable)

    def save_or_tell(self) -> None:
        """Write it down if the disk takes it, else tell: what is to come next must not wait for that."""
        try:
            self.save()
        except OSError as error:
            if self._journal is not None:
                self._journal.emit("agent.error", self, level="error", where="ledger", reason=str(error)[:300])

    # -- steps ------------------------------------------------------------------------------------------------------

    def begin(self, steps: Iterable[str]) -> None:
        """Put down that these may have been begun."""
        with self._lock:
            self.steps = {**self.steps, **{step: Step(begun=True) for step in steps}}

    def is_gone(self, step: str) -> bool:
        """Whether it is known to be undone."""
        return self.steps.get(step, Step()).gone

    def set_gone(self, step: str, *, gone: bool = True) -> None:
        """It is undone; or, with *gone* false, something of it exists again."""
        with self._lock:
            self.steps = {**self.steps, step: replace(self.steps.get(step, Step()), gone=gone)}
