"""``pbsdock ps --job``: one job on all its nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, TextIO

from pbsdock.core.sizes import human

_ROW = "{:<20} {:<10} {:>5} {:>20} {:>9} {:<14} {}"


def show(told: Mapping[str, Any], *, as_json: bool, out: TextIO) -> int:
    """Write what the agent has told of a job's nodes; returns the exit code, 1 if one of them does not answer."""
    rows = told["nodes"]
    silent = [row for row in rows if row["state"] == "no-answer"]
    if as_json:
        print(json.dumps(told, indent=1), file=out)
        return 1 if silent else 0
    print(_ROW.format("NODE", "STATE", "TASKS", "MEMORY", "CPU", "SINCE", "IMAGE"), file=out)
    for row in rows:
        print(_written(row), file=out)
    for row in silent:
        print(f"{row['node']}: {row['problem']}", file=out)
    return 1 if silent else 0


def _written(row: Mapping[str, Any]) -> str:
    usage = row.get("usage") or {}
    cpu, since, tasks = usage.get("cpu_seconds"), row.get("since"), row.get("tasks")
    return _ROW.format(
        str(row["node"])[:20],
        str(row["state"]),
        "-" if tasks is None else tasks,
        _memory(row, usage),
        "-" if cpu is None else f"{cpu:.1f} s",
        "-" if since is None else time.strftime("%m-%d %H:%M:%S", time.localtime(since)),
        row.get("image") or "-",
    ).rstrip()


def _memory(row: Mapping[str, Any], usage: Mapping[str, Any]) -> str:
    """What it has, or had at most when it is over, of what it may have."""
    has = row.get("memory_bytes")
    has = usage.get("memory_peak_bytes") if has is None else has
    most = row.get("memory_limit_bytes")
    if has is None:
        return "-"
    return f"{human(has)} of {human(most)}" if most is not None else human(has)
