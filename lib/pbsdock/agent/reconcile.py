"""The reaper: compare records, engine, cgroups and live jobs; release what belongs to no live job.

Nothing is touched that does not carry our owner label of this node, that is young, or whose job lives; and nothing
at all while the engine, mom's job directory or the ledger cannot be read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from pbsdock.agent.node import Node
from pbsdock.agent.release import release, remove_work
from pbsdock.core.errors import HookError, NodeFault
from pbsdock.core.facts import uptime
from pbsdock.core.record import Record, State
from pbsdock.engine.base import EngineError, ListedContainer
from pbsdock.host import pins

_AT_ONCE = 16
_BUSY_S = 2.0
_ENDED_GRACE_S = 10.0


class Verdict(Enum):
    """What is to become of a record or an orphan."""

    LIVE = "live"
    YOUNG = "young"
    OTHER_BOOT = "other-boot"
    JOB_GONE = "job-gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing of ours that belongs to no live job."""

    kind: str  # record, container, cgroup, files, pins, marker, credentials (named STORE:HANDLE)
    name: str
    job: str
    why: str


@dataclass(slots=True, kw_only=True)
class Pass:
    """What one pass saw and did."""

    findings: list[Finding]
    reaped: int = 0
    left: int = 0
    blocked: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``pbsdock reap --json``."""
        return asdict(self)


def judge(record: Record, *, boot: str, job_files: frozenset[str], up_s: float, grace_s: float) -> Verdict:
    """Decide about one record, *up_s* seconds after the boot. Pure.

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


def reconcile(node: Node, *, dry_run: bool = False) -> Pass:
    """Make one pass. Never raises for what it cannot read: it then does nothing and says so."""
    since_boot, grace = uptime(), node.config.reaper.grace_s  # what comes to be from here on is young
    result = Pass(findings=[])
    try:
        job_files = node.rm.live()
        if not node.engine.probe():
            raise OSError(f"engine: {node.engine.down_because}")
        containers = node.engine.labelled(node.label)
        cgroups = node.cgroups.names()
        files, markers, pinned = _names(node.paths.work), _names(node.paths.markers), _names(node.paths.pins)
        handles = node.stores.listed()
        # Read last: whatever was listed above had its record written before it was made.
        records, problems = node.jobs.records_and_problems()
        if problems:
            raise OSError(f"ledger: {problems[0]}")
    except (OSError, HookError, EngineError) as error:
        result.blocked = str(error)
        node.emit("reaper.blocked", level="warning", reason=str(error))
        return result
    dead = _dead_records(records, node.boot, job_files, since_boot, grace)
    orphans = _orphans(node, records, containers, (cgroups, files, markers), grace)
    known = {record.incarnation for record in records}
    starting = {record.name for record in records if not record.state.is_past_start}
    orphans += [Finding(kind="pins", name=one, job="", why="not-starting") for one in pinned if one not in starting]
    orphans += [
        Finding(kind="credentials", name=f"{store}:{name}", job="", why="no-record")
        for store, name, incarnation in handles
        if incarnation not in known
    ]
    result.findings = [one for _record, one in dead] + orphans
    if dry_run:
        return result
    cap = node.config.reaper.cap
    orphans = orphans[: max(0, cap - len(dead))]
    # A container's cgroup and files can only go once it has gone itself.
    first = [one for one in orphans if one.kind == "container"]
    then = [one for one in orphans if one.kind != "container"]
    with ThreadPoolExecutor(_AT_ONCE, "reaper") as pool:
        result.reaped = sum(pool.map(lambda pair: _release_dead(node, pair[0], pair[1], grace), dead[:cap]))
        for group in (first, then):
            result.reaped += sum(pool.map(lambda one: _reap(node, one), group))
    result.left = len(result.findings) - result.reaped
    if result.findings:
        node.emit("reaper.pass", found=len(result.findings), reaped=result.reaped, left=result.left)
    return result


def _release_dead(node: Node, record: Record, finding: Finding, grace_s: float) -> bool:
    try:
        with node.job_lock(record.job_id, _BUSY_S):
            if all(one is not record for one in node.jobs.records()):
                return False  # its epilogue was faster
            # Judged again: a prologue that took longer than the grace may just have ended, and its job be alive.
            if not _dead_records([record], node.boot, node.rm.live(), uptime(), grace_s):
                return False
            gone = release(node, record, why=finding.why)
    except NodeFault:
        return False  # a hook is at work on it; the next pass looks again
    except OSError as error:
        node.emit("release.failed", record, level="error", reason=str(error))
        return False
    if gone:
        node.emit("orphan.reaped", record, kind=finding.kind, name=finding.name, why=finding.why)
    return gone


def _dead_records(
    records: Iterable[Record], boot: str, job_files: frozenset[str], up_s: float, grace_s: float
) -> list[tuple[Record, Finding]]:
    dead = []
    for record in records:
        verdict = judge(record, boot=boot, job_files=job_files, up_s=up_s, grace_s=grace_s)
        if verdict in (Verdict.OTHER_BOOT, Verdict.JOB_GONE):
            name = record.name
            dead.append((record, Finding(kind="record", name=name, job=record.job_id, why=verdict.value)))
    return dead


def _orphans(
    node: Node,
    records: Iterable[Record],
    containers: Iterable[ListedContainer],
    named: tuple[list[str], list[str], list[str]],
    grace_s: float,
) -> list[Finding]:
    known = {record.incarnation for record in records}
    names = {record.name for record in records}
    jobs = {record.job_id for record in records}
    now = time.time()
    found = []
    for one in containers:
        labels = one.labels
        if labels.get("pbsdock.incarnation") in known or now - one.created_at < grace_s:
            continue
        why = "no-record" if labels.get("pbsdock.boot") == node.boot else "other-boot"
        found.append(Finding(kind="container", name=one.id, job=labels.get("pbsdock.job", ""), why=why))
    for kind, present, known_names in zip(("cgroup", "files", "marker"), named, (names, names, jobs), strict=True):
        found += [
            Finding(kind=kind, name=one, job=one if kind == "marker" else "", why="no-record")
            for one in present
            if one not in known_names
        ]
    return found


def _names(directory: Any) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _is_of(record: Record, finding: Finding) -> bool:
    if finding.kind == "credentials":
        return record.incarnation in finding.name
    return finding.name in (record.name, record.job_id)


def _reap(node: Node, finding: Finding) -> bool:
    # Looked up again at the last moment: between listing and removing a prologue may have made a record.
    records, problems = node.jobs.records_and_problems()
    if finding.kind == "pins":
        records = [one for one in records if not one.state.is_past_start]
    if problems or any(_is_of(one, finding) for one in records):
        return False
    try:
        if finding.kind == "container":
            if not node.engine.remove(finding.name):
                return False  # being removed already; the next pass looks again
        elif finding.kind == "cgroup":
            node.cgroups.remove(finding.name, 5.0)
        elif finding.kind == "pins":
            pins.remove(node.paths.pins / finding.name)
        elif finding.kind == "files":
            remove_work(node, finding.name)
        elif finding.kind == "credentials":
            node.stores.revoke_orphan(*finding.name.split(":", 1))
        else:
            (node.paths.markers / finding.name).unlink(missing_ok=True)
    except (OSError, HookError, EngineError) as error:
        node.emit("release.failed", level="error", reason=f"{finding.kind} {finding.name}: {error}")
        return False
    node.emit("orphan.reaped", kind=finding.kind, name=finding.name, why=finding.why, job=finding.job)
    return True
