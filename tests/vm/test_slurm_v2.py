"""Jobs of a real Slurm on systemd and cgroup v2: what it says of contained scripts and steps is what it says of bare ones.

Slurm 22.05 with Docker 20.10, and 24.11 with Docker 26.1. Each test leaves the machine empty and the node in service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.vm.base import SUITES, BuildError
from tests.vm.conftest import ASKED
from tests.vm.lab import IMAGE
from tests.vm.slurm_lab import SCOPE, Done, SlurmLab

pytestmark = [pytest.mark.engine, pytest.mark.full, pytest.mark.timeout(2400)]
WHERE = "test -e /etc/debian_version && echo host || echo image"
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
    machine.until("the node is idle", "sinfo -h -o %T | grep -x idle")  # "planned" until the scheduler looks again


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


def test_containers_of_the_jobs_own_are_in_its_step(lab: SlurmLab) -> None:
    """Those that it starts by docker, from a container as from a bare script; nothing is left of them."""
    body = f"docker run --rm --network none {IMAGE} sh -c 'echo begun; cat /proc/self/cgroup; exit 7'; echo code $?"
    for image in (IMAGE, ""):
        job = lab.submit(body, "--mem=100", image=image)
        said = lab.wait(job).output
        assert f"/job_{job}/step_batch/user/task_0\n" in said
        assert "code 7" in said


def test_no_device_of_an_image_opens(lab: SlurmLab) -> None:
    """Though Docker's list of devices is left behind with the container's own cgroup: its file systems are nodev."""
    lab.check(
        "major=$((0x$(stat -c %t /dev/vda))) minor=$((0x$(stat -c %T /dev/vda)))"
        f' && docker run --name disk --network none {IMAGE} sh -c "mknod /disk b $major $minor && chmod 666 /disk"'
        " && docker commit disk pbsdock-vm/disk:1 && docker rm disk"
    )
    job = lab.submit("ls -l /disk; head -c 1 /disk | wc -c; mknod /tmp/d c 1 3; ls /dev", image="pbsdock-vm/disk:1")
    lab.wait(job)
    said = lab.check(f"cat /home/pbsdock-a/out-{job}")
    assert said.startswith("brw-rw-rw-")
    assert "/disk: Permission denied\n0\n" in said
    assert "mknod: /tmp/d: Operation not permitted" in said
    assert not {"vda", "kmsg", "mem", "fuse"} & set(said.split())


def processes(lab: SlurmLab, cgroup: str) -> list[str]:
    """The numbers of those in a cgroup itself."""
    return lab.check(f"cat {cgroup}/cgroup.procs").split()


def test_steps_of_a_contained_script(lab: SlurmLab) -> None:
    """Each task in its own cgroup of its step, in the script's container; exit codes, scancel of a step, its memory and
    what it leaves are a bare one's."""
    body = (
        "srun -n2 sh -c 'echo begun; until [ -e $HOME/go ]; do sleep 0.5; done; exit 3'; echo code $?\n"
        "srun -n1 sh -c 'sleep 317 & echo second; sleep 300'; echo cancelled $?\n"
        "srun -n1 --mem=40 sh -c 'head -c 150000000 /dev/zero | tail | wc -c'; echo full $?\n"
        "srun -n1 sh -c 'sleep 318 & exit 4'; echo left $?"
    )
    jobs = bare, job = lab.both(body, "-n2", "--mem=200")
    for number in jobs:
        lab.until("both tasks run", f"test $(grep -c begun /home/pbsdock-a/out-{number}) = 2")
    tasks = [f"{SCOPE}/job_{job}/step_0/user/task_{task}" for task in (0, 1)]
    inside = lab.check(f"readlink /proc/{lab.first_process(job)}/ns/mnt").strip()
    for task in tasks:
        names = [lab.run(f"readlink /proc/{pid}/ns/mnt").out.strip() for pid in processes(lab, task)]
        assert inside in names
        assert lab.check(f"cat {task}/pids.max").strip() == "4096"
    assert not set(processes(lab, tasks[0])) & set(processes(lab, tasks[1]))
    count = f"sstat -nP -j {bare}.0,{job}.0 -o NTasks,MaxRSS"
    lab.until("Slurm has counted", f"test $({count} | grep -cE '^2\\|[1-9]') = 2")
    lab.check("touch /home/pbsdock-a/go")
    lab.until_says("second", *jobs)
    lab.check("rm /home/pbsdock-a/go")
    lab.check(f"scancel {bare}.1 {job}.1")
    ends = [lab.wait(number) for number in jobs]
    assert lab.run("pgrep -x sleep -a | grep -E ' 31[78]$'").out == ""
    lines = re.compile(r"(?m)^(?:begun|second|[a-z]+ [0-9]+|slurmstepd.*)$")
    said = [sorted(lines.findall(re.sub(r"\b[0-9N]+\.[0-9N]+\b", "STEP", done.output))) for done in ends]
    assert said[0] == said[1]
    assert {"code 3", "left 4"} <= set(said[1])
    assert {"cancelled", "full"} <= {line.split()[0] for line in said[1]}
    assert any("oom-kill" in line for line in said[1])
    assert [(done.state, done.exit) for done in ends] == [("COMPLETED", "0:0")] * 2


