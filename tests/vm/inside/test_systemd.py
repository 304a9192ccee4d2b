"""Run inside the machine only: what systemd does to slices behind our back, and what we do about it.

docs/hosts.md has a table of the traps, with the tests here and elsewhere that belong to each.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.core.errors import NodeFault
from pbsdock.core.plan import Limits
from pbsdock.host.cgroup.bus import SystemBus
from pbsdock.host.cgroup.systemd import SystemdCgroup
from pbsdock.trial import Trial
from tests.conftest import IMAGE, Instance, wait_until

pytestmark = pytest.mark.engine

MIB = 1 << 20
LIMITS = Limits(memory_bytes=64 * MIB, memory_swap_bytes=64 * MIB, cpu_millis=500, cpuset="0", pids=64, shm_bytes=MIB)
LONGEST = f"1.{'-' * 98}.{'f' * 16}"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def slices() -> Iterator[SystemdCgroup]:
    """The backend with slices of its own; whatever a failed test leaves is taken away."""
    backend = SystemdCgroup(Path("/sys/fs/cgroup"), "trap", SystemBus())
    yield backend
    for name in backend.names():
        backend.remove(name, 30.0)


def held(slices: SystemdCgroup, name: str) -> dict[str, str]:
    files = ("memory.max", "memory.swap.max", "cpu.max", "pids.max", "cpuset.cpus")
    places = {one: slices.directory(name) / one for one in files}
    return {one: place.read_text().strip() if place.exists() else "absent" for one, place in places.items()}


def test_limits_stay_whatever_systemd_does(slices: SystemdCgroup) -> None:
    """They hold at once, through daemon-reload and daemon-reexec, against a raw write, and change by a second call."""
    wanted = {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "pids.max": "64",
        "cpuset.cpus": "0",
    }
    slices.create("1.vm.a", LIMITS)
    assert held(slices, "1.vm.a") == wanted

    (slices.directory("1.vm.a") / "memory.max").write_text("max")
    with pytest.raises(NodeFault):
        slices.verify("1.vm.a", LIMITS)
    run("systemctl", "daemon-reload")
    run("systemctl", "daemon-reexec")
    found = held(slices, "1.vm.a")
    assert found.pop("memory.max") in (wanted["memory.max"], "max")  # systemd 252 writes its own again, 257 does not
    assert found == {file: value for file, value in wanted.items() if file != "memory.max"}

    slices.create("1.vm.a", replace(LIMITS, memory_bytes=32 * MIB, memory_swap_bytes=32 * MIB, cpu_millis=None))
    assert held(slices, "1.vm.a") == {**wanted, "memory.max": str(32 * MIB), "cpu.max": "absent"}
    slices.remove("1.vm.a", 30.0)
    assert not Path("/sys/fs/cgroup/trap.slice").exists()
    assert run("systemctl", "list-units", "--all", "--plain", "--no-legend", "trap*") == ""


def test_names_of_all_kinds(slices: SystemdCgroup) -> None:
    """Arrays, dashes, and an id whose escapes would pass a unit name's length are made, found and removed."""
    names = ["16-0.some-host.b", "1.vm.a", LONGEST]
    for name in names:
        slices.create(name, replace(LIMITS, cpuset=None))
    assert slices.names() == sorted(names)
    slices.remove("1.vm.a", 30.0)
    assert slices.names() == sorted({*names} - {"1.vm.a"})
    for name in names:
        slices.remove(name, 30.0)
    assert not Path("/sys/fs/cgroup/trap.slice").exists()


