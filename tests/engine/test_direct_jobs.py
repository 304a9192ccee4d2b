"""Jobs whose command is run by the container's first process with mom's own descriptors: what only that gets right."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pbsdock.trial import Outcome, Trial
from tests.conftest import HOST_IMAGE, IMAGE, USERS, Instance, wait_until

pytestmark = pytest.mark.engine


def _both(instance: Instance, body: str, image: str = HOST_IMAGE, **options: object) -> tuple[Outcome, Outcome]:
    """The same job contained and bare."""
    script = f"#!/bin/sh\n#DOCKER {image}\n{body}\n"
    return instance.run(script, **options), instance.run(script, bare=True, **options)


def _running(instance: Instance, body: str, **options: object) -> Trial:
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}\n", **options)
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    return trial


def test_joined_output_keeps_its_order(instance: Instance) -> None:
    """qsub -j oe: 2,000 lines that alternate between the two."""
    body = "i=0; while [ $i -lt 1000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done"
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}\n", join=True)

    assert done.stdout.split() == [b"%c%d" % (letter, number) for number in range(1000) for letter in b"oe"]


def test_environment_is_exact(instance: Instance) -> None:
    """Exported functions, names that are no identifiers, and bytes that are no text."""
    variables = {"a-b.c": "1 2", "BASH_FUNC_hi%%": "() {  echo hi from a function\n}", "RAW": "\udcff\udcfe"}
    body = "hi; export LC_ALL=C; grep -a -o -z -e '^a-b.c=.*' -e '^RAW=.*' /proc/$$/environ | sort -z"
    script = f"#!/bin/bash\n#DOCKER {HOST_IMAGE}\n{body}\n"
    contained, bare = (
        instance.run(script, shell="/bin/bash", variables=variables, bare=is_bare) for is_bare in (False, True)
    )

    assert contained.stdout == bare.stdout == b"hi from a function\nRAW=\xff\xfe\0a-b.c=1 2\0"


def test_all_limits_and_the_umask(instance: Instance) -> None:
    """As the kernel holds them, soft and hard."""
    resources = "nodes=1:ppn=1,walltime=01:00:00,pvmem=900mb,mem=300mb,file=77mb,pcput=00:05:00"
    contained, bare = _both(instance, "cat /proc/self/limits; umask", resources=resources, umask=0o027)

    assert contained.stdout == bare.stdout
    assert contained.stdout.endswith(b"0027\n")
    assert b"80740352" in contained.stdout


def test_a_file_size_limit_ends_the_writer(instance: Instance) -> None:
    """-l file=: the writer gets SIGXFSZ, as in a bare job, and the job's status says so."""
    resources = "nodes=1:ppn=1,walltime=01:00:00,file=1mb"
    contained, bare = _both(instance, "head -c 3000000 /dev/zero; echo $? >&2; exit 7", resources=resources)

    assert (contained.exit_status, len(contained.stdout)) == (bare.exit_status, len(bare.stdout)) == (7, 1 << 20)
    assert contained.stderr.split()[-1] == bare.stderr.split()[-1]


@contextmanager
def _small_spool(instance: Instance) -> Iterator[None]:
    spool = instance.mom_priv.parent / "spool"
    spool.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "tmpfs", str(spool)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(spool)], check=True)


def test_a_full_spool_is_the_writers_error(instance: Instance) -> None:
    """No space left on device: the writer is told, not a success made of it."""
    with _small_spool(instance):
        contained, bare = _both(instance, "head -c 3000000 /dev/zero || exit 9")

    assert contained.exit_status == bare.exit_status == 9
    assert abs(len(contained.stdout) - len(bare.stdout)) <= 4096


def test_ten_thousand_orphans_are_reaped(instance: Instance) -> None:
    """Process 1 waits for what nobody else does: the limit of processes is not filled with zombies."""
    body = (
        "i=0; while [ $i -lt 10000 ]; do (true &); i=$((i+1)); done; sleep 0.2; ls -d /proc/[0-9]* | wc -l; "
        "cat /proc/[0-9]*/stat | grep -c ') Z'"
    )
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}\n")

    processes, zombies = map(int, done.stdout.split())
    assert processes < 20
    assert zombies == 0


def test_the_end_takes_all_else_along(instance: Instance) -> None:
    """Daemons of another session too, without waiting for them; the exit status is the job's."""
    began = time.monotonic()
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nsetsid sh -c 'trap \"\" TERM; sleep 600' &\nsleep 0.1; exit 4\n")

    assert done.exit_status == 4
    assert time.monotonic() - began < 20
    assert instance.left() == []


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGUSR1])
def test_the_leader_ends_by_a_signal(instance: Instance, number: signal.Signals) -> None:
    """What kills the job's own shell, as in a bare job: 256 and the signal."""
    contained, bare = _both(instance, f"kill -{number.value} $PPID; sleep 5", IMAGE)

    assert contained.exit_status == bare.exit_status == 256 + number


