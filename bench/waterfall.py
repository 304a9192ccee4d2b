"""Where the time of P1 goes: a warm ``true`` job, moment by moment, as medians in milliseconds. See docs/performance.md.

The agent is the installed one with its steps timed (bench/traced.py); hooks are timed from exec to exit by the launcher.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from instance import Site

_INSIDE = (
    "engine-inspect-image",
    "engine-create",
    "container-ready",
    "gate",
    "engine-start",
    "engine-inspect",
    "fsync",
    "files",
    "cgroup",
    "pins",
)


_NAME = "pbsdock.agent.daemon"  # by which an instance's agents are known


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when, in monotonic seconds."""

    name: str
    began: float
    ended: float

    def holds(self, other: Span) -> bool:
        return self.began <= other.began and other.ended <= self.ended


def _traced(site: Site) -> Path:
    """Put the timed agent in the place of the instance's; returns the file of its notes."""
    site.stop_agents()
    notes = site.root / "notes"
    paths = site.root / "opt/pbsdock/current/paths.json"
    places = json.loads(paths.read_text())
    command = [
        places["python"],
        "-I",
        "-S",
        str(Path(__file__).with_name("traced.py")),
        places["lib"],
        str(notes),
        _NAME,
    ]
    subprocess.run([*command, "--paths", str(paths)], check=True, env={}, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 20.0
    while subprocess.run(
        [str(site.root / "opt/pbsdock/bin/pbsdock"), "ps"], capture_output=True, check=False
    ).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError("the timed agent does not answer")
        time.sleep(0.05)
    return notes


def _job(site: Site) -> list[Span]:
    """Run one; returns its hooks."""
    trial = site.trial("true")
    trial.prepare_files()
    hooks = []
    if trial.prologue() not in (None, 0):
        raise RuntimeError("the prologue failed")
    hooks.append(Span("prologue", trial.hooks.last.began, trial.hooks.last.ended_at))
    trial.start()
    assert trial.leader is not None
    status = trial.leader.wait()
    hooks.append(Span("run", trial.leader.began, trial.leader.ended_at))
    trial.epilogue(status)
    hooks.append(Span("epilogue", trial.hooks.last.began, trial.hooks.last.ended_at))
    trial.spool.remove()
    return hooks


def rows(hooks: Sequence[Span], notes: Sequence[Span]) -> dict[str, float]:
    """What one job's time was spent on, milliseconds by name; together they are the three hooks' time."""
    run = hooks[1]
    found: dict[str, float] = {}
    for hook in hooks:
        (agent,) = [one for one in notes if one.name == hook.name and hook.began <= one.began <= hook.ended]
        answer = min(one.ended for one in notes if one.name == "answer" and one.began >= agent.began)
        found[f"{hook.name}: until the agent is asked"] = agent.began - hook.began
        inside = [one for one in notes if one.name in _INSIDE and agent.began <= one.began and one.ended <= answer]
        outermost = [one for one in inside if not any(other is not one and other.holds(one) for other in inside)]
        for one in outermost:
            key = f"{hook.name}: agent, {one.name}"
            found[key] = found.get(key, 0.0) + one.ended - one.began
        found[f"{hook.name}: agent, the rest"] = answer - agent.began - sum(one.ended - one.began for one in outermost)
        if hook is run:
            told = min(one.began for one in notes if one.name == "told" and one.began >= answer)
            end = min(one.began for one in notes if one.name == "end" and one.ended >= told)
            found["run: the script, and until its end is told"] = end - answer
            found["run: agent, the end"] = told - end
            answer = told
        found[f"{hook.name}: from the answer to the exit"] = hook.ended - answer
    return {name: seconds * 1000 for name, seconds in found.items()}


def waterfall(site: Site, repeats: int, show: Callable[..., None]) -> None:
    """Show the medians, and beside them what the same takes with plain docker."""
    notes = _traced(site)
    table: dict[str, list[float]] = defaultdict(list)
    docker = []
    _job(site)
    for _ in range(repeats):
        notes.write_bytes(b"")
        hooks = _job(site)
        time.sleep(0.3)  # the removal behind the epilogue's back
        words = [line.split() for line in notes.read_text().splitlines()]
        spans = [Span(name, float(began), float(ended)) for name, began, ended in words]
        for name, value in rows(hooks, spans).items():
            table[name].append(value)
        table["all"].append(sum(one.ended - one.began for one in hooks) * 1000)
        docker.append(site.docker_run("true") * 1000)
    site.stop_agents()
    medians = {name: round(statistics.median(values), 1) for name, values in table.items()}
    show("waterfall", **medians, docker_run=round(statistics.median(docker), 1), repeats=len(docker))
