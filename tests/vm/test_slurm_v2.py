"""Batch jobs of a real Slurm on systemd and cgroup v2: what it says of a contained script is what it says of a bare one.

Slurm 22.05 with Docker 20.10, and 24.11 with Docker 26.1. Each test leaves the machine empty and the node in service.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.vm.base import SUITES, BuildError
from tests.vm.conftest import ASKED
from tests.vm.slurm_lab import SCOPE, Done, SlurmLab

pytestmark = [pytest.mark.engine, pytest.mark.full, pytest.mark.timeout(2400)]
TRAPS = "trap 'echo told' TERM; echo begun; while :; do sleep 0.5; done"


@pytest.fixture(scope="module", params=SUITES)
def machine(request: pytest.FixtureRequest) -> Iterator[SlurmLab]:
    """A machine of its own: an instance serves one manager."""
    name = f"{request.param}{SlurmLab.kind}"
    asked = request.config.stash.setdefault(ASKED, {})
    asked[name] = ""
    try:
        lab = SlurmLab(request.param)
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)
    yield lab
    asked[name] = lab.lost
    lab.close()


@pytest.fixture
def lab(machine: SlurmLab) -> Iterator[SlurmLab]:
    """With nothing in it before and after."""
    yield machine
    machine.check("squeue -h -o %i | xargs -r scancel; true")
    assert machine.left() == ""
    assert machine.check("sinfo -h -o %T").strip() == "idle"


def finished(lab: SlurmLab, job: str) -> dict[str, object]:
    """The last event of a job."""
    lab.until("its trail ends", f'grep -q \'"job.finished".*"job":"{job}"\' /var/log/pbsdock/events.jsonl')
    lines = lab.check(f'grep \'"job":"{job}"\' /var/log/pbsdock/events.jsonl').splitlines()
    return next(event for event in map(json.loads, lines) if event["event"] == "job.finished")


def test_a_container_is_in_its_steps_own_cgroup(lab: SlurmLab) -> None:
    """From its first process on, with pbsdock's limit of processes; exit code, accounting and events are the job's."""
    body = (
        "v=$(head -c 20000000 /dev/zero | tr '\\0' x); echo begun; until [ -e $HOME/go ]; do sleep 0.5; done; exit 42"
    )
    jobs = bare, job = lab.both(body, "--mem=200")
    lab.until_says("begun", *jobs)
    task = f"{SCOPE}/job_{job}/step_batch/user/task_0"
    first = lab.first_process(job)
    assert lab.check(f"cat /proc/{first}/cgroup").strip() == f"0::{task.removeprefix('/sys/fs/cgroup')}"
    assert lab.check(f"cat {task}/pids.max").strip() == "4096"
    limit = lab.check(f"cat {SCOPE}/job_{job}/memory.max {SCOPE}/job_{bare}/memory.max").split()
    assert limit == [str(200 << 20)] * 2
    said = lab.until("Slurm has counted", f"sleep 3; sstat -nP -j {bare}.batch,{job}.batch -o MaxRSS | grep -vx 0K")
    kibs = [int(text.rstrip("K")) for text in said.split()]
    assert len(kibs) == 2
    assert min(kibs) > 15 << 10
    assert "memory 200 MiB (sbatch --mem)" in lab.check(f"/opt/pbsdock/bin/pbsdock why {job} | tr -s ' \\n' ' '")

    lab.check("touch /home/pbsdock-a/go")
    ends = [lab.wait(number) for number in jobs]
    lab.check("rm /home/pbsdock-a/go")
    assert ends == [Done("FAILED", "42:0", "begun\n")] * 2
    event = finished(lab, job)
    assert event["code"] == 42
    assert 15 << 20 < int(str(event["memory_peak_bytes"])) < 200 << 20
    assert float(str(event["cpu_seconds"])) > 0.1


def test_scancel_and_the_end_of_time(lab: SlurmLab) -> None:
    """A script with a trap ends by it, another by the signal; one that takes no notice is killed when its time is up."""
    late = lab.both(TRAPS, "-t", "1")
    trap = lab.both("trap 'echo trapped; exit 77' TERM; echo begun; while :; do sleep 0.2; done")
    lab.until_says("begun", *trap)
    plain = lab.both("sleep 300 &\necho begun\nsleep 300")
    lab.until_says("begun", *plain)
    lab.check(f"scancel {' '.join((*trap, *plain))}")
    ends = {name: [lab.wait(job) for job in jobs] for name, jobs in (("trap", trap), ("plain", plain))}
    assert ends["trap"][0] == ends["trap"][1]
    assert (ends["trap"][1].state, ends["trap"][1].exit) == ("CANCELLED", "77:0")
    assert ends["plain"][0] == ends["plain"][1]
    assert (ends["plain"][1].state, ends["plain"][1].exit) == ("CANCELLED", "0:15")
    bare, contained = (lab.wait(job, 240.0) for job in late)
    assert bare == contained
    assert contained.state == "TIMEOUT"
    assert "told" in contained.output


def test_memory_is_slurms(lab: SlurmLab) -> None:
    """Its limit, its verdict, and the user is told how to ask for more."""
    jobs = lab.both("head -c 150000000 /dev/zero | tail | wc -c", "--mem=60")
    bare, contained = (lab.wait(job) for job in jobs)
    assert (contained.state, contained.exit) == (bare.state, bare.exit) == ("OUT_OF_MEMORY", "0:125")
    assert "at the job's limit of 60 MiB" in contained.output
    assert "ask for more with sbatch --mem=SIZE" in contained.output
    event = finished(lab, jobs[1])
    assert event["oom"] is True
    assert 50 << 20 < int(str(event["memory_peak_bytes"])) < 61 << 20


def test_suspended_killed_and_through_a_restart_of_slurmd(lab: SlurmLab) -> None:
    """A suspended job stands still; a run hook that is killed takes its container along; slurmd's restart is no matter."""
    through = lab.submit("echo begun; until [ -e $HOME/go ]; do sleep 0.5; done; rm $HOME/go; echo end; exit 6")
    job = lab.submit("echo begun; while :; do echo; sleep 0.2; done >$HOME/count")
    lab.until_says("begun", through, job)
    lab.check("systemctl restart slurmd")
    lab.check("touch /home/pbsdock-a/go")
    assert lab.wait(through) == Done("FAILED", "6:0", "begun\nend\n")

    count = "wc -l </home/pbsdock-a/count"
    lab.check(f"scontrol suspend {job}")
    lab.until("it is frozen", f"grep -q 'frozen 1' {SCOPE}/job_{job}/step_batch/user/cgroup.events")
    before = lab.check(f"{count}; sleep 2; {count}").split()
    assert before[0] == before[1]
    lab.check(f"scontrol resume {job}")
    lab.until("it goes on", f"test $({count}) -gt {before[1]}")

    first = lab.first_process(job)
    task = f"{SCOPE}/job_{job}/step_batch/user/task_0"
    # The run hook is the one that slurmstepd has started.
    lab.check(f"kill -9 $(head -n 1 {task}/cgroup.procs)")
    done = lab.wait(job)
    assert (done.state, done.exit) == ("FAILED", "0:9")
    assert lab.run(f"test -e /proc/{first}").status == 1


def test_processes_are_limited(lab: SlurmLab) -> None:
    """As a container's are elsewhere, though Slurm limits none: the node does not run out of them."""
    config = "/etc/pbsdock/pbsdock.toml"
    lab.check(f"sed -i 's/^#pids = .*/pids = 40/' {config} && grep '^pids = 40' {config}")
    lab.check("systemctl restart pbsdock-agent")
    job = lab.submit(
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 30 & sleep 30 & sleep 30 & sleep 30 & sleep 30 & done; exit 3"
    )
    lab.wait(job)
    assert "forks beyond that are refused" in lab.check(f"cat /home/pbsdock-a/out-{job}")
    assert finished(lab, job)["pids_peak"] == 40
    lab.check(f"sed -i 's/^pids = 40/#pids = 4096/' {config} && systemctl restart pbsdock-agent")
