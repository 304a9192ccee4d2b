"""What drives the virtual machine, without one: a command whose time is up, and a machine that was lost."""

from __future__ import annotations

import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pbsdock.host.process import alive
from tests.conftest import ROOT
from tests.vm import conftest as harness
from tests.vm.base import SUITES
from tests.vm.lab import Lab
from tests.vm.machine import MachineLost


@pytest.fixture(scope="module")
def guest() -> ModuleType:
    """The program that runs in the machine."""
    loader = SourceFileLoader("lab", str(ROOT / "tests/vm/guest/root/usr/local/sbin/lab"))
    module = module_from_spec(spec_from_loader("lab", loader) or pytest.fail("no such program"))
    loader.exec_module(module)
    return module


def test_a_command_answers_with_status_and_output(guest: ModuleType) -> None:
    """Both streams in one."""
    assert guest.run("echo out; echo err >&2; exit 3", 10) == (3, "out\nerr\n")


def test_a_command_whose_time_is_up_takes_its_session_along(guest: ModuleType, tmp_path: Path) -> None:
    """Who ignores TERM, who went into the background, and who holds the output open; the answer is there all the same."""
    began = time.monotonic()
    command = f"trap '' TERM; (trap '' TERM; echo $BASHPID >{tmp_path}/pid; sleep 600) & echo begun; wait"
    status, out = guest.run(command, 1.0)

    assert (status, out) == (124, "begun\n")
    assert time.monotonic() - began < 10
    assert not alive(int((tmp_path / "pid").read_text()))


def lost_in(lab: Lab) -> tuple[list[str], object]:
    """A test of *lab* whose machine is lost; what was run again, and what came of it."""
    ran: list[str] = []
    item = SimpleNamespace(funcargs={"lab": lab}, runtest=lambda: ran.append("again"))
    hook = harness.pytest_runtest_call(item)  # type: ignore[arg-type]  # as much of an item as it looks at
    next(hook)
    try:
        hook.throw(MachineLost("silent"))
    except StopIteration as done:
        return ran, done.value
    except MachineLost as lost:
        return ran, str(lost)
    return ran, "the hook goes on"


def test_a_lost_machine_is_replaced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test begins again in another one, and that is kept to be told; the second time it is a failure."""
    lab = Lab.__new__(Lab)
    lab.results = tmp_path
    lab.lost = ""
    monkeypatch.setattr(Lab, "_end", lambda self: None)
    monkeypatch.setattr(Lab, "_start", lambda self: None)

    assert lost_in(lab) == (["again"], None)
    assert lab.lost == (tmp_path / "lost").read_text() == "silent"
    assert lost_in(lab) == ([], "silent")


class _Item:
    """As much of a test as is looked at when some are left out."""

    def __init__(self, suite: str | None, *marks: str) -> None:
        self.marks = marks
        if suite:
            self.callspec = SimpleNamespace(params={"lab": suite})

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None


def test_which_tests_every_run_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the first machine's but the slow; a short look at the second where asked for; in `make test-v2` all."""
    first, second = SUITES
    always = [_Item(None), _Item(first), _Item(first, "smoke")]
    look = [_Item(second, "smoke"), _Item(second, "full", "smoke")]
    slow = [_Item(None, "full"), _Item(first, "full"), _Item(first, "full", "smoke"), _Item(second)]
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: None))
    for how, expected in (("", always), ("smoke", [*always, *look]), ("full", [*always, *look, *slow])):
        monkeypatch.setenv("PBSDOCK_VM", how)
        items = [*always, *look, *slow]
        harness.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]  # as much of them as it looks at
        assert items == expected
