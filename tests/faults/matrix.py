"""Steps times faults: run one job into one fault at one step, then look whether the world is as it was."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pbsdock.trial import Outcome, Trial
from tests.conftest import wait_until
from tests.faults.bystanders import Bystanders
from tests.faults.checker import compare
from tests.faults.faults import Fault
from tests.faults.site import IMAGE, Site

_OVER_S = 60.0
_CHECK_S = 2.0  # mom's own interval is 45 s; nothing depends on how long it is
_CLEAN_S = 20.0
_TIDY_S = 5.0
_LASTS_S = 4.0  # a fault that lasts as long as its job ends at last by itself: the job may be waiting for just that


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A kind of job, and which phases of its way are looked at."""

    name: str
    body: str = "echo out; echo err >&2; exit 7"
    directive: str = f"--s3 alice-in {IMAGE}"
    killed: bool = False  # its run hook is, by the test, as soon as the script runs
    phases: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()  # of other phases
    status: int = 7

    def carry_out(self, trial: Trial) -> Outcome:
        """As mom would."""
        ended = trial.begin()
        if ended is not None:
            return ended
        assert trial.leader is not None
        if self.killed:
            deadline = time.monotonic() + 20.0
            while b"out" not in trial.out_path.read_bytes() and trial.leader.poll() is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            trial.leader.kill()
        return trial.finish(trial.wait())


SHAPES = (
    Shape(name="ends", phases=("prologue", "stand", "run", "end", "release", "epilogue")),
    Shape(name="killed", body="echo out; sleep 1000", killed=True, phases=("release", "epilogue"), status=256 + 9),
    Shape(
        name="stages",
        phases=("stage-in", "stand", "stage-out", "release"),
        body="cat $HOME/staged/in; cp $HOME/staged/in $HOME/staged/out; rm $HOME/staged/in; exit 7",
        directive=f"--stage-in s3://alice-in/in $HOME/staged/in --stage-out $HOME/staged/out s3://alice-in/out on=always"
        f" {IMAGE}",
    ),
    Shape(
        name="child",
        phases=("child",),
        steps=("release:release.children#1",),
        body=f"docker run --rm {IMAGE} sh -c 'echo out; echo err >&2; exit 7'",
        directive=IMAGE,
    ),
    Shape(
        name="refused", directive="--s3 alice-in --pull never no/such:image", phases=("prologue", "release"), status=125
    ),
)


@dataclass(frozen=True, order=True)
class Point:
    """A step of one shape's way."""

    shape: str
    name: str
    asks_engine: bool = False

    @property
    def phase(self) -> str:
        """prologue, stand (the container made ready), run, child (a docker command), end (of the job), release or epilogue."""
        return self.name.split(":")[0]


def discover(site: Site, shape: Shape) -> tuple[list[Point], list[str]]:
    """The steps a job of that shape takes, in order, and what it did outside of any step."""
    site.ready()
    with site.traced() as noted:
        trial = site.victim(shape.body, shape.directive)
        shape.carry_out(trial)
        wait_until("it is released", lambda: f'"{trial.job_id}"' not in site.instance.command("ps", "--json").stdout)
    points, strays = [], []
    for word, *rest in noted:
        if word == "stray":
            strays.append(" ".join(rest))
            continue
        name, asked, changed = rest[0], int(rest[1]), int(rest[2])
        # Looking is no step. The teardown's table, the stores and the spawner always count: whom they ask, others may
        # answer for.
        acts = asked or changed or name.startswith("release:") or ":stores." in name or ":spawner." in name
        point = Point(shape.name, name, bool(asked))
        is_looked_at = point.phase in shape.phases or name in shape.steps
        if acts and is_looked_at and point not in points:
            points.append(point)
    return points, strays


@dataclass(kw_only=True)
class Cell:
    """What became of one job."""

    point: Point
    when: str
    fault: str
    outcome: str = ""  # whole, told, requeued, killed; or not-reached
    said: str = ""  # the job's stderr
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.fault} {self.when} {self.point.name} ({self.point.shape}): " + "; ".join(self.wrong)


