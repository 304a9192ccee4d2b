"""What belongs to no live job, found in a snapshot of all there is. Pure.

Nothing counts that does not carry our owner label of this node, that is young, or whose job lives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from pbsdock.core.child import PARENT_LABEL
from pbsdock.core.record import Record, State
from pbsdock.engine.base import ListedContainer, ListedNetwork

_ENDED_GRACE_S = 10.0


class Verdict(Enum):
    """What is to become of a record."""

    LIVE = "live"
    YOUNG = "young"
    OTHER_BOOT = "other-boot"
    JOB_GONE = "job-gone"

    @property
    def is_dead(self) -> bool:
        """Whether the record is to be released."""
        return self in (Verdict.OTHER_BOOT, Verdict.JOB_GONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing of ours that belongs to no live job."""

    kind: str  # record, container, network, cgroup, files, pins, marker, credentials (named STORE:HANDLE)
    name: str
    job: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All there is, as one pass has listed it; the records were read last.

    ``up_s`` is since the boot, before anything was listed; ``now`` since the epoch, after everything was.
    """

    boot: str
    up_s: float
    now: float
    job_files: frozenset[str]
    containers: tuple[ListedContainer, ...] = ()  # with our label
    networks: tuple[ListedNetwork, ...] = ()  # likewise
    cgroups: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    credentials: tuple[tuple[str, str, str], ...] = ()  # store, handle, incarnation
    records: tuple[Record, ...] = ()


def judge(record: Record, *, boot: str, job_files: frozenset[str], up_s: float, grace_s: float) -> Verdict:
    """Decide about one record, *up_s* seconds after the boot.

    A job whose prologue is still at work has no job file yet (observed), so absence means dead only once the grace
    after the last sign of life is over, which is short where the job has ended: an agent that was stopped while mom
    closed it left that to the next one. Every record of another boot is dead.
    """
    if record.state is State.ENDED:
        grace_s = min(grace_s, _ENDED_GRACE_S)
    if record.boot_id != boot:
        return Verdict.OTHER_BOOT
    if record.state is State.RELEASING:
        return Verdict.JOB_GONE  # its release was begun and is not complete
    if record.facts.job_file in job_files:
        return Verdict.LIVE
    if up_s - record.facts.alive_at < grace_s:
        return Verdict.YOUNG
    return Verdict.JOB_GONE


def dead_records(seen: Snapshot, grace_s: float) -> list[tuple[Record, Finding]]:
    """The records to be released."""
    dead = []
    for record in seen.records:
        verdict = judge(record, boot=seen.boot, job_files=seen.job_files, up_s=seen.up_s, grace_s=grace_s)
        if verdict.is_dead:
            dead.append((record, Finding(kind="record", name=record.name, job=record.job_id, why=verdict.value)))
    return dead


def orphans(seen: Snapshot, grace_s: float) -> list[Finding]:
    """What no record knows of, in the order in which it is to go: a container before its cgroup and files."""
    incarnations = {record.incarnation for record in seen.records}
    names = {record.name for record in seen.records}
    jobs = {record.job_id for record in seen.records}
    starting = {record.name for record in seen.records if not record.state.is_past_start}
    found = list(_containers(seen, incarnations, grace_s))
    found += _networks(seen, incarnations, grace_s)
    found += [_unknown("cgroup", name) for name in seen.cgroups if name not in names]
    found += [_unknown("files", name) for name in seen.files if name not in names]
    found += [_unknown("marker", job, job=job) for job in seen.markers if job not in jobs]
    found += [
        _unknown("pins", name, why="not-starting")
        for name in seen.pins
        if name not in starting and name.rpartition(".")[0] not in names  # those of a child, which are its job's
    ]
    found += [
        _unknown("credentials", f"{store}:{handle}")
        for store, handle, incarnation in seen.credentials
        if incarnation not in incarnations
    ]
    return found


def claims(records: Sequence[Record], finding: Finding) -> bool:
    """Whether a record knows of a finding after all: a prologue may have made one since the snapshot."""
    if finding.kind == "pins":
        records = [record for record in records if not record.state.is_past_start]
    if finding.kind == "credentials":
        return any(record.incarnation in finding.name for record in records)
    return any(finding.name in (record.name, record.job_id) for record in records)


def _containers(seen: Snapshot, incarnations: set[str], grace_s: float) -> Iterator[Finding]:
    for container in seen.containers:
        labels = container.labels
        # A child bears its job's incarnation under another name.
        is_known = not incarnations.isdisjoint({labels.get("pbsdock.incarnation"), labels.get(PARENT_LABEL)})
        if not is_known and seen.now - container.created_at >= grace_s:
            why = "no-record" if labels.get("pbsdock.boot") == seen.boot else "other-boot"
            yield Finding(kind="container", name=container.id, job=labels.get("pbsdock.job", ""), why=why)


def _networks(seen: Snapshot, incarnations: set[str], grace_s: float) -> Iterator[Finding]:
    for network in seen.networks:
        is_known = network.labels.get(PARENT_LABEL) in incarnations
        if not is_known and seen.now - network.created_at >= grace_s:
            yield _unknown("network", network.id, job=network.labels.get("pbsdock.job", ""))


def _unknown(kind: str, name: str, *, job: str = "", why: str = "no-record") -> Finding:
    return Finding(kind=kind, name=name, job=job, why=why)
