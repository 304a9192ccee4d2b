"""The machine itself: that it stands where its kernel changes its own code, and that one which stands still is told."""

from __future__ import annotations

import time

import pytest

from tests.vm import machine
from tests.vm.lab import Lab
from tests.vm.machine import Machine, MachineLost

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]

TOGGLE = """
import os, time
end, count = time.monotonic() + 30, 0
with open("/sys/fs/cgroup/toggled/cpu.max", "w") as quota, open("/proc/sys/kernel/sched_schedstats", "w") as statistics:
    while time.monotonic() < end:
        for text, switch in (("50000 100000", b"1"), ("max 100000", b"0")):
            quota.seek(0)
            quota.write(text)
            quota.flush()
            os.write(statistics.fileno(), switch)
            count += 1
print(count)
"""


def test_it_stands_while_its_kernel_changes_its_own_code(lab: Lab) -> None:
    """The first quota and the last switch code of the scheduler on and off, on two processors that are in the middle of it."""
    lab.check("mkdir /sys/fs/cgroup/toggled")
    busy = "(while :; do /bin/true; done) & one=$!; (while :; do read x </proc/uptime; done) & two=$!"
    try:
        lab.check(f"{busy}; python3 - <<'END'\n{TOGGLE}END\nstatus=$?; kill $one $two; exit $status")
    except MachineLost as lost:
        pytest.fail(str(lost))  # not begun again in another one: that it is lost is what is tested
    lab.check("rmdir /sys/fs/cgroup/toggled")


def test_one_that_stands_still_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped from outside, another one is given up soon, with what can be known of it, and not waited for again."""
    monkeypatch.setattr(machine, "_SILENT_S", 12.0)
    still = Machine(lab.base, lab.package)
    try:
        assert still.check("echo alive; sleep 20; echo still") == "alive\nstill\n"  # longer than it may be silent
        still.monitor.ask("stop")
        with pytest.raises(MachineLost) as caught:
            still.check("true")
        began = time.monotonic()
        with pytest.raises(MachineLost):
            still.check("true")
        assert time.monotonic() - began < 5
    finally:
        still.close()

    said = str(caught.value)
    assert said.startswith("the machine has said nothing for 12 s")
    assert "'status': 'paused'" in said
    assert "RIP=" in said
    assert said.endswith("awaited: an answer to: true")