def test_steps_of_an_allocation_without_a_script(lab: SlurmLab) -> None:
    """By srun, with a terminal, and by salloc, whose container waits between steps outside of them."""
    for image, where in (("", "host"), (IMAGE, "image")):
        done = lab.launch(f"srun -Q -n2 sh -c '{WHERE}; exit 7'", image=image)
        assert (done.status, done.out.splitlines().count(where)) == (7, 2), done
    inner = f"test -t 0 && test -t 1 && echo terminal; {WHERE}; exit 6"
    done = lab.launch(f"script -qec \"srun -Q --pty sh -c '{inner}'\" /dev/null")
    assert done.status == 6, done
    assert {"terminal", "image"} <= {line.strip("^@\r ") for line in done.out.splitlines()}
    steps = (
        "srun sh -c 'cat /proc/self/cgroup; echo x >/tmp/made'; until [ -e go ]; do sleep 0.5; done; srun cat /tmp/made;"
        f" {WHERE}; exit 5"
    )
    lab.check(f"cat >/home/pbsdock-a/steps.sh <<'END'\n{steps}\nEND")
    lab.check(
        "cat >/home/pbsdock-a/alloc.sh <<'END'\ncd; exec >out-alloc 2>&1; salloc -Q sh steps.sh; echo code $?\nEND\n"
        f"systemd-run --quiet --collect --uid=pbsdock-a -E HOME=/home/pbsdock-a -E PBSDOCK={IMAGE} sh /home/pbsdock-a/alloc.sh"
    )
    lab.until("the first step is over", "test $(grep -c task_0 /home/pbsdock-a/out-alloc) = 1")
    job = lab.check("squeue -h -t R -o %i").strip()
    lab.until("it has no step", f"! ls {SCOPE}/job_{job}/step_0")
    assert "slurmstepd" not in lab.check(f"cat /proc/{lab.first_process(job)}/cgroup")
    lab.check("touch /home/pbsdock-a/go")
    lab.until("it is over", "grep -q code /home/pbsdock-a/out-alloc")
    lab.check("rm /home/pbsdock-a/go")
    said = lab.check("cat /home/pbsdock-a/out-alloc").splitlines()
    assert said[0].endswith(f"/job_{job}/step_0/user/task_0")
    assert said[1:] == ["x", "host", "code 5"]


def test_with_the_engines_other_driver(lab: SlurmLab) -> None:
    """cgroupfs: no scope is dropped, and what Docker has made goes with the container. Last, since the driver stays."""
    lab.check('echo \'{"exec-opts": ["native.cgroupdriver=cgroupfs"]}\' >/etc/docker/daemon.json')
    lab.check("systemctl reset-failed docker.service docker.socket; systemctl restart docker pbsdock-agent")
    assert "cgroupfs" in lab.check("docker info --format '{{.CgroupDriver}}'")
    job = lab.submit(
        "echo begun; until [ -e $HOME/go ]; do sleep 0.5; done; rm $HOME/go; head -c 150000000 /dev/zero | tail | wc -c",
        "--mem=60",
    )
    lab.until_says("begun", job)
    task = f"{SCOPE}/job_{job}/step_batch/user/task_0"
    assert (
        lab.check(f"cat /proc/{lab.first_process(job)}/cgroup").strip() == f"0::{task.removeprefix('/sys/fs/cgroup')}"
    )
    assert lab.check(f"cat {task}/pids.max").strip() == "4096"
    lab.check("touch /home/pbsdock-a/go")
    done = lab.wait(job)
    assert (done.state, done.exit) == ("OUT_OF_MEMORY", "0:125")
    assert "at the job's limit of 60 MiB" in done.output
