"""Every step of prologue, run and release, a fault before and after it, and the world as it was afterwards.

``PBSDOCK_FAULTS=full`` runs every fault at every step, or ``PBSDOCK_FAULTS=NAME,NAME…`` those; otherwise each step of a job that ends
gets an end of the agent and one of the other quick faults, on the other side, those of other jobs one of both, and each
slow fault comes to one step.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from tests.faults.bystanders import Bystanders
from tests.faults.faults import BY_NAME, ENGINE_RESTARTED_COLD, FAULTS, REBOOT, Fault
from tests.faults.matrix import SHAPES, Cell, Point, Shape, discover, run_cell, table
from tests.faults.site import IMAGE, Site

pytestmark = pytest.mark.engine

FULL = os.environ.get("PBSDOCK_FAULTS", "")
_ENDS = ("worker-killed", "agent-killed")
_QUICK = (
    "hook-killed",
    "state-full",
    "engine-error",
    "run-full",
    "no-descriptors",
    "clock-ahead-imitated",
    "clock-behind-imitated",
)
_SLOW = ("engine-hung", "engine-killed", "engine-restarted", "gateway-hung", "gateway-down")

# What of a record's steps is done where: a step that is added to the code fails here until it is known.
_STEPS = {
    "image": "prologue:images.ensure#1",
    "files": "prologue:own_files.write#1",
    "cgroup": "prologue:cgroups.create#1",
    "credentials": "prologue:stores.begin#1",
    "container": "stand:engine.create#1",
    "staging": "stage-in:spawner.worker#1",
}

Plan = tuple[Shape, Point, str, Fault]


@pytest.fixture(scope="module")
def points(site: Site) -> dict[str, list[Point]]:
    """The steps of each kind of job, from what the agent does. What it does outside of a step is an error."""
    for shape in SHAPES:
        discover(site, shape)  # once for what only the first job does
    found = {shape.name: discover(site, shape) for shape in SHAPES}
    assert [stray for _, strays in found.values() for stray in strays] == []
    return {name: steps for name, (steps, _) in found.items()}


@pytest.fixture(scope="module")
def cells() -> Iterator[list[Cell]]:
    """What came of every run, as a table at the end and in a file."""
    made: list[Cell] = []
    yield made
    print(f"\n{table(made)}")
    if place := os.environ.get("PBSDOCK_FAULTS_TABLE"):
        Path(place).write_text(f"{table(made)}\n")


def _everything(points: dict[str, list[Point]]) -> list[Plan]:
    return [
        (shape, point, when, fault)
        for fault in FAULTS
        if FULL == "full" or fault.name in FULL.split(",")
        for shape in SHAPES
        for point in points[shape.name]
        for when in fault.when
        if point.asks_engine or not fault.asks_engine
    ]


def _some(points: dict[str, list[Point]]) -> list[Plan]:
    plans: list[Plan] = []
    ends, quick = cycle(_ENDS), cycle(_QUICK)
    for shape in SHAPES:
        for number, point in enumerate(points[shape.name]):
            sides = ("before", "after") if number % 2 else ("after", "before")
            if shape is SHAPES[0] or number % 2:
                plans.append((shape, point, sides[0], BY_NAME[next(ends)]))
                if shape is not SHAPES[0]:
                    continue
            other = BY_NAME[next(quick)]
            if other.asks_engine and not point.asks_engine:
                other = BY_NAME[next(quick)]
            plans.append((shape, point, other.when[-1] if other.asks_engine else sides[1], other))
    ends_well = points[SHAPES[0].name]
    for number, name in enumerate(_SLOW):
        point, when = ends_well[3 + number * len(ends_well) // len(_SLOW)], ("before", "after")[number % 2]
        if name == "engine-restarted":  # between the gate and the run hook's own request
            point, when = next(one for one in ends_well if one.name == "run:ledger.save#1"), "before"
        plans.append((SHAPES[0], point, when, BY_NAME[name]))
    return sorted(plans, key=lambda one: one[3].name)


def test_every_step_is_known(site: Site, points: dict[str, list[Point]]) -> None:
    """The record's own list of steps, the teardown's table, and the steps that were found are the same."""
    trial = site.victim("sleep 1000", f"--s3 alice-in --stage-in s3://alice-in/in $HOME/staged/in {IMAGE}")
    assert trial.begin() is None
    files = list((site.instance.state_dir / "jobs").glob(f"{trial.job_id}.*"))
    steps = set(json.loads(files[0].read_text())["steps"])
    trial.qdel()
    trial.finish(trial.wait())
    found = {one.name for shape in ("ends", "stages") for one in points[shape]}

    assert steps == set(_STEPS)
    assert set(_STEPS.values()) <= found
    # Children are looked for in every job: one may have been made just when it ended.
    released = {one.split(":release.")[1].split(".")[0] for one in found if ":release." in one}
    assert released == (steps - {"image"}) | {"children"}


@pytest.mark.timeout(7200)
def test_matrix(site: Site, points: dict[str, list[Point]], cells: list[Cell]) -> None:
    """0 leaked, 0 of anyone else's touched, 0 wrong without a sentence."""
    plans = _everything(points) if FULL else _some(points)
    bystanders = Bystanders(site)
    done = []
    try:
        for shape, point, when, fault in plans:
            done.append(run_cell(site, bystanders, shape, point, when, fault))
            if FULL:
                print(f"{done[-1].seconds:5.1f} {done[-1].outcome:8} {done[-1]}", flush=True)
    finally:
        cells += done
        noticed = bystanders.end()

    assert [str(one) for one in done if one.wrong] == []
    assert noticed == []
    assert {(one.point.shape, one.point.name) for one in done} == {
        (name, one.name) for name, steps in points.items() for one in steps
    }


