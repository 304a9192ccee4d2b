"""The machines that the tests of this directory share, one after the other, and what is said of them when something went wrong."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.vm.base import SUITES, BuildError
from tests.vm.lab import RESULTS, Lab
from tests.vm.machine import MachineLost

# What is run inside the machine is collected there and nowhere else.
collect_ignore = [] if "PBSDOCK_TEST_INSTALLED" in os.environ else ["inside"]
ASKED = pytest.StashKey[dict[str, str]]()  # the suite of each machine that was asked for -> how one was lost, or ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `make test-v2` has time for: not collected, so that it does not look like a skip.

    PBSDOCK_VM is "full" for all, "smoke" for a short look at the second machine besides what every run has.
    """
    if os.environ.get("PBSDOCK_VM") == "full":
        return
    left_out = [one for one in items if _is_for_later(one)]
    if left_out:
        items[:] = [one for one in items if one not in left_out]
        config.hook.pytest_deselected(items=left_out)


def _is_for_later(item: pytest.Item) -> bool:
    """Of the second machine all but a short look, and that unless asked for; of the first, and without one, what is slow."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and callspec.params.get("lab", SUITES[0]) != SUITES[0]:
        return os.environ.get("PBSDOCK_VM") != "smoke" or not item.get_closest_marker("smoke")
    return item.get_closest_marker("full") is not None


@pytest.fixture(scope="session", params=SUITES)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A booted machine with the package installed by its own installer and the image loaded."""
    asked = request.config.stash.setdefault(ASKED, {})
    asked[request.param] = ""
    try:
        lab = Lab(request.param)
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)
    yield lab
    asked[lab.suite] = lab.lost
    lab.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """A machine that falls silent says nothing of what is tested: its test begins again in another one, once, and it is told."""
    try:
        return (yield)
    except MachineLost as lost:
        lab = getattr(item, "funcargs", {}).get("lab")
        if not isinstance(lab, Lab):
            raise
        lab.again(lost)
        return item.runtest()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Generator[None]:
    """Before the failures: what happened in the machines in which something failed."""
    for suite, lost in config.stash.get(ASKED, {}).items():
        if lost:
            terminalreporter.section(f"a machine ({suite}) was lost, and its test begun again in another one")
            terminalreporter.write_line(lost)
        bad = [one.nodeid for kind in ("failed", "error") for one in terminalreporter.stats.get(kind, ())]
        if not any(f"[{suite.partition('-')[0]}" in one for one in bad):
            continue
        for name, lines in (("steps", 20), ("commands", 15), ("inside.log", 60), ("journal", 60), ("console", 20)):
            if text := _tail(RESULTS / suite / name, lines):
                terminalreporter.section(f"the end of {RESULTS / suite / name}", "-")
                terminalreporter.write_line(text)
    return (yield)


def _tail(path: Path, lines: int) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
