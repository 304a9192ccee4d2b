"""The docker command of jobs in a real Slurm: what a job starts by it is the job's, for Slurm too."""

from __future__ import annotations

import json
import pwd
import time
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, wait_until
from tests.support.slurm import NODE, SlurmSite, needs_slurm

pytestmark = needs_slurm
HEADS = pytest.mark.parametrize("head", ["", f"#DOCKER {IMAGE}\n"], ids=["bare", "contained"])


def script(head: str, lines: str) -> str:
    """A batch script, bare or contained."""
    return f"#!/bin/sh\n{head}{lines}\n"


def children(site: SlurmSite, job: str) -> list[int]:
    """The first processes of what a job has started, as written down."""
    found = [json.loads(path.read_bytes()) for path in (site.instance.state_dir / "children").glob(f"{job}.*/c*.json")]
    return [child["pid"] for child in found if child.get("pid")]


def cgroups_of(pid: int) -> dict[str, str]:
    """By controllers."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {name: path for _number, name, path in (line.split(":", 2) for line in lines)}


@HEADS
def test_a_container_of_the_jobs_own(slurm: SlurmSite, head: str) -> None:
    """Its output, its input, its exit code; detached ones, exec, logs."""
    lines = (
        f"docker run --rm {IMAGE} sh -c 'echo in; echo err >&2; exit 7'; echo $?\n"
        f"echo hello | docker run --rm -i {IMAGE} tr a-z A-Z\n"
        f"docker run -d --name db {IMAGE} sh -c 'echo ready; sleep 100' >/dev/null\n"
        "docker exec db echo inside\ndocker ps --format '{{.Names}}'\ndocker stop -t 0 db\ndocker wait db\ndocker logs db\n"
        f"docker run --rm {IMAGE} id -u\nexit 3"
    )
    done = slurm.cluster.run(script(head, lines))
    uid = pwd.getpwnam(USERS[0]).pw_uid
    assert done.output == f"in\nerr\n7\nHELLO\ninside\ndb\ndb\n143\nready\n{uid}\n", done
    assert done.exit == "3:0"


@HEADS
def test_it_is_in_the_step_of_who_asked(slurm: SlurmSite, head: str) -> None:
    """In every hierarchy of Slurm's but those that stay Docker's."""
    job = slurm.cluster.submit(script(head, f"docker run -d {IMAGE} sleep 300\necho begun\nsleep 300"))
    slurm.cluster.await_running(job, says="begun")
    (pid,) = children(slurm, job)
    found, step = cgroups_of(pid), f"/slurm_{NODE}/uid_{pwd.getpwnam(USERS[0]).pw_uid}/job_{job}/step_batch"
    assert found["freezer"] == step
    assert found["memory"] == f"{step}/task_0"
    assert "pbsdock" in found["pids"]
    assert "pbsdock" in found["devices"]
    slurm.cluster.call("scancel", job)
    slurm.cluster.wait(job)
    assert not Path(f"/proc/{pid}").exists()


@HEADS
def test_memory_is_the_jobs(slurm: SlurmSite, head: str) -> None:
    """What it needs is the step's: Slurm's limit ends it, and Slurm's verdict is told."""
    lines = f"docker run --rm {IMAGE} sh -c 'head -c 150000000 /dev/zero | tail | wc -c'\necho $?"
    done = slurm.cluster.run(script(head, lines), "--mem=60")
    assert (done.state, done.exit) == ("OUT_OF_MEMORY", "0:125")
    assert "Detected 1 oom-kill event" in done.output


@HEADS
def test_suspended_with_the_job(slurm: SlurmSite, head: str) -> None:
    """And resumed with it."""
    lines = f"docker run --rm {IMAGE} sh -c 'echo begun; while :; do cat /proc/uptime >>now; usleep 50000; done'"
    lines = f"cd $(mktemp -d -p $PWD)\necho $PWD\n{lines.replace('--rm', '--rm -v $PWD:$PWD -w $PWD')}"
    job = slurm.cluster.submit(script(head, lines))
    slurm.cluster.await_running(job, says="begun")
    now = Path(slurm.cluster.output(job).read_text().split()[0]) / "now"
    slurm.cluster.call("scontrol", "suspend", job)
    wait_until("it is suspended", lambda: slurm.cluster.state(job) == "SUSPENDED")
    sizes: list[int] = []

    def stands_still() -> bool:
        """For half a second: slurmstepd gives a job two seconds from SIGTSTP on."""
        sizes.append(now.stat().st_size)
        time.sleep(0.05)
        return len(sizes) > 10 and len(set(sizes[-10:])) == 1

    wait_until("it stands still", stands_still)
    slurm.cluster.call("scontrol", "resume", job)
    wait_until("it goes on", lambda: now.stat().st_size > sizes[-1])
    slurm.cluster.call("scancel", job)
    assert slurm.cluster.wait(job).state == "CANCELLED"


@HEADS
def test_a_lost_agent(slurm: SlurmSite, head: str) -> None:
    """What runs goes on, its end is told, and the next one does what comes then."""
    lines = f"docker run --rm {IMAGE} sh -c 'echo begun; sleep 2; exit 6'; echo $?\ndocker run --rm {IMAGE} echo again"
    job = slurm.cluster.submit(script(head, lines))
    slurm.cluster.await_running(job, says="begun")
    slurm.instance.kill_agent()
    slurm.cluster.run("#!/bin/sh\n")  # the next Prolog starts another, as the node's health check does
    done = slurm.cluster.wait(job)
    assert done.output == "begun\n6\nagain\n", done


def test_a_bare_job_pays_nothing_for_it(slurm: SlurmSite) -> None:
    """Its PATH alone tells of it: no record, no question, nothing that stays."""
    done = slurm.cluster.run("#!/bin/sh\necho $PATH\ntype docker\n")
    shim = slurm.instance.root / "opt/pbsdock/shim"
    assert done.output.splitlines() == [f"{shim}:{slurm.cluster.environment['PATH']}", f"docker is {shim}/docker"], done
    assert not slurm.instance.events(done.id)
