"""The other nodes of a job, as lines for a person. Pure.

Each row is an element of ``nodes`` in the documented JSON object (docs/why.md), the asked node's own first. Few nodes
have all their bars; of many those with trouble do, and the rest a line each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pbsdock.admin.why.view import cpus_in, ended, outcome_of, plain, usage_rows
from pbsdock.core.sizes import human

Row = Mapping[str, Any]
_WHOLE = 8  # nodes with bars
_SHORT = 32  # lines for the rest
_LIVE = 16
_CALM = ("well", "running", "preparing", "ready", "staging", "tasks-over", "no-task")


def lines(told: Mapping[str, Any]) -> list[str]:
    """The nodes but the one that was asked; nothing for a job of one node."""
    rows: Sequence[Row] = list(told.get("nodes") or ())[1:]
    is_short = len(rows) > _WHOLE
    troubled = [row for row in rows if _is_troubled(row)]
    whole = troubled[:_WHOLE] if is_short else rows
    shown = [line for row in whole for line in _block(row)]
    rest = [row for row in rows if not any(row is known for known in whole)]
    shown += [_line(row) for row in rest[:_SHORT]]
    if len(rest) > _SHORT:
        shown.append(f"… and {len(rest) - _SHORT} nodes more; --json has all")
    return shown


def live(told: Mapping[str, Any]) -> list[str]:
    """What the job has on its other nodes at the moment, a line each."""
    rows: Sequence[Row] = list(told.get("nodes") or ())[1:]
    more = [f"… and {len(rows) - _LIVE} nodes more"] if len(rows) > _LIVE else []
    return [_line(row) for row in rows[:_LIVE]] + more


def _is_troubled(row: Row) -> bool:
    return "problem" in row or (row.get("cause") or {}).get("code") not in _CALM


def _block(row: Row) -> Iterator[str]:
    yield _line(row) if "problem" in row else f"{plain(row.get('node'))}: {_outcome(row)}"
    if "problem" in row:
        return
    yield from (f"  {line}" for line in usage_rows(row))
    yield from (f"  {line}" for line in ended(row))
    if said := (row.get("cause") or {}).get("sentence"):
        yield f"  why: {plain(said)}"


def _line(row: Row) -> str:
    """The node, how it is there, and what it has, or has had at most, of its limits."""
    if "problem" in row:
        return plain(f"{row.get('node')}: {str(row.get('state')).replace('-', ' ')}: {row['problem']}")
    used, limits, now = row.get("used") or {}, row.get("limits") or {}, row.get("now") or {}
    parts = [f"{row.get('node')}: {_outcome(row)}"]
    for name, peak in (("memory", used.get("memory_peak_bytes")), ("shm", row.get("shm_peak_bytes"))):
        level, most = now.get(f"{name}_bytes"), limits.get(f"{name}_bytes")
        if (has := level if level is not None else peak) is not None:
            parts.append(f"{name} {human(has)}{f' of {human(most)}' if most else ''}")
    if used.get("cpu_seconds") is not None and row.get("run_s"):
        most = (limits.get("cpu_millis") or 0) / 1000 or cpus_in(limits.get("cpuset") or "")
        parts.append(f"cpu {used['cpu_seconds'] / row['run_s']:.2f}{f' of {most:g}' if most else ''}")
    if (pids := now.get("pids") or used.get("pids_peak")) is not None:
        parts.append(f"pids {pids} of {limits.get('pids')}")
    return plain("  ".join(parts))


def _outcome(row: Row) -> str:
    return outcome_of({**row, "mother": "?"})  # whichever node it is: without an exit status it is merely over
