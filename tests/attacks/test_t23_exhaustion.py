"""T23, T24: a job that takes all it can get takes it from itself: the neighbour, the node and the next job go on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import HOST_IMAGE, IMAGE, USERS, Instance, wait_until
from tests.support.attack import is_healthy, works

pytestmark = pytest.mark.engine


@pytest.fixture
def neighbour(instance: Instance) -> Iterator[Trial]:
    """Another user's small job, which must still run afterwards."""
    instance.configure("[limits]\npids = 64\n")
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 300\n", user=USERS[1])
    wait_until("the neighbour runs", lambda: b"ready" in trial.out_path.read_bytes())
    yield trial
    assert trial.leader is not None
    assert trial.leader.poll() is None
    assert is_healthy(instance)
    assert works(instance)
    trial.qdel()
    assert trial.finish(trial.wait()).exit_status == 271


def test_fork_bomb(instance: Instance, neighbour: Trial) -> None:
    """Processes are bounded by the kernel, also where the user's own limit (ulimit -u) is none."""
    done = instance.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\nn=0; while [ $n -lt 500 ]; do sleep 30 & n=$((n+1)); done; echo all\n"
    )

    assert b"all" not in done.stdout
    assert next(one["pids_peak"] for one in instance.trail(done.job_id) if one["event"] == "job.finished") <= 64


def test_memory(instance: Instance, neighbour: Trial) -> None:
    """More than was granted ends the job, which is told so; shared memory and files in memory count with it."""
    for body in ("head -c 200m /dev/zero | tail -c 190m >/dev/null", "dd if=/dev/zero of=/dev/shm/x bs=1M count=200"):
        done = instance.run(
            f"#!/bin/sh\n#DOCKER --shm-size 64m {IMAGE}\n{body} 2>/dev/null && echo all\n",
            resources="nodes=1:ppn=1,mem=64mb",
        )
        assert b"all" not in done.stdout, body
        peak = next(one["memory_peak_bytes"] for one in instance.trail(done.job_id) if one["event"] == "job.finished")
        assert peak <= 64 << 20


def test_tmpfs_counts_as_memory(instance: Instance, neighbour: Trial) -> None:
    """A tmpfs is no way round the limit."""
    done = instance.run(
        f"#!/bin/sh\n#DOCKER --tmpfs /t {IMAGE}\ndd if=/dev/zero of=/t/x bs=1M count=200 2>/dev/null && echo all\n",
        resources="nodes=1:ppn=1,mem=64mb",
    )
    assert b"all" not in done.stdout


def test_descriptors_and_file_sizes(instance: Instance, neighbour: Trial) -> None:
    """The user's own limits hold inside as outside."""
    done = instance.run(
        f'#!/bin/bash\n#DOCKER {HOST_IMAGE}\nulimit -n; ulimit -f\n(for i in $(seq 3 1100000); do eval "exec $i</dev/null" || break; done)'
        " 2>/dev/null\nhead -c 2000000 /dev/zero >/tmp/x 2>/dev/null; stat -c %s /tmp/x; true\n",
        resources="nodes=1:ppn=1,file=1mb",
    )
    bare = instance.run("#!/bin/bash\nulimit -n; ulimit -f\n", resources="nodes=1:ppn=1,file=1mb")

    assert done.stdout.splitlines()[:2] == bare.stdout.splitlines()
    assert int(done.stdout.splitlines()[2]) <= 1 << 20


@pytest.mark.threat(24)
def test_output_is_kept_once(instance: Instance) -> None:
    """What a job prints goes to its own spool file and is not kept by the engine a second time."""
    root = subprocess.run(
        ["docker", "info", "-f", "{{.DockerRootDir}}"], capture_output=True, text=True, check=True
    ).stdout
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nhead -c 20000000 /dev/zero\necho ready >&2\nsleep 60\n")
    wait_until("it has printed", lambda: b"ready" in trial.err_path.read_bytes(), 30)
    found = instance.inspect(trial.job_id)
    logs = [one for one in (Path(root.strip()) / "containers" / found["Id"]).rglob("*") if one.is_file()]
    trial.qdel()
    trial.finish(trial.wait())

    assert found["HostConfig"]["LogConfig"]["Type"] == "none"
    assert sum(one.stat().st_size for one in logs if one.exists()) < 1 << 20


@pytest.mark.threat(24)
def test_what_a_job_writes_goes_with_it(instance: Instance) -> None:
    """The writable layer and every volume are gone after the epilogue; a read-only root has neither."""

    def used() -> int:
        found = os.statvfs("/var/lib/docker")
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    before = used()
    done = instance.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\ndd if=/dev/zero of=/big bs=1M count=1 2>&1 | tail -1; dd if=/dev/zero of=/tmp/big bs=1M count=300 2>/dev/null; ls /tmp\n"
    )
    assert done.stdout.endswith(b"big\n")
    wait_until("the layer is gone", lambda: used() - before < 150 << 20, 30)
    closed = instance.run(
        f"#!/bin/sh\n#DOCKER --read-only {IMAGE}\ntouch /x /bin/x /etc/x /root/x 2>/dev/null; ls /x /bin/x 2>/dev/null; touch /tmp/ok && echo end\n"
    )
    assert closed.stdout == b"end\n"