def run_cell(site: Site, bystanders: Bystanders | None, shape: Shape, point: Point, when: str, fault: Fault) -> Cell:
    """One job, one fault."""
    cell = Cell(point=point, when=when, fault=fault.name)
    began = time.monotonic()
    site.ready()
    before = site.world.look()
    site.arm(point.name, when, fault.act)
    trial = site.victim(shape.body, shape.directive)
    outcomes: list[Outcome] = []
    mom = threading.Thread(target=lambda: outcomes.append(shape.carry_out(trial)), daemon=True)
    mom.start()
    reached = _strike(site, trial, fault, mom)
    deadline = time.monotonic() + _OVER_S
    while mom.is_alive() and time.monotonic() < deadline:
        mom.join(_CHECK_S)
        if mom.is_alive() and not site.instance.agent_pids():
            site.node_check()
    if outcomes:
        cell.outcome, wrong = judge(outcomes[0], shape, fault)
        cell.said = outcomes[0].stderr.decode(errors="replace")
        cell.wrong += [wrong] if wrong else []
    else:
        cell.wrong.append("the job is not over after a minute")
    if not reached:
        cell.wrong.append("the job never got there")
    cell.wrong += _settle(site, before)
    if bystanders is not None:
        cell.wrong += bystanders.noticed()
    cell.seconds = time.monotonic() - began
    return cell


def _strike(site: Site, trial: Trial, fault: Fault, mom: threading.Thread) -> bool:
    """Wait for the job to be at the step, strike, let it go on, mend; returns whether it got there."""
    deadline = time.monotonic() + _OVER_S
    while not site.reached() and time.monotonic() < deadline:
        if not mom.is_alive():  # mom is answered before the agent has tidied up
            deadline = min(deadline, time.monotonic() + _TIDY_S)
        time.sleep(0.005)
    reached = site.reached()
    if reached and fault.act == "pause":
        fault.strike(site, trial)
        site.go()
        mom.join(_LASTS_S if fault.lasts else fault.hold_s)
        fault.mend(site, trial)
    return reached


def _settle(site: Site, before: frozenset[str]) -> list[str]:
    """Let the node come to itself as it would: node check, passes of the reaper. Sentences about what is left."""
    site.disarm()
    site.node_check()
    deadline = time.monotonic() + _CLEAN_S
    while difference := compare(before, site.world.look()):
        if time.monotonic() > deadline:
            return [f"after {_CLEAN_S:.0f} s: {difference}"]
        try:
            site.reap()
        except AssertionError as error:
            return [str(error), str(difference)]
    return []


def judge(done: Outcome, shape: Shape, fault: Fault) -> tuple[str, str]:
    """How the job came out of it, and a sentence if it was not told what it had to be told."""
    whole = (b"out\n", b"err\n") if shape.name in ("ends", "child") else (done.stdout, done.stderr)
    told = b"pbsdock: " in done.stderr or (shape.name == "child" and b"docker: " in done.stderr)
    if shape.name == "stages" and done.stdout != b"out\n":
        whole = (b"out\n", b"")
    if (done.exit_status, done.stdout, done.stderr) == (shape.status, *whole):
        return "whole", "" if shape.name != "refused" or told else "a refusal without a sentence"
    if done.exit_status == -14:
        return "requeued", "" if told or done.node_down else "requeued, and nobody is told why"
    if fault.ends_all or (fault.name == "hook-killed" and done.exit_status == 256 + 9):
        return "killed", ""
    if told:
        return "told", ""
    return "wrong", f"exit status {done.exit_status}, stdout {done.stdout!r}, stderr {done.stderr!r}"


def table(cells: Iterable[Cell]) -> str:
    """Faults by outcome, in counts."""
    cells = list(cells)
    names = list(dict.fromkeys(one.fault for one in cells))
    columns: list[tuple[str, Callable[[Cell], bool]]] = [
        ("runs", lambda one: True),
        *((name, lambda one, name=name: one.outcome == name) for name in ("whole", "told", "requeued", "killed")),  # type: ignore[misc]
        ("wrong", lambda one: bool(one.wrong)),
    ]
    width = max(map(len, names), default=5)
    lines = [f"{'fault':{width}} " + " ".join(f"{name:>8}" for name, _ in columns) + "  seconds"]
    for name in [*names, "all"]:
        mine = [one for one in cells if name in (one.fault, "all")]
        counts = Counter({column: sum(map(holds, mine)) for column, holds in columns})
        lines.append(
            f"{name:{width}} "
            + " ".join(f"{counts[column]:8}" for column, _ in columns)
            + f"  {sum(one.seconds for one in mine):7.1f}"
        )
    return "\n".join(lines)
