"""Where the time of a run goes: minutes per directory of tests.

Each part of the suite adds what it took to a file (``--laps-to FILE``); ``python -m tests.support.laps FILE`` prints all.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

_seconds: Counter[str] = Counter()
_tests: Counter[str] = Counter()
_began = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--laps-to", metavar="FILE", help="add the seconds per directory to FILE")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    directory = report.nodeid.partition("::")[0].rpartition("/")[0]
    _seconds[directory] += report.duration
    _tests[directory] += report.when == "call"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if place := session.config.getoption("--laps-to"):
        rows = [(directory, _tests[directory], seconds) for directory, seconds in _seconds.items()]
        with open(place, "a") as file:
            file.write(json.dumps({"rows": rows, "wall": time.monotonic() - _began}) + "\n")


def main(place: str) -> None:
    """Print a row per directory, and what each part took from its beginning to its end."""
    parts = [json.loads(line) for line in Path(place).read_text().splitlines()]
    for part in parts:
        for directory, tests, seconds in part["rows"]:
            _tests[directory] += tests
            _seconds[directory] += seconds
    print(f"{'directory':<20} {'tests':>6} {'minutes':>8}")
    for directory in sorted(_seconds):
        print(f"{directory:<20} {_tests[directory]:>6} {_seconds[directory] / 60:>8.1f}")
    walls = [part["wall"] / 60 for part in parts]
    print(f"each run of pytest from its beginning to its end: {', '.join(f'{one:.1f}' for one in walls)} minutes")


if __name__ == "__main__":
    main(sys.argv[1])
