"""T19 under Slurm: what a job has started with its docker goes with it, and nobody outside of the job starts anything."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest

from pbsdock.rm.slurm import cgroup
from tests.conftest import IMAGE, USERS, wait_until
from tests.support.attack import ATTACKER, as_user, is_healthy
from tests.support.shim import client
from tests.support.slurm import NODE, SYSFS, SlurmSite, needs_slurm

pytestmark = [pytest.mark.engine, needs_slurm]
VICTIM = f"#!/bin/sh\ndocker run -d --name db {IMAGE} sh -c 'echo secret; sleep 600' >/dev/null\necho ready\ndocker wait db\n"
ASK = """
    link = Link(sys.argv[1], 30.0)
    link.send(wire.Message("docker", argv=[word.encode() for word in sys.argv[2:]], cwd=b"/", umask=18, env=[
        b"SLURM_JOB_ID=" + sys.argv[2].encode(), b"SLURM_JOBID=" + sys.argv[2].encode()]))
    while (answer := link.recv()[0]).op == "waiting":
        pass
    print(answer.op, answer.text("code"))
"""


def running(seconds: int) -> list[Path]:
    """The processes ``sleep SECONDS`` of this host."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == b"sleep\0%d\0" % seconds:
                found.append(path)
        except OSError:
            pass
    return found


@pytest.mark.threat(2)
@pytest.mark.parametrize("user", USERS)
def test_from_no_step(slurm: SlurmSite, user: str) -> None:
    """Neither another user nor the job's owner is in a job from outside of it, whatever their variables say."""
    job = slurm.cluster.submit(VICTIM)
    slurm.cluster.await_running(job, says="ready")
    for words in (("ps", "-aq"), ("exec", "db", "true"), ("run", "-d", IMAGE, "sleep", "600")):
        assert as_user(slurm.instance, ASK, *words, user=user) == ["refused no-job"]
    slurm.cluster.call("scancel", job)
    slurm.cluster.wait(job)


@pytest.mark.threat(2)
@pytest.mark.parametrize("head", ["", f"#DOCKER {IMAGE}\n"], ids=["bare", "contained"])
def test_another_users_job(slurm: SlurmSite, head: str) -> None:
    """It sees its own containers alone, even with the number of another in its environment."""
    job = slurm.cluster.submit(VICTIM)
    slurm.cluster.await_running(job, says="ready")
    lines = f"export SLURM_JOB_ID={job} SLURM_JOBID={job}\ndocker ps -aq\ndocker exec db true; docker kill db; docker logs db"
    done = slurm.cluster.run(f"#!/bin/sh\n{head}{lines}\n", user=ATTACKER)
    assert done.output.count("No such container: db") == 3
    assert len(done.output.splitlines()) == 3, done
    assert slurm.cluster.state(job) == "RUNNING"
    slurm.cluster.call("scancel", job)
    slurm.cluster.wait(job)


@pytest.mark.threat(17)
def test_a_cgroup_of_ones_own(slurm: SlurmSite) -> None:
    """Version 1 lets users make cgroups below their step: what is asked for from there is in the step itself, where Slurm
    looks for what it has to kill; and no cgroup of another's can be gone to."""
    other = slurm.cluster.submit(VICTIM)
    slurm.cluster.await_running(other, says="ready")
    lines = (
        f"for top in {SYSFS}/*/slurm_{NODE}; do echo $$ >$top/uid_$(id -u)/job_$SLURM_JOB_ID/step_batch/cgroup.procs;"
        f" for step in $top/uid_*/job_{other}/step_batch; do echo $$ >$step/cgroup.procs; done; done 2>/dev/null\n"
        f"own={SYSFS}/freezer/slurm_{NODE}/uid_$(id -u)/job_$SLURM_JOB_ID/step_batch/own\n"
        "mkdir $own 2>/dev/null && echo $$ >$own/cgroup.procs\n"
        f"docker run -d {IMAGE} sleep 617 >/dev/null\necho begun\nsleep 600"
    )
    job = slurm.cluster.submit(f"#!/bin/sh\n{lines}\n", user=ATTACKER)
    slurm.cluster.await_running(job, ATTACKER, says="begun")
    (process,) = running(617)
    uid = pwd.getpwnam(ATTACKER).pw_uid
    assert f"freezer:/slurm_{NODE}/uid_{uid}/job_{job}/step_batch\n" in (process.parent / "cgroup").read_text()
    slurm.cluster.call("scancel", job, other)
    wait_until("it is killed", lambda: not running(617))
    for path in SYSFS.glob(f"freezer/slurm_{NODE}/uid_{uid}/job_{job}/step_batch/own/cgroup.procs"):
        for pid in path.read_text().split():
            os.kill(int(pid), 9)  # Slurm itself misses these, of bare jobs without us too
    slurm.cluster.wait(other)
    slurm.cluster.wait(job, ATTACKER)


