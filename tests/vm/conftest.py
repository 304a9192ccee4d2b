"""The machine all tests of this directory share, and what is said of it when something went wrong."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.vm.base import BuildError
from tests.vm.lab import RESULTS, Lab
from tests.vm.machine import MachineLost

# What is run inside the machine is collected there and nowhere else.
collect_ignore = [] if "PBSDOCK_TEST_INSTALLED" in os.environ else ["inside"]
_LOST = pytest.StashKey[str]()  # there once a machine was asked for


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `make test-v2` has time for: not collected, so that it does not look like a skip."""
    if os.environ.get("PBSDOCK_VM") == "full":
        return
    left_out = [one for one in items if one.get_closest_marker("full")]
    if left_out:
        items[:] = [one for one in items if one not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A booted machine with the package installed by its own installer and the image loaded."""
    request.config.stash[_LOST] = ""
    try:
        lab = Lab()
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)
    yield lab
    request.config.stash[_LOST] = lab.lost
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
    """Before the failures: what happened in the machine."""
    if lost := config.stash.get(_LOST, ""):
        terminalreporter.section("a machine was lost, and its test begun again in another one")
        terminalreporter.write_line(lost)
    if _LOST in config.stash and any(terminalreporter.stats.get(kind) for kind in ("failed", "error")):
        for name, lines in (("steps", 20), ("commands", 15), ("inside.log", 60), ("journal", 60), ("console", 20)):
            if text := _tail(RESULTS / name, lines):
                terminalreporter.section(f"the end of {RESULTS / name}", "-")
                terminalreporter.write_line(text)
    return (yield)


def _tail(path: Path, lines: int) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
