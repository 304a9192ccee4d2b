"""Drain, reload and trying a policy, with real hooks, a real agent and a real engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance, wait_until

pytestmark = pytest.mark.engine
_JOBS = int(os.environ.get("PBSDOCK_TEST_RELOAD_JOBS", "12"))  # measured once with 200


def _node_check(instance: Instance) -> str:
    done = subprocess.run(
        [str(instance.root / "opt/pbsdock/hooks/node-check")], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_drained_node_finishes_its_jobs_and_takes_no_others(instance: Instance) -> None:
    """Also after the agent was killed; told by the node check, ps and why. Jobs without a container are mom's business."""
    running = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nread line <$HOME/go; echo went on $line\n")
    fifo = Path(f"~{USERS[0]}").expanduser() / "go"
    os.mkfifo(fifo)
    os.chown(fifo, fifo.parent.stat().st_uid, -1)
    try:
        assert "container jobs still here: 1" in instance.command("drain", "--reason", "new disk").stdout
        assert _node_check(instance) == "ERROR pbsdock: drained by an admin: new disk\n"
        assert instance.command("drain", "--wait", "--timeout", "0.1").returncode == 1
        instance.command("drain", "--reason", "new disk")
        refused = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
        assert (refused.prologue_status, refused.exit_status) == (2, -14)
        told = json.loads(instance.command("why", "--json", refused.job_id).stdout)
        assert told["cause"]["code"] == "drained"
        assert "new disk" in told["cause"]["sentence"]
        assert instance.run("#!/bin/sh\necho plain\n").stdout == b"plain\n"

        instance.kill_agent()
        instance.start_agent()
        assert "drained by an admin: new disk" in instance.command("ps").stdout
        assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n").prologue_status == 2
        fifo.write_text("well\n")
        assert running.finish(running.wait()).stdout == b"went on well\n"

        assert instance.command("drain", "--wait", "--timeout", "30").returncode == 0
        assert instance.command("undrain").stdout == "the node takes container jobs again\n"
        assert _node_check(instance) == ""
        assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n").exit_status == 0
    finally:
        fifo.unlink()
        instance.command("undrain")
    told_events = [event["event"] for event in instance.events() if event["event"].startswith("node.")]
    assert told_events[-2:] == ["node.drained", "node.undrained"]


def test_without_an_agent_the_file_alone_drains(instance: Instance) -> None:
    """The next agent finds it."""
    instance.kill_agent()
    try:
        assert "drained by an admin: x;" in instance.command("drain", "--reason", "x").stdout
        assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n").prologue_status == 2
    finally:
        assert instance.command("undrain").returncode == 0


def test_a_reload_counts_for_new_jobs_and_a_running_one_keeps_its_plan(instance: Instance) -> None:
    """By the command and by SIGHUP to the process that agent.pid names. A wrong file changes nothing."""
    script = f"#!/bin/sh\n#DOCKER {IMAGE}\nulimit -a >/dev/null; cat /sys/fs/cgroup/pids.max 2>/dev/null; true\n"
    assert instance.run(script).exit_status == 0
    sleeper = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 300\n")
    instance.config.write_text(f"[images]\ndeny = ['docker.io/{IMAGE.split(':')[0]}']\n")
    done = instance.command("reload")
    assert (done.returncode, done.stdout) == (0, "in force for new jobs: images.deny\n"), done.stderr
    assert instance.run(script).exit_status == 125
    assert sleeper.leader is not None
    assert sleeper.leader.poll() is None

    instance.config.write_text("\n[images]\ndeny = []\nspeed = 3\n")
    done = instance.command("reload")
    assert done.returncode == 2
    assert "unknown key 'images.speed'" in done.stderr
    assert instance.command("config", "diff").returncode == 2
    assert instance.run(script).exit_status == 125

    instance.config.write_text("\n[events]\nmax_field = 999\n")
    diff = instance.command("config", "diff")
    assert diff.returncode == 1
    assert "events.max_field = 999 (default 4096)" in diff.stdout
    assert "not in force: images.deny" in diff.stdout
    os.kill(int((instance.run_dir / "agent.pid").read_text()), signal.SIGHUP)
    wait_until("the file is in force", lambda: "images.deny" not in instance.command("config", "diff").stdout)
    assert instance.run(script).exit_status == 0
    assert "start the agent anew" in instance.command("config", "diff").stdout
    sleeper.qdel()
    assert sleeper.finish(sleeper.wait()).exit_status == 271
    names = [event["event"] for event in instance.events() if event["event"].startswith("config.")]
    assert names[-3:] == ["config.reloaded", "config.refused", "config.reloaded"]


def test_reloads_all_the_time_lose_no_job(instance: Instance) -> None:
    """Jobs back to back while the file changes and is read again, now and then a wrong one."""
    over = threading.Event()
    reloads = [0, 0]

    def reload_always() -> None:
        while not over.is_set():
            count = sum(reloads)
            wrong = count % 5 == 4
            instance.config.write_text(f"\n[limits]\npids = {1000 + count}\n" + ("nonsense = 1\n" if wrong else ""))
            reloads[wrong] += 1
            assert instance.command("reload").returncode == (2 if wrong else 0)
            over.wait(1.0 if _JOBS > 100 else 0.1)

    reloader = threading.Thread(target=reload_always)
    reloader.start()
    began = time.monotonic()
    try:
        outcomes = [instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho {number}\n") for number in range(_JOBS)]
    finally:
        over.set()
        reloader.join()
    print(f"{_JOBS} jobs in {time.monotonic() - began:.1f} s with {reloads[0]} reloads and {reloads[1]} refused ones")
    assert [(outcome.exit_status, outcome.stdout) for outcome in outcomes] == [
        (0, f"{number}\n".encode()) for number in range(_JOBS)
    ]
    assert all(outcome.started == 1 for outcome in outcomes)
    assert min(reloads) > 0


def test_what_a_script_would_get(instance: Instance, tmp_path: Path) -> None:
    """By the file as it is, as the user, and nothing is run: rules by their lines, mounts as they are, refusals in their
    own sentences."""
    instance.config.write_text("\n[mounts]\nallow = ['/opt:ro']\n[limits]\nmax_memory = '1gb'\n")
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n#PBS -l mem=100mb\n#DOCKER -v /opt:/data:ro {IMAGE}\ntouch /tmp/never\n")
    done = instance.command("config", "test", str(script), "--user", USERS[1], "-l", "nodes=2:ppn=2")
    assert done.returncode == 0, done.stderr
    assert f"job.sh as {USERS[1]} in queue batch: would run" in done.stdout
    assert "(mounts.allow, pbsdock.toml:3)" in done.stdout
    assert "mount     /opt as /data ro\n" in done.stdout
    assert "memory    50 MiB (qsub -l mem)" in done.stdout
    assert json.loads(instance.command("ps", "--json").stdout or '{"jobs": []}')["jobs"] == []

    done = instance.command("config", "test", str(script), "--user", USERS[1], "-l", "mem=8gb", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"], told["code"]) == (1, "refused", "memory-too-large")
    assert told["decided"][-1]["line"] == 5
    script.write_text(f"#!/bin/sh\n#DOCKER -v /srv/none:/data {IMAGE}\n")
    done = instance.command("config", "test", str(script), "--user", USERS[1])
    assert done.returncode == 1
    assert "would be refused (mount-not-allowed)" in done.stdout
    script.write_text("#!/bin/sh\ntrue\n")
    assert "without a container" in instance.command("config", "test", str(script), "--user", USERS[1]).stdout
    assert instance.command("config", "test", str(script), "--user", "nobody-here").returncode == 2
