"""Signals and the end of a job: what the script sees, and what Torque would record."""

from __future__ import annotations

import signal
import time

import pytest

from pbsdock.trial import Trial
from tests.conftest import HOST_IMAGE, IMAGE, Instance, wait_until

pytestmark = pytest.mark.engine


def _running(instance: Instance, body: str, image: str = IMAGE, **options: object) -> Trial:
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {image}\n{body}\n", **options)
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    return trial


def test_qdel_lets_the_trap_run(instance: Instance) -> None:
    """The script's TERM trap runs to its end, and the job ends by TERM as a bare one does (271)."""
    trial = _running(
        instance,
        "trap 'echo trapped; sleep 0.5; echo done; exit 3' TERM\necho ready\nwhile :; do sleep 0.1; done",
        kill_delay_s=5.0,
    )
    trial.qdel()
    done = trial.finish(trial.wait())

    assert done.exit_status == 271
    assert done.stdout.startswith(b"ready\n")
    assert done.stdout.endswith(b"done\n")


def test_qdel_without_trap(instance: Instance) -> None:
    """A script without a trap dies of TERM at once."""
    trial = _running(instance, "echo ready\nsleep 60")
    began = time.monotonic()
    trial.qdel()
    done = trial.finish(trial.wait())

    assert done.exit_status == 271
    assert time.monotonic() - began < 3


def test_kill_when_term_is_ignored(instance: Instance) -> None:
    """A script that ignores TERM is killed after the kill delay, container and all."""
    trial = _running(instance, "trap '' TERM\necho ready\nwhile :; do sleep 0.1; done", kill_delay_s=1.0)
    trial.qdel()
    done = trial.finish(trial.wait())

    assert done.exit_status == 265
    assert instance.left() == []


@pytest.mark.parametrize("name", ["USR1", "USR2", "HUP", "INT", "QUIT", "ALRM", "TSTP", "CONT"])
@pytest.mark.parametrize(
    "body", ["trap 'echo got; exit 5' {}\necho ready\nwhile :; do sleep 0.1; done", "echo ready\nsleep 3"]
)
def test_a_signal_does_what_it_does_to_a_bare_job(instance: Instance, name: str, body: str) -> None:
    """The job's shell is no process 1: a signal it does not catch ends it, and mom the rest within milliseconds."""
    ends = []
    for is_bare in (False, True):
        trial = _running(instance, body.format(name), HOST_IMAGE, bare=is_bare)
        trial.signal(getattr(signal, f"SIG{name}"))
        status = trial.wait()
        trial.finish(status)
        ends.append(status)

    assert ends[0] == ends[1]


def test_walltime(instance: Instance) -> None:
    """A job past its walltime is ended, and mom's own message is in its stderr."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 60\n", resources="nodes=1:ppn=1,walltime=00:00:02")

    assert done.exit_status == 271
    assert b"=>> PBS: job killed: walltime 2 exceeded limit 2" in done.stderr


def test_out_of_memory_is_told(instance: Instance) -> None:
    """An OOM kill is one sentence with limit and peak on the job's stderr."""
    # mem= also sets RLIMIT_DATA; /dev/shm is charged to the cgroup alone.
    script = f"#!/bin/sh\n#DOCKER {IMAGE}\ndd if=/dev/zero of=/dev/shm/x bs=1M count=30\ntail /dev/zero\necho rc $?\n"
    done = instance.run(script, resources="nodes=1:ppn=1,mem=32mb,walltime=00:01:00")

    sentence = b"out of memory: a process was killed at the job's limit of 32 MiB; peak use 32 MiB; ask for more with"
    assert sentence in done.stderr
    events = instance.trail(done.job_id)
    assert [one["oom"] for one in events if one["event"] == "job.finished"] == [True]
    assert any(one["event"] == "container.oom" and one["limit_bytes"] == 32 << 20 for one in events)