def test_the_users_kill_of_the_first_process_hurts_only_their_job(instance: Instance) -> None:
    """From inside no signal reaches it; from outside its owner can end it, and the job with it, which is told."""
    other = _running(instance, "echo ready; sleep 2; exit 3", user=USERS[1])
    trial = _running(instance, "kill -9 1; kill -STOP 1; echo ready; sleep 60")
    pid = next(one["pid"] for one in instance.events(trial.job_id) if one["event"] == "job.started")
    subprocess.run(["setpriv", f"--reuid={USERS[0]}", "--clear-groups", "kill", "-9", str(pid)], check=True)
    done = trial.finish(trial.wait())

    assert done.exit_status == 137
    assert other.finish(other.wait()).exit_status == 3
    assert instance.left() == []


def test_a_run_hook_killed_leaves_nothing(instance: Instance) -> None:
    """kill -9 of the job's run hook, then the epilogue."""
    trial = _running(instance, "echo ready; sleep 600")
    assert trial.leader is not None
    os.kill(trial.leader.pid, signal.SIGKILL)
    done = trial.finish(trial.wait())

    assert done.exit_status == 256 + signal.SIGKILL
    assert instance.left() == []


def test_a_task_whose_run_hook_is_killed_is_killed(instance: Instance) -> None:
    """As a bare task's process would be."""
    trial = _running(instance, "echo ready; until [ -e stop ]; do sleep 0.1; done; ps | grep -c 'sleep 77[7]'")
    read, write = os.pipe()
    task = trial.task(["/bin/sh", "-c", "echo begun; sleep 777"], write)
    os.close(write)
    assert os.read(read, 6) == b"begun\n"
    os.kill(task.pid, signal.SIGKILL)
    wait_until(
        "the task is over", lambda: any(one["event"] == "task.ended" for one in instance.events(trial.job_id)), 20
    )
    (Path(trial.entry.pw_dir) / "stop").touch()
    done = trial.finish(trial.wait())
    (Path(trial.entry.pw_dir) / "stop").unlink()

    assert b"0" in done.stdout.split()
    os.close(read)


def test_two_hundred_tasks(instance: Instance) -> None:
    """At once, each with its own exit code and output."""
    trial = _running(instance, "echo ready; sleep 120")
    read, write = os.pipe()
    tasks = [trial.task(["/bin/sh", "-c", f"echo {number}; exit {number}"], write) for number in range(200)]
    os.close(write)
    with open(read, "rb") as file:
        said = file.read()
    codes = [task.wait(60) for task in tasks]
    trial.qdel()
    trial.finish(trial.wait())

    assert sorted(int(word) for word in said.split()) == list(range(200))
    assert codes == list(range(200))


def test_a_task_that_cannot_be_run(instance: Instance) -> None:
    """The code of a bare one, and a sentence."""
    trial = _running(instance, "echo ready; sleep 60")
    read, write = os.pipe()
    task = trial.task(["/nowhere/to/be", "found"], write)
    os.close(write)
    code = task.wait(20)
    said = os.read(read, 4096).decode()
    os.close(read)
    trial.qdel()
    trial.finish(trial.wait())

    assert code == 127
    assert said == (
        f"pbsdock: image 'docker.io/{IMAGE}' has no /nowhere/to/be that can be run, or what it needs to run is missing\n"
    )


def test_a_stopped_job_stands_still_as_a_whole(instance: Instance) -> None:
    """Mom's suspend stops the run hook by SIGSTOP; what left the job's session stands still too, until SIGCONT."""
    trial = _running(instance, "setsid sh -c 'while :; do date +%s%N >beat; sleep 0.05; done' &\necho ready; sleep 60")
    beat = Path(trial.entry.pw_dir) / "beat"
    assert trial.leader is not None
    os.kill(trial.leader.pid, signal.SIGSTOP)
    time.sleep(1.5)
    before = beat.read_text()
    time.sleep(0.5)
    stopped = beat.read_text()
    os.kill(trial.leader.pid, signal.SIGCONT)
    try:
        wait_until("it goes on", lambda: beat.read_text() not in ("", stopped), 10)
    finally:
        trial.qdel()
        trial.finish(trial.wait())
        beat.unlink()

    assert before == stopped


def test_a_job_that_never_comes_leaves_nothing(instance: Instance) -> None:
    """Its container stands ready, or is under way, when the epilogue comes, or the prologue of the next."""
    for pause in (0.0, 0.05, 0.5):
        trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n"))
        trial.prepare_files()
        assert trial.prologue() == 0
        time.sleep(pause)
        trial.epilogue(0)
        trial.spool.remove()
        assert instance.left() == []


def test_hard_limits_cannot_be_raised(instance: Instance) -> None:
    """Nor by a request of the user's own to the first process: its limits are the job's."""
    trial = _running(instance, "echo ready; sleep 60", resources="nodes=1:ppn=1,walltime=01:00:00,file=5mb")
    pid = next(one["pid"] for one in instance.events(trial.job_id) if one["event"] == "job.started")
    found = Path(f"/proc/{pid}/limits").read_text()
    trial.qdel()
    trial.finish(trial.wait())

    size = next(line.split()[3:5] for line in found.splitlines() if line.startswith("Max file size"))
    assert size == [str(5 << 20)] * 2
    files = next(line.split()[4] for line in found.splitlines() if line.startswith("Max open files"))
    assert int(files) <= resource.getrlimit(resource.RLIMIT_NOFILE)[1]
