"""The life of a job, whatever the node is: cgroup version 1 or 2, either driver of the engine, with systemd or without.

The same file runs on a development machine and, through tests/vm, in a virtual one. An engine call takes seconds there, so
the jobs are few and each is asked a lot.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, Instance, wait_until

pytestmark = pytest.mark.engine

MIB = 1 << 20
CONFIG = "[limits]\npids = 64\n[reaper]\ngrace_s = 0\nperiod_s = 3600\n[events]\njournald = true\n"
MORE = os.environ.get("PBSDOCK_TEST_CONFIG", "")  # where the jobs' cgroups are, of the virtual machine's


@pytest.fixture(scope="module")
def node(installed: Instance) -> Iterator[Instance]:
    """The installation with few processes per job and a reaper that comes when it is called."""
    before = installed.config.read_text()
    try:
        installed.configure(CONFIG + MORE)
        yield installed
    finally:
        installed.configure(before)


def events(node: Instance, job: str, name: str) -> list[dict[str, object]]:
    return [one for one in node.events(job) if one["event"] == name]


def started(node: Instance, body: str, resources: str = "nodes=1:ppn=1,mem=64mb,walltime=00:10:00") -> Trial:
    trial = node.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}\n", resources=resources)
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes() or trial.leader is None, 30)
    return trial


def cgroup_of(trial: Trial, node: Instance) -> list[Path]:
    """The job's cgroup, in each hierarchy that has one, found in the tree by nothing but its name."""
    incarnation = events(node, trial.job_id, "job.planned")[-1]["incarnation"]
    return [one for one in Path("/sys/fs/cgroup").rglob(f"*.{incarnation}*") if one.is_dir()]


def throttled(places: list[Path]) -> int:
    """How often the kernel stopped the job because its CPU time was up, in its own cgroup or the container's."""
    texts = [file.read_text() for place in places for file in place.rglob("cpu.stat")]
    return sum(int(value) for text in texts for value in re.findall(r"^nr_throttled (\d+)", text, re.MULTILINE))


def test_a_job_has_what_it_was_granted_and_leaves_nothing(node: Instance, instance: Instance) -> None:
    """ppn=1 is one CPU although two loops run, the 65th process cannot be made, and output and exit code are whole."""
    trial = started(
        node,
        "mkfifo /tmp/never; (while :; do :; done) & (while :; do :; done) & echo ready\n"
        "until [ -e throttled ]; do sleep 0.2; done; kill %1 %2\n"
        "(for i in $(seq 80); do sleep 600 & done) 2>&1; echo forked\n"
        "until [ -e seen ]; do read -t 1 nothing <>/tmp/never; done; echo err >&2; exit 7",
    )
    home = Path(trial.entry.pw_dir)
    places = cgroup_of(trial, node)
    try:
        wait_until("two loops are held to one CPU", lambda: throttled(places) > 0, 30)
        (home / "throttled").touch(0o644)
        wait_until("no more processes can be made", lambda: b"forked" in trial.out_path.read_bytes(), 30)
        pid = int(str(events(node, trial.job_id, "job.started")[0]["pid"]))
        inside = Path(f"/proc/{pid}/cgroup").read_text()
        held = [file.read_text().strip() for place in places for file in place.glob("pids.max")]
        (home / "seen").touch(0o644)
        done = trial.finish(trial.wait())
    finally:
        for file in ("throttled", "seen"):
            (home / file).unlink(missing_ok=True)

    said = b"pbsdock: the job had 64 processes and threads, as many as it may at this site; forks beyond that are refused\n"
    assert (done.exit_status, done.stderr) in ((7, b"err\n" + said), (7, b"err\n"))  # the second: a kernel before 6.1
    assert b"can't fork" in done.stdout
    assert places
    assert any(place.name in inside for place in places)
    assert held == ["64"]
    assert node.left() == []
    finished = next(one for one in node.trail(trial.job_id) if one["event"] == "job.finished")
    assert finished["pids_peak"] in (64, None)  # None: a kernel before 6.1
    assert float(str(finished["cpu_seconds"])) > 0.1  # at least the period of 100 ms that was used up


def test_out_of_memory_is_told_with_limit_and_peak(node: Instance, instance: Instance) -> None:
    """More than 200 MB in a job of 64: killed, by whose limit in a sentence, and the script's own exit status.

    mem= also sets RLIMIT_DATA, at which a process's allocation fails and nobody is killed; so several of them ask for it,
    and /dev/shm is charged to the cgroup alone.
    """
    done = node.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\ndd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null\n"
        "for i in 1 2 3; do tail /dev/zero & done; wait $!\nexit $?\n",
        resources="nodes=1:ppn=1,mem=64mb",
    )
    trail = node.trail(done.job_id)

    assert done.exit_status == 137
    said = (
        b"pbsdock: out of memory: a process was killed at the job's limit of 64 MiB; peak use 64 MiB; ask for more"
        b" with qsub -l mem=SIZE\n"
    )
    assert said in done.stderr
    killed = next(one for one in trail if one["event"] == "container.oom")
    assert (killed["limit_bytes"], killed["peak_bytes"]) == (64 * MIB, 64 * MIB)
    assert next(one for one in trail if one["event"] == "job.finished")["oom"] is True
    assert node.left() == []


def test_a_deleted_job_takes_along_what_hides_in_it(node: Instance, instance: Instance) -> None:
    """Neither a process that ignores TERM nor one in a session of its own survives qdel and the epilogue."""
    trial = started(node, "trap '' TERM\nsetsid sh -c \"trap '' TERM; sleep 600\" &\necho ready\nsleep 600\nsleep 600")
    pids = {
        int(one)
        for place in cgroup_of(trial, node)
        for file in place.rglob("cgroup.procs")
        for one in file.read_text().split()
    }
    trial.qdel()
    done = trial.finish(trial.wait())

    assert len(pids) >= 3
    assert done.exit_status >= 256
    assert node.left() == []
    assert [one for one in pids if Path(f"/proc/{one}").exists()] == []


def test_a_job_without_its_epilogue_is_reaped(node: Instance, instance: Instance) -> None:
    """Mom is gone, hook and .JB with it: one pass of the reaper leaves nothing, and says what it took."""
    trial = started(node, "echo ready\nsleep 600")
    os.kill(trial.leader_pid, signal.SIGKILL)
    trial.wait()
    trial.job_file.unlink()
    node.trials.remove(trial)
    done = json.loads(node.command("reap", "--json").stdout)
    trial.spool.remove()

    assert (done["reaped"], done["left"], done["blocked"]) == (1, 0, "")
    assert node.left() == []
    assert [one["why"] for one in events(node, trial.job_id, "orphan.reaped")] == ["job-gone"]