@pytest.mark.timeout(1800)
def test_reboot_imitated(site: Site, points: dict[str, list[Point]], cells: list[Cell]) -> None:
    """Everything dead and a new boot id: all of the old boot's is removed, a stranger's dead container is not."""
    site.engine.docker("run", "-d", "--network", "none", "--name", "stranger", IMAGE, "true")
    steps = points["ends"]
    chosen = steps if FULL else steps[3::11]
    done = [run_cell(site, None, SHAPES[0], one, "after", REBOOT) for one in chosen]
    cells += done
    site.engine.docker("rm", "-f", "stranger")

    assert [str(one) for one in done if one.wrong] == []


@pytest.mark.timeout(1800)
def test_engine_restarted_without_live_restore(site: Site, points: dict[str, list[Point]], cells: list[Cell]) -> None:
    """A restarted engine takes every container along, and the jobs are told."""
    steps = points["ends"]
    chosen = steps if FULL else [one for one in steps if one.name in ("stand:engine.start#1", "run:ledger.save#1")]
    site.engine.stop()
    site.engine.start()
    try:
        done = [run_cell(site, None, SHAPES[0], one, "after", ENGINE_RESTARTED_COLD) for one in chosen]
    finally:
        site.engine.stop()
        site.engine.start("--live-restore")
    cells += done

    assert [str(one) for one in done if one.wrong] == []


def test_prologue_that_takes_longer_than_the_grace(site: Site) -> None:
    """The reaper passes meanwhile and leaves it alone: the job has no .JB yet and is not dead."""
    site.ready()
    trial = site.victim("echo out; echo err >&2; exit 7", IMAGE)
    site.arm("prologue:cgroups.create#1", "before", "pause")
    outcomes = []
    mom = threading.Thread(target=lambda: outcomes.append(SHAPES[0].carry_out(trial)))
    mom.start()
    while not site.reached():
        time.sleep(0.01)
    deadline = time.monotonic() + 10.0
    while not (found := json.loads(site.instance.command("reap", "--dry-run", "--json").stdout)["findings"]):
        assert time.monotonic() < deadline
    reaper = threading.Thread(target=site.reap)
    reaper.start()
    time.sleep(0.3)  # for the pass to have judged and to wait for the prologue
    site.go()
    mom.join(30)
    reaper.join(30)
    site.disarm()

    assert [one["job"] for one in found] == [trial.job_id]
    assert (outcomes[0].exit_status, outcomes[0].stdout) == (7, b"out\n")