def test_detached_ones_end_with_the_job(slurm: SlurmSite) -> None:
    """Daemons, ignored signals, the end of the script and scancel."""
    stubborn = 'trap "" TERM HUP INT; (setsid setsid sh -c "trap : TERM; sleep 611" &) ; sleep 611'
    lines = (
        f"for i in 1 2; do docker run -d {IMAGE} sh -c '{stubborn}' >/dev/null; done\n"
        f"(setsid docker run {IMAGE} sleep 611 &) >/dev/null 2>&1 </dev/null\nsleep 1\ndocker ps -q | wc -l\n"
    )
    assert int(slurm.cluster.run(f"#!/bin/sh\n{lines}").output) >= 2
    assert not running(611)
    job = slurm.cluster.submit(f"#!/bin/sh\n#DOCKER {IMAGE}\n{lines}sleep 600\n")
    slurm.cluster.await_running(job, says="3")
    slurm.cluster.call("scancel", job)
    assert slurm.cluster.wait(job).state == "CANCELLED"
    assert not running(611)


def test_started_while_the_job_ends(slurm: SlurmSite) -> None:
    """docker run in loops while the job is cancelled: no container, no process and no cgroup of Slurm's is left."""
    for delay in (0.3, 0.7, 1.1):
        lines = f"echo ready; for i in 1 2 3; do (while :; do docker run -d {IMAGE} sleep 612; done) >/dev/null 2>&1 & done; wait"
        job = slurm.cluster.submit(f"#!/bin/sh\n{lines}\n")
        slurm.cluster.await_running(job, says="ready")
        time.sleep(delay)
        slurm.cluster.call("scancel", "--signal=KILL", "--full", job)
        slurm.cluster.call("scancel", job, check=False)
        slurm.cluster.wait(job)
        wait_until("nothing is left", lambda: not slurm.left(), 20)
        assert not running(612)
    assert is_healthy(slurm.instance)


def test_an_answer_after_the_step(slurm: SlurmSite, scratch: Path) -> None:
    """A client that has escaped Slurm's kill by a cgroup of its own says what to run when the job is over: nothing is."""
    said = scratch / "stale-slurm.txt"
    said.touch()
    said.chmod(0o666)
    code = f"""
        link = ask("run", "--env-file", "x", "{IMAGE}", "sleep", "613")
        until(link, "read")
        if os.fork() == 0:
            os.setsid()
            for line in open("/proc/self/cgroup"):
                name, path = line.strip().split(":")[1:]
                if name == "freezer":
                    own = "/sys/fs/cgroup/freezer" + path + "/own"
                    os.mkdir(own)
                    open(own + "/cgroup.procs", "w").write(str(os.getpid()))
            open(sys.argv[2], "w").write("away" + chr(10))
            time.sleep(3)
            try:
                link.send(wire.Message("content", data=b"A=1"))
                message, fds = until(link, "started")
                told = message.op + " " + message.text("code")
            except BaseException as error:
                told = repr(error)
            open(sys.argv[2], "w").write(told + chr(10))
            os._exit(0)
        while "away" not in open(sys.argv[2]).read():
            time.sleep(0.01)
        os._exit(0)
    """
    job = slurm.cluster.submit(f"#!/bin/sh\n{client(slurm.instance, code, str(said))}\n")
    wait_until("it is told", lambda: said.read_text().endswith("\n") and "away" not in said.read_text(), 40)

    def is_clear() -> bool:
        """Slurm leaves the cgroup of such a process there, without us too."""
        cgroup.clear(job)
        return not slurm.cluster.cgroups(job)

    wait_until("it is over", is_clear)
    slurm.cluster.wait(job)
    assert said.read_text().split()[0] == "refused"
    assert not running(613)
