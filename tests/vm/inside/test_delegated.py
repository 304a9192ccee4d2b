"""Run inside the machine, with the engine's driver cgroupfs: jobs below the cgroup of mom's unit.

The unit is made of the drop-in that docs/cgroups.md shows, with a sleep in mom's place.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from pbsdock.trial.request import REQUEUE
from tests.conftest import IMAGE, Instance, wait_until
from tests.support.moms_unit import drop_in

pytestmark = pytest.mark.engine

MIB = 1 << 20
NAME = "pbs_mom.service"
UNIT = Path("/run/systemd/system") / NAME
TOP = Path("/sys/fs/cgroup/system.slice") / NAME
CONFIG = f'[cgroup]\nparent = "/system.slice/{NAME}"\n[reaper]\ngrace_s = 0\nperiod_s = 3600\n'


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def start(text: str) -> None:
    UNIT.write_text(text)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", NAME)


@pytest.fixture
def below_mom(instance: Instance) -> Iterator[Instance]:
    """The instance, configured for mom's unit; each test starts that as it likes."""
    before = instance.config.read_text()
    instance.configure(CONFIG)
    yield instance
    instance.end_all()
    subprocess.run(["systemctl", "kill", "-s", "KILL", NAME], capture_output=True, check=False)
    subprocess.run(["systemctl", "stop", NAME], capture_output=True, check=False)
    UNIT.unlink(missing_ok=True)
    run("systemctl", "daemon-reload")
    instance.configure(before)


def begun(instance: Instance, body: str) -> Trial:
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}\n", resources="nodes=1:ppn=1,mem=64mb")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes(), 30)
    return trial


def inner_nodes(top: Path) -> dict[str, str]:
    """The cgroups that hand controllers down, and the processes in them."""
    found = [top, *(one for one in top.rglob("*") if one.is_dir())]
    return {
        str(one): (one / "cgroup.procs").read_text()
        for one in found
        if (one / "cgroup.subtree_control").read_text().strip()
    }


def test_a_job_lives_below_moms_unit(below_mom: Instance) -> None:
    """In its own cgroup there, with its limits, which a daemon-reload leaves alone; no process is in an inner node."""
    start(drop_in())
    trial = begun(below_mom, "echo ready; until [ -e go ]; do sleep 0.5; done; rm go; exit 5")
    started = next(one for one in below_mom.events(trial.job_id) if one["event"] == "job.started")
    inside = Path(f"/proc/{started['pid']}/cgroup").read_text()
    run("systemctl", "daemon-reload")
    run("systemctl", "set-property", "--runtime", NAME, "CPUWeight=200")
    limits = [one.read_text().strip() for one in TOP.glob("pbsdock/*/memory.max")]
    busy = inner_nodes(TOP)
    (Path(trial.entry.pw_dir) / "go").touch()
    done = trial.finish(trial.wait())

    assert inside.startswith(f"0::/system.slice/{NAME}/pbsdock/")
    assert limits == [str(64 * MIB)]
    assert len(busy) >= 3  # the unit, the instance, the job
    assert set(busy.values()) == {""}
    assert done.exit_status == 5
    assert below_mom.left() == []
    assert [one.name for one in TOP.iterdir() if one.is_dir()] == [
        "mom"
    ]  # our own directory has gone with the last job


def test_a_restart_of_the_unit_leaves_the_job_alone(below_mom: Instance) -> None:
    """Its main process cannot come back meanwhile, as the manual says of this systemd; the job runs on to its own end."""
    start(drop_in())
    trial = begun(below_mom, "echo ready; until [ -e go ]; do sleep 0.5; done; rm go; exit 6")
    subprocess.run(["systemctl", "restart", NAME], capture_output=True, check=False)
    wait_until("mom has failed to come back", lambda: "219" in run("systemctl", "show", "-P", "ExecMainStatus", NAME))
    limits = [one.read_text().strip() for one in TOP.glob("pbsdock/*/memory.max")]
    (Path(trial.entry.pw_dir) / "go").touch()
    done = trial.finish(trial.wait())

    assert limits == [str(64 * MIB)]
    assert done.exit_status == 6
    assert below_mom.left() == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((r"Delegate=yes", "Delegate=no"), "is not delegated by systemd"),
        ((r"(?m)^ExecStart=/.*$", "ExecStart=/bin/sleep infinity"), "let its unit run in a cgroup below that"),
    ],
    ids=["not delegated", "mom in an inner node"],
)
def test_a_unit_that_is_not_fit_is_told(below_mom: Instance, change: tuple[str, str], says: str) -> None:
    """The job is queued again and the node says why: nothing runs without its limits."""
    text = re.sub(*change, drop_in())
    assert text != drop_in()
    start(text)
    done = below_mom.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho never\n", resources="nodes=1:ppn=1,mem=64mb")

    assert (done.exit_status, done.stdout) == (REQUEUE, b"")
    (fault,) = [one for one in below_mom.events(done.job_id) if one["event"] == "job.fault"]
    assert says in str(fault["sentence"])
    assert below_mom.left() == []
