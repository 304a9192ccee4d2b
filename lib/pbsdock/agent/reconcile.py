"""The reaper: list records, engine, cgroups and live jobs; release what belongs to no live job.

What that is, is decided in :mod:`pbsdock.agent.findings`. Nothing is done while the engine, mom's job directory or the
ledger cannot be read.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pbsdock.agent.findings import Finding, Snapshot, claims, dead_records, judge, orphans
from pbsdock.agent.node import Node
from pbsdock.agent.release import release
from pbsdock.agent.teardown import remove_work
from pbsdock.agent.witness import FORSAKEN, forsaken, is_idle
from pbsdock.core.errors import HookError, NodeFault
from pbsdock.core.facts import uptime
from pbsdock.core.record import Record
from pbsdock.engine.base import EngineError
from pbsdock.host import pins

_AT_ONCE = 16
_BUSY_S = 2.0
_EMPTY_S = 5.0


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


def reconcile(node: Node, *, dry_run: bool = False, is_routine: bool = False) -> Pass:
    """Make one pass. Never raises for what it cannot read: it then does nothing and says so.

    *is_routine*: nobody has asked for it, so others are not asked each time for what cannot be there.
    """
    began = time.monotonic()
    result = _pass(node, dry_run=dry_run, is_routine=is_routine)
    if not dry_run:
        node.passes.note(is_blocked=bool(result.blocked), left=result.left, seconds=time.monotonic() - began)
    return result


def _pass(node: Node, *, dry_run: bool, is_routine: bool) -> Pass:
    result = Pass(findings=[])
    if not dry_run:
        node.history.tidy()
    try:
        seen = _look(node, is_routine=is_routine)
    except (OSError, HookError, EngineError) as error:
        result.blocked = str(error)
        node.emit("reaper.blocked", level="warning", reason=str(error))
        return result
    grace, cap = node.config.reaper.grace_s, node.config.reaper.cap
    dead, strays = dead_records(seen, grace), orphans(seen, grace)
    if not dry_run:
        node.arrivals.keep(node.rm.is_live)
    dead += forsaken(node, list(seen.records), grace)
    result.findings = [*(finding for _record, finding in dead), *strays]
    if dry_run:
        return result
    strays = strays[: max(0, cap - len(dead))]
    # A container's cgroup and files can only go once it has gone itself.
    first = [finding for finding in strays if finding.kind == "container"]
    then = [finding for finding in strays if finding.kind != "container"]
    with ThreadPoolExecutor(_AT_ONCE, "reaper") as pool:
        result.reaped = sum(pool.map(lambda pair: _release_dead(node, pair[0], pair[1], grace), dead[:cap]))
        for group in (first, then):
            result.reaped += sum(pool.map(lambda finding: _reap(node, finding), group))
    result.left = len(result.findings) - result.reaped
    if result.findings:
        node.emit("reaper.pass", found=len(result.findings), reaped=result.reaped, left=result.left)
    return result


def _look(node: Node, *, is_routine: bool) -> Snapshot:
    """List everything. Raises OSError, HookError, EngineError for the first that cannot be."""
    up_s = uptime()  # what comes to be from here on is young
    job_files = _living(node)
    if not node.engine.probe():
        raise OSError(f"engine: {node.engine.down_because}")
    containers = node.engine.labelled(node.label)
    networks = node.engine.networks(node.label)
    cgroups = node.cgroups.names()
    files, pinned = _names(node.paths.work), _names(node.paths.pins)
    announced = node.arrivals.jobs()  # their markers are older than their records
    marked = [job for job in _names(node.paths.markers) if job not in announced]
    has_credentials = any("credentials" in record.steps for record in node.jobs.records())
    credentials = node.stores.listed(is_idle=is_routine and not has_credentials)
    # Read last: whatever was listed above had its record written before it was made.
    records, problems = node.jobs.records_and_problems()
    if problems:
        raise OSError(f"ledger: {problems[0]}")
    recorded = {record.job_id for record in records}
    markers = tuple(job for job in marked if job in recorded or not node.rm.is_idle(job))  # Slurm's Prolog makes some
    return Snapshot(
        boot=node.boot,
        up_s=up_s,
        now=time.time(),
        job_files=job_files,
        containers=tuple(containers),
        networks=tuple(networks),
        cgroups=tuple(cgroups),
        files=files,
        markers=markers,
        pins=pinned,
        credentials=tuple(credentials),
        records=tuple(records),
    )


def _living(node: Node) -> frozenset[str]:
    """The live jobs, and the allocations that wait for their next step. Raises OSError."""
    live = node.rm.live()
    waiting = [record for record in node.jobs.records() if record.facts.on_demand and record.facts.job_file not in live]
    return live | {record.facts.job_file for record in waiting if node.rm.is_idle(record.job_id)}


def _names(directory: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(directory)))
    except FileNotFoundError:
        return ()


def _release_dead(node: Node, record: Record, finding: Finding, grace_s: float) -> bool:
    try:
        with node.job_lock(record.job_id, _BUSY_S):
            if all(known is not record for known in node.jobs.records()):
                return False  # its epilogue was faster
            # Judged again: a prologue that took longer than the grace may just have ended, and its job be alive.
            verdict = judge(record, boot=node.boot, job_files=_living(node), up_s=uptime(), grace_s=grace_s)
            if not (verdict.is_dead or (finding.why == FORSAKEN and is_idle(node, record, grace_s))):
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


def _reap(node: Node, finding: Finding) -> bool:
    # Looked up again at the last moment: between listing and removing a prologue may have made a record.
    records, problems = node.jobs.records_and_problems()
    if problems or claims(records, finding):
        return False
    try:
        if not _remove(node, finding):
            return False  # being removed already; the next pass looks again
    except (OSError, HookError, EngineError) as error:
        node.emit("release.failed", level="error", reason=f"{finding.kind} {finding.name}: {error}")
        return False
    node.emit("orphan.reaped", kind=finding.kind, name=finding.name, why=finding.why, job=finding.job)
    return True


def _remove(node: Node, finding: Finding) -> bool:
    """Remove an orphan; False while another removal is under way. Raises OSError, HookError, EngineError."""
    if finding.kind == "container":
        return node.engine.remove(finding.name)
    if finding.kind == "network":
        node.engine.remove_network(finding.name)
    elif finding.kind == "cgroup":
        node.cgroups.remove(finding.name, _EMPTY_S)
    elif finding.kind == "pins":
        pins.remove(node.paths.pins / finding.name)
    elif finding.kind == "files":
        remove_work(node.paths, finding.name)
    elif finding.kind == "credentials":
        node.stores.revoke_orphan(*finding.name.split(":", 1))
    else:
        (node.paths.markers / finding.name).unlink(missing_ok=True)
    return True
