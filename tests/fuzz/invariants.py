"""What must hold whatever users do: measured while they do it (:class:`Watch`), and judged afterwards (pure)."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HONEST_S = 3.0
MEMORY = 128 << 20
THREADS = 64  # and one for each job
EVENTS_PER_MINUTE = 1 << 20
DESCRIPTORS = 16  # kept-alive connections between agent and engine may differ by so many
# From here on attackers send no largest messages any more: the figure is there, the host has other users.
LIGHT = 1 << 30
_LOOK_S = 0.25
_REPR = re.compile(r"[A-Za-z_.]+\(")


@dataclass(frozen=True)
class Row:
    """One invariant: its bound and the worst that was measured, in words; *wrong* has what breaks it."""

    name: str
    bound: str
    worst: str
    wrong: tuple[str, ...] = ()


@dataclass
class Sample:
    """One look."""

    at: float
    memory: int  # bytes that are the agent's alone
    threads: int
    agent_fds: int
    engine_fds: int
    mounts: int
    log: int  # bytes


@dataclass
class Watch:
    """Looks at agent, engine, mounts and event log all the time."""

    agent: int
    engine: int
    roots: tuple[Path, ...]  # below which mounts are counted
    unhealthy: Path
    log: Path
    light: Path
    samples: list[Sample] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    out_of_service: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; nothing is looked at any more."""
        self._stop.set()
        self._thread.join()

    def look(self) -> Sample:
        """Look once. Raises OSError if the agent or the engine is gone."""
        return Sample(
            at=time.monotonic(),
            memory=private_memory(self.agent),
            threads=_threads(self.agent),
            agent_fds=descriptors(self.agent),
            engine_fds=descriptors(self.engine),
            mounts=mounts(self.roots),
            log=self.log.stat().st_size,
        )

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self.samples.append(self.look())
            except OSError as error:
                self.gone.append(str(error))
                return
            if self.samples[-1].memory > LIGHT:
                self.light.touch()
            if self.unhealthy.exists() and len(self.out_of_service) < 5:
                self.out_of_service.append("the flag was there")


def private_memory(pid: int) -> int:
    """Bytes of a process that nobody shares, those swapped out included (proc(5), smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(
        int(one) for one in re.findall(r"^(?:Private_Clean|Private_Dirty|Swap):\s+(\d+)", text, re.MULTILINE)
    )


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def mounts(roots: Sequence[Path]) -> int:
    """How many mounts of this host lie below *roots*: the engine's, the agent's, and what travelled there."""
    below = tuple(f"{one}/" for one in roots)
    return sum(line.split()[4].startswith(below) for line in Path("/proc/self/mountinfo").read_text().splitlines())


# -- judgements, pure --------------------------------------------------------------------------------------------------


def honest(took: Sequence[float], repeated: Sequence[tuple[float, float, float]], failed: Sequence[str]) -> Row:
    """A miss is noise if it stands alone (at most one in twenty) and the same job at once again is in time."""
    wrong = [
        f"{first:.1f} s, and again {again:.1f} s (load {load:.1f})"
        for first, again, load in repeated
        if again > HONEST_S
    ]
    excused = max(1, len(took) // 20)
    if not wrong and len(repeated) > excused:
        wrong.append(
            f"{len(repeated)} of {len(took)} missed it: " + ", ".join(f"{one:.1f} s" for one, _, _ in repeated[:8])
        )
    if not took:
        wrong.append("not one was over")
    said = (
        f"max {max(took, default=0):.2f} s, median {sorted(took)[len(took) // 2] if took else 0:.2f} s of {len(took)}"
    )
    if repeated:
        said += "; again: " + ", ".join(
            f"{first:.1f}→{again:.1f} s at load {load:.1f}" for first, again, load in repeated[:4]
        )
    wrong += [f"failed: {one}" for one in failed[:3]]
    return Row("an honest user's `true` job", f"{HONEST_S:g} s", said, tuple(wrong))


def most(name: str, bound: int, values: Iterable[int], unit: int = 1, of: str = "") -> Row:
    """A figure that stays at or under *bound*."""
    worst = max(values, default=0)
    wrong = (f"{worst // unit}{of} > {bound // unit}{of}",) if worst > bound else ()
    return Row(name, f"{bound // unit}{of}", f"{worst // unit}{of}", wrong)


def back(name: str, before: int, peak: int, after: int, allowed: int = 0) -> Row:
    """A figure that is in the end what it was."""
    wrong = (f"{after - before} more than before",) if after - before > allowed else ()
    return Row(name, f"{before}+{allowed}", f"{after} (peak {peak})", wrong)


def growth(samples: Sequence[Sample], window_s: float = 60.0) -> Row:
    """The event log's growth in the worst minute; a run that is shorter has as much room."""
    worst = first = 0
    for one in samples:
        while one.at - samples[first].at > window_s:
            first += 1
        worst = max(worst, one.log - samples[first].log)
    wrong = (f"{worst / 1e6:.2f} MB in a minute",) if worst > EVENTS_PER_MINUTE else ()
    return Row("growth of the event log", "1 MB/min", f"{worst / 1e6:.2f} MB", wrong)


def none(name: str, found: Sequence[str], bound: str = "none") -> Row:
    """Something there must be none of."""
    said = f"{len(found)}: {found[0][:160]}" if found else "none"
    return Row(name, bound, said, tuple(found[:10]))


def tracebacks(events: Iterable[dict[str, Any]], stderr: str) -> list[str]:
    """Exceptions nobody expected: in events, and on the agent's standard error."""
    found = [
        f"agent.error {one.get('where')}: {one.get('reason')}"
        for one in events
        if one["event"] == "agent.error" and _REPR.match(str(one.get("reason", "")))
    ]
    blocks = stderr.split("Traceback (most recent call last):")[1:]
    last = Counter(
        next((line for line in reversed(one.splitlines()) if line[:1].isalpha() and "Error" in line), "?")[:200]
        for one in blocks
    )
    return found + [f"{count} times on stderr: {line}" for line, count in last.most_common()]


def heaviest(events: Sequence[dict[str, Any]]) -> str:
    """Which events take the most of the log."""
    sizes: Counter[str] = Counter()
    for one in events:
        sizes[str(one["event"])] += len(json.dumps(one))
    return ", ".join(f"{name} {size // 1000} kB" for name, size in sizes.most_common(5))


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    lines = [f"{'':4} {'invariant':<44} {'bound':<12} worst"]
    lines += [f"{'FALL' if one.wrong else 'ok':4} {one.name:<44} {one.bound:<12} {one.worst}" for one in rows]
    return "\n".join(lines)
