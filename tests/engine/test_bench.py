"""`make bench` in its smallest form: that it measures, not what it measures, but for what a person waits for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, SLOWER, Instance

pytestmark = pytest.mark.engine


def test_bench_measures(installed: Instance) -> None:
    """A job and a container with the same flags are run and timed, and no time hides between the waterfall's rows."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/bench.py"), "P1", "waterfall"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PBSDOCK_BENCH_REPEATS": "1", "PBSDOCK_BENCH_PACKAGES": str(installed.home)},
    )
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["pgrep", "-f", "bench/traced.py"], capture_output=True, check=False).stdout == b""
    ratio, waterfall = (json.loads(line) for line in done.stdout.splitlines())
    rows = [value for name, value in waterfall.items() if ": " in name]

    assert (ratio["id"], ratio["repeats"]) == ("P1", 1)
    assert 0.2 < ratio["ratio"] < 5
    assert len(rows) > 15
    assert sum(rows) == pytest.approx(waterfall["all"], rel=0.15)


def test_what_a_person_waits_for(installed: Instance) -> None:
    """The command keeps to its bars, on two nodes too; the doctor with everything it looks at."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/bench.py"), "A1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PBSDOCK_BENCH_REPEATS": "5", "PBSDOCK_BENCH_PACKAGES": str(installed.home)},
    )
    assert done.returncode == 0, done.stderr
    (found,) = (json.loads(line) for line in done.stdout.splitlines())
    quick = {name: value for name, value in found.items() if name.startswith(("why_", "ps_"))}

    assert len(quick) == 4
    # Beside other tests all processes are slower: as much as an interpreter that does nothing, which takes some 12 ms alone.
    slower = SLOWER * max(1.0, found["python_ms"] / 12)
    assert all(value <= 150 * slower for value in quick.values()), found
    assert found["doctor_ms"] <= 5000 * slower
