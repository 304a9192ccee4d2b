"""The attack suite's ledger: which row of docs/security.md was attacked, how often, and how it ended.

A test belongs to the row its file is named after (``test_t04_mounts.py``) and to those of its own mark
(``@pytest.mark.threat(4, 26)``). With ``--threats`` the table is printed, and a row that no test of the run stands
for is an error: a skipped test proves nothing. Where the suite is run in parts, each adds its counts to a file
(``--threats-to FILE``) and ``python -m tests.support.threats FILE`` judges all of them.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

LONG = bool(os.environ.get("PBSDOCK_ATTACK_LONG"))
ROWS = {
    1: "environment into a root hook",
    2: "identity from arguments",
    3: "the engine's socket",
    4: "mounts",
    5: "privilege and namespaces",
    6: "injection through the directive",
    7: "files root reads and writes",
    8: "another script than was checked",
    9: "the prologue bypassed",
    10: "setuid and capabilities",
    11: "groups",
    12: "secrets in the environment",
    13: "secrets through the archive call",
    14: "secrets in words",
    15: "wide or immortal credentials",
    16: "the node's own credential",
    17: "escape from the cgroup",
    18: "forks before the limits",
    19: "survivors",
    20: "an unjust reaper",
    21: "job ids",
    22: "half a prologue",
    23: "processes, descriptors, memory",
    24: "disk",
    25: "tags and names of images",
    26: "between check and start",
    27: "known escapes",
    28: "hostile registries",
    29: "registry credentials",
    30: "networks",
    31: "devices",
    32: "the event stream",
    33: "hangs and floods",
    34: "mom's trust in ports",
    35: "predictable names",
    36: "mount propagation",
    37: "mounts by link",
    38: "requests taken for faults",
    39: "clients that do not read",
    40: "what nodes tell each other",
}
_NAMED = re.compile(r"/test_t(\d\d)_")
_counts: dict[int, Counter[str]] = {number: Counter() for number in ROWS}


def seconds(short: float, long: float) -> float:
    """How long a race is run: bounded in every run, longer with PBSDOCK_ATTACK_LONG."""
    return long if LONG else short


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threats", action="store_true", help="print which threat was attacked how often; all must be")
    parser.addoption("--threats-to", metavar="FILE", help="add the counts to FILE instead")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "threat(*numbers): an attack of these rows of docs/security.md")


def rows_of(item: pytest.Item) -> set[int]:
    """The rows a test stands for."""
    found = {int(number) for mark in item.iter_markers("threat") for number in mark.args}
    named = _NAMED.search(f"/{item.path.name}")
    return found | ({int(named[1])} if named else set())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if rows := rows_of(item):
            item.add_marker("threat")
            item.user_properties.append(("threats", sorted(rows)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A failing fixture is a failing test; of a test that passed only its own phase counts.
    if report.when != "call" and report.outcome == "passed":
        return
    for number in dict(report.user_properties).get("threats", ()):
        _counts[number][report.outcome] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not terminalreporter.config.getoption("--threats"):
        return
    terminalreporter.section("attacks")
    table(terminalreporter.write_line)


def table(line: Callable[[str], object]) -> None:
    """Write which row was attacked how often, and how it ended, by *line*."""
    line(f"{'row':<4} {'attack':<34} {'run':>4} {'passed':>7} {'failed':>7} {'skipped':>8}")
    for number, title in ROWS.items():
        passed, failed, skipped = (_counts[number][one] for one in ("passed", "failed", "skipped"))
        said = "" if passed else "  NOT PROVED"
        line(f"T{number:<3} {title:<34} {passed + failed:>4} {passed:>7} {failed:>7} {skipped:>8}{said}")
    total = sum(_counts.values(), Counter[str]())
    line(
        f"{len(ROWS) - len(unproved())} of {len(ROWS)} rows attacked: {total['passed'] + total['failed']} attacks run,"
        f" {total['passed']} repelled, {total['failed']} not, {total['skipped']} skipped"
    )


def unproved() -> list[int]:
    """Rows that no passed test stands for."""
    return [number for number, count in _counts.items() if not count["passed"]]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if place := session.config.getoption("--threats-to"):
        with open(place, "a") as file:
            file.write(json.dumps(_counts) + "\n")
    if session.config.getoption("--threats") and unproved() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def main(place: str) -> int:
    """Judge all counts of the file *place* together; returns 1 if a row is not proved."""
    for line in Path(place).read_text().splitlines():
        for number, counts in json.loads(line).items():
            _counts[int(number)].update(counts)
    table(print)
    return int(bool(unproved()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