def test_remove_waits_for_nobody(slices: SystemdCgroup) -> None:
    """A scope that ignores TERM would hold a StopUnit for 90 s; it is killed first. Its hand-made cgroups go as well."""
    slices.create("1.vm.a", LIMITS)
    program = (
        "trap '' TERM; mkdir -p /sys/fs/cgroup$(cut -c4- /proc/self/cgroup)/deep; echo ready; while :; do sleep 1; done"
    )
    with subprocess.Popen(
        [
            "systemd-run",
            "--quiet",
            "--scope",
            "-p",
            "Delegate=yes",
            f"--slice={slices.unit('1.vm.a')}",
            "sh",
            "-c",
            program,
        ],
        stdout=subprocess.PIPE,
    ) as scope:
        assert scope.stdout is not None
        assert scope.stdout.readline() == b"ready\n"
        began = time.monotonic()
        slices.remove("1.vm.a", 30.0)
        assert time.monotonic() - began < 30
    assert not Path("/sys/fs/cgroup/trap.slice").exists()


def script(body: str) -> str:
    return f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}\n"


def started(instance: Instance, body: str, resources: str) -> Trial:
    trial = instance.begin(script(body), resources=resources)
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes(), 30)
    return trial


def names(instance: Instance, job: str) -> list[str]:
    return [str(one["event"]) for one in instance.events(job)]


def test_a_slice_stopped_before_the_start_stops_the_job(instance: Instance) -> None:
    """The engine would run it without limits (observed): nothing of the script is run, and the node says why."""
    trial = Trial(instance.request(script("echo never"), resources="nodes=1:ppn=1,mem=64mb"))
    instance.trials.append(trial)
    trial.prepare_files()
    assert trial.prologue() == 0
    run("systemctl", "stop", "pbsdock.slice")
    trial.start()
    done = trial.finish(trial.wait())

    assert b"never" not in done.stdout
    assert done.exit_status != 0
    assert "container.mismatch" in names(instance, trial.job_id)
    assert "job.started" not in names(instance, trial.job_id)
    assert b"the kernel holds" in done.stderr


def test_a_job_outlives_the_agent_and_systemd_reloading(instance: Instance) -> None:
    """The agent is killed by systemctl, systemd reloads and executes itself anew: output, limits, exit code are whole."""
    trial = started(
        instance, "echo ready; until [ -e go ]; do sleep 0.5; done; rm go; echo after; exit 9", "nodes=1:ppn=1,mem=64mb"
    )
    before = instance.agent_pids()
    run("systemctl", "kill", "-s", "KILL", "pbsdock-agent.service")
    run("systemctl", "daemon-reload")
    run("systemctl", "daemon-reexec")
    wait_until("systemd starts another agent", lambda: instance.agent_pids() not in ([], before), 30)
    limits = [
        one.read_text().strip() for one in Path("/sys/fs/cgroup").glob("pbsdock.slice/pbsdock-*.slice/memory.max")
    ]
    go = Path(trial.entry.pw_dir) / "go"
    go.touch()
    done = trial.finish(trial.wait())

    assert limits == [str(64 * MIB)]
    assert (done.exit_status, done.stdout, done.stderr) == (9, b"ready\nafter\n", b"")
    assert instance.left() == []
    instance.trail(trial.job_id)
    fields = [
        json.loads(line)
        for line in run("journalctl", "-t", "pbsdock", f"JOB={trial.job_id}", "-o", "json").splitlines()
    ]
    assert {"job.started", "job.finished"} <= {one["EVENT"] for one in fields}
    assert {one["USER"] for one in fields if "USER" in one} == {trial.entry.pw_name}


def test_whose_memory_limit_it_was(instance: Instance) -> None:
    """An admin has lowered the container's own limit: the sentence does not blame the job's, and tells the true peak."""
    trial = started(
        instance,
        "echo ready; until [ -e go ]; do sleep 0.5; done; rm go; cat /dev/zero >/dev/shm/x; exit 5",
        "nodes=1:ppn=1,mem=128mb",
    )
    container = next(one for one in instance.events(trial.job_id) if one["event"] == "job.started")["container"]
    run("docker", "update", "--memory", "32m", "--memory-swap", "32m", str(container))
    go = Path(trial.entry.pw_dir) / "go"
    go.touch()
    done = trial.finish(trial.wait())

    assert b"a limit of the container's own, below the job's 128 MiB; peak use 3" in done.stderr
    assert next(one for one in instance.trail(trial.job_id) if one["event"] == "job.finished")["oom"] is True
