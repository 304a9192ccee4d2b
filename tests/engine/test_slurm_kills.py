"""What of pbsdock's is killed in mid-job, each once, and what stands still: the job's end is told, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.conftest import IMAGE, USERS, wait_until
from tests.support.agents import agents, parent, running
from tests.support.slurm import SlurmSite, needs_slurm

pytestmark = needs_slurm
SHORT = f"#!/bin/sh\n#DOCKER {IMAGE}\necho begun\nsleep 3\necho end\nexit 6\n"
LONG = f"#!/bin/sh\n#DOCKER {IMAGE}\necho begun\nsleep 300\necho never\n"


def first_process(site: SlurmSite, job: str) -> int:
    """Of a job's container."""
    return int(site.instance.inspect(job)["State"]["Pid"])


def begin(site: SlurmSite, script: str) -> str:
    """A job that runs."""
    job = site.cluster.submit(script)
    site.cluster.await_running(job, says="begun")
    return job


def test_the_worker(slurm: SlurmSite) -> None:
    """Its supervisor makes another."""
    slurm.instance.kill_agent()
    job = begin(slurm, SHORT)
    supervisor, worker = agents(slurm.instance.root)
    assert parent(worker) == supervisor
    os.kill(worker, signal.SIGKILL)
    done = slurm.cluster.wait(job)
    assert (done.exit, done.output) == ("6:0", "begun\nend\n")
    assert agents(slurm.instance.root)[0] == supervisor


def test_the_supervisor(slurm: SlurmSite) -> None:
    """The worker alone goes on, or another pair does: the job ends as it would have."""
    job = begin(slurm, SHORT)
    supervisor, _worker = agents(slurm.instance.root)
    os.kill(supervisor, signal.SIGKILL)
    done = slurm.cluster.wait(job)
    assert (done.exit, done.output) == ("6:0", "begun\nend\n")
    wait_until("nothing is left", lambda: not slurm.left())
    slurm.instance.kill_agent()  # a worker without a supervisor


def test_the_first_process(slurm: SlurmSite) -> None:
    """All of the container ends with it, and so does the job, killed."""
    job = begin(slurm, LONG)
    first = first_process(slurm, job)
    os.kill(first, signal.SIGKILL)
    done = slurm.cluster.wait(job)
    assert done.state == "FAILED"
    assert done.exit in ("137:0", "0:9"), done
    assert "never" not in done.output
    assert not Path(f"/proc/{first}").exists()


def test_the_run_hook_and_the_agent(slurm: SlurmSite) -> None:
    """Both at once: Slurm ends what is left, the next agent releases it."""
    job = begin(slurm, LONG)
    (hook,) = running("pbsdock-run", f"job{int(job):05d}/slurm_script")
    slurm.instance.kill_agent()
    os.kill(hook, signal.SIGKILL)
    done = slurm.cluster.wait(job)
    assert (done.state, done.exit) == ("FAILED", "0:9")


def test_suspended(slurm: SlurmSite) -> None:
    """The container stands still with its job, and goes on with it."""
    script = f"#!/bin/sh\n#DOCKER {IMAGE}\necho begun\nfor i in $(seq 60); do sleep 0.05; echo $i; done\nexit 4\n"
    job = begin(slurm, script)
    slurm.cluster.call("scontrol", "suspend", job)
    wait_until("it is suspended", lambda: slurm.cluster.state(job) == "SUSPENDED")
    output, sizes = slurm.cluster.output(job), list[int]()

    def stands_still() -> bool:
        """For half a second: slurmstepd gives a job two seconds from SIGTSTP on."""
        sizes.append(output.stat().st_size)
        time.sleep(0.05)
        return len(sizes) > 10 and len(set(sizes[-10:])) == 1

    wait_until("it stands still", stands_still)
    assert "60" not in output.read_text()
    slurm.cluster.call("scontrol", "resume", job)
    done = slurm.cluster.wait(job)
    assert (done.exit, done.output.splitlines()[-1]) == ("4:0", "60")


def test_cancelled_while_it_is_made(slurm: SlurmSite) -> None:
    """At any moment from its submission on: no container of it stays, and the node takes the next."""
    for delay in (0.0, 0.1, 0.2, 0.3, 0.45):
        job = slurm.cluster.submit(LONG, user=USERS[1])
        time.sleep(delay)
        slurm.cluster.call("scancel", job)
        assert slurm.cluster.wait(job, USERS[1]).state == "CANCELLED"
    assert slurm.cluster.run(SHORT.replace("sleep 3\n", "")).exit == "6:0"
