"""Jobs that start at every moment of an upgrade, and of going back: each is run by one whole version or the other."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import IMAGE, Instance, install, wait_until
from tests.support import checkout

pytestmark = pytest.mark.engine
FULL = os.environ.get("PBSDOCK_UPGRADE") == "full"
JOBS, ROUNDS = (200, 10) if FULL else (24, 2)


class Upgrades(threading.Thread):
    """Upgrades and rolls back, again and again; notes which version was in force after each."""

    def __init__(self, instance: Instance, newer: Path) -> None:
        super().__init__(daemon=True)
        self.instance = instance
        self.newer = newer
        self.names: list[str] = []
        self.trouble = ""

    def run(self) -> None:
        there = ["--mom-priv", str(self.instance.mom_priv), "--root", str(self.instance.root)]
        back = [str(self.instance.root / "opt/pbsdock/bin/pbsdock"), "setup", "rollback"]
        for _ in range(ROUNDS):
            for command in ([str(self.newer / "install.sh"), *there], back):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    self.trouble = f"{command}: {done.stdout}{done.stderr}"
                    return
                self.names.append(self.instance.home.name[:5])
                time.sleep(0.5)


def files(instance: Instance) -> dict[str, int]:
    """What is in the versions, and when it was written."""
    found = (instance.root / "opt/pbsdock/versions").rglob("*")
    return {str(one): one.lstat().st_mtime_ns for one in found if not one.is_dir() or one.is_symlink()}


@pytest.mark.timeout(900)
def test_jobs_while_versions_are_exchanged(instance: Instance, tmp_path: Path) -> None:
    """All are whole: exit code 0 and their own output, nothing else. Then the agent is of the version in force."""
    newer = checkout.newer(tmp_path)
    first = instance.home
    assert install(instance.root, "--check").returncode == 0
    # Made before, so that each round of the test exchanges the two and does not make one.
    assert (
        subprocess.run(
            [newer / "install.sh", "--mom-priv", instance.mom_priv, "--root", instance.root], check=False
        ).returncode
        == 0
    )
    second = instance.home
    assert subprocess.run([instance.root / "opt/pbsdock/bin/pbsdock", "setup", "rollback"], check=False).returncode == 0
    before = files(instance)

    upgrades = Upgrades(instance, newer)
    upgrades.start()
    wrong, count = [], 0
    while count < JOBS or upgrades.is_alive():
        count += 1
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho job {count} of {JOBS}; true\n")
        if (done.exit_status, done.stdout, done.stderr) != (0, f"job {count} of {JOBS}\n".encode(), b""):
            wrong.append((count, done.exit_status, done.stdout, done.stderr))
    upgrades.join()
    assert upgrades.trouble == ""
    assert upgrades.names == ["0.1.1", "0.1.0"] * ROUNDS
    assert wrong == []
    assert instance.home == first
    assert files(instance) == before, "something was compiled, or written, after it was installed"
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in instance.agent_pids()]
    assert lines
    assert all(f"{first}/".encode() in line and f"{second}/".encode() not in line for line in lines)
    assert install(instance.root, "--check").returncode == 0
    # An agent that is ended right after it has promised an epilogue to tidy up leaves that to the reaper, after its grace.
    good = instance.config.read_text()
    instance.config.write_text("[reaper]\nperiod_s = 1\ngrace_s = 2\n")
    instance.kill_agent()
    assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n").exit_status == 0
    wait_until("nothing is left", lambda: not instance.left(), 30)
    instance.configure(good)


def test_a_job_outlives_an_upgrade(instance: Instance, tmp_path: Path) -> None:
    """Its own run hook goes on with the old version, whose directory stays; agent and epilogue are the new version's."""
    newer = checkout.newer(tmp_path)
    old = instance.home
    trial = instance.begin(
        f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready; until [ -e go ]; do sleep 0.1; done; rm go; echo after; exit 7\n"
    )
    assert trial.leader is not None
    assert (
        subprocess.run(
            [newer / "install.sh", "--mom-priv", instance.mom_priv, "--root", instance.root], check=False
        ).returncode
        == 0
    )
    new = instance.home
    line = Path(f"/proc/{trial.leader.pid}/cmdline").read_bytes()
    (Path(trial.entry.pw_dir) / "go").touch()
    done = trial.finish(trial.wait())
    back = instance.command("setup", "rollback")

    assert new != old
    assert f"{old}/".encode() in line
    assert (done.exit_status, done.stdout, done.stderr) == (7, b"ready\nafter\n", b"")
    assert back.returncode == 0, back.stderr
    assert instance.home == old
