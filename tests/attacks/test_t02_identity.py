"""T2: who somebody is comes from the kernel and from mom's arguments, whatever variables and messages say."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import ATTACKER, as_user, begin_as, works

pytestmark = pytest.mark.engine
_FORGED = {
    "PBS_O_LOGNAME": ATTACKER,
    "PBS_O_HOME": f"/home/{ATTACKER}",
    "LOGNAME": ATTACKER,
    "USER": "root",
    "UID": "0",
    "SUDO_UID": "0",
    "PBS_JOBOWNER": "root",
    "HOME": "/root",
    "EUID": "0",
}


@pytest.fixture
def victim(instance: Instance) -> Iterator[Trial]:
    """A job of the first user that runs until it is told to end."""
    trial = instance.begin(
        f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nwhile [ ! -e go ]; do sleep 0.1; done\nrm go; exit 7\n"
    )
    try:
        wait_until("the victim runs", lambda: b"ready" in trial.out_path.read_bytes())
        yield trial
    finally:
        (Path(trial.entry.pw_dir) / "go").unlink(missing_ok=True)


def _ends(trial: Trial) -> int:
    subprocess.run(["touch", f"{trial.entry.pw_dir}/go"], user=trial.entry.pw_name, check=True)
    return trial.finish(trial.wait()).exit_status


def test_variables_that_name_another(instance: Instance) -> None:
    """qsub -v chooses neither the uid nor the home that is mounted."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nid -u; ls -d /home/*\n", variables=_FORGED)

    mine = subprocess.run(["id", "-u", USERS[0]], capture_output=True, text=True, check=True).stdout
    assert done.stdout.decode() == f"{mine}/home/{USERS[0]}\n", done.stderr


def test_the_run_hook_with_anothers_job_id(instance: Instance, victim: Trial) -> None:
    """PBS_JOBID is a word: with another's, the run hook is refused and the other's job runs on."""
    hook = str(instance.root / "opt/pbsdock/hooks/run")
    done = subprocess.run(
        [hook, "/bin/sh", "-c", "echo started"],
        user=ATTACKER,
        group=ATTACKER,
        extra_groups=[],
        cwd="/",
        env={"PBS_JOBID": victim.job_id, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == f"pbsdock: job {victim.job_id} belongs to another user\n"
    assert _ends(victim) == 7


def test_every_request_about_anothers_job(instance: Instance, victim: Trial) -> None:
    """Refused one by one, told to the admin, without a descriptor."""
    said = as_user(
        instance,
        """
        link = Link(sys.argv[1], 5.0)
        for op in ("start", "signal", "rejoin", "resize", "eof", "adopted"):
            link.send(wire.Message(op, job=sys.argv[2], argv=[b"/bin/sh"], rows=9, columns=9, signal=15, uid=0, user="root"))
            answer, fds = link.recv()
            print(op, answer.op, answer.text("code"), len(fds))
    """,
        victim.job_id,
    )

    assert said[0] == "start refused not-your-job 0"
    assert {line.split(" ", 1)[1] for line in said} == {"refused not-your-job 0"}
    told = [one for one in instance.events(victim.job_id) if one["event"] == "client.refused"]
    assert len(told) == len(said)
    assert _ends(victim) == 7


def test_the_end_of_anothers_job_is_not_stolen(instance: Instance, victim: Trial) -> None:
    """The name of another's incarnation, which /proc and the cgroup tree show to all, is no handle on it."""
    mine = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 60\n", user=ATTACKER)
    wait_until("the attacker's own job runs", lambda: b"ready" in mine.out_path.read_bytes())
    # What anybody on the node can read: the last dot of the cgroup's name is before the incarnation.
    shown = subprocess.run(
        ["sh", "-c", f"ls -d /sys/fs/cgroup/*/{instance.name}/{victim.job.id.safe}.*"],
        user=ATTACKER,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    said = as_user(
        instance,
        """
        for op in ("rejoin", "eof", "signal", "adopted"):
            link = Link(sys.argv[1], 3.0)
            link.send(wire.Message(op, job=sys.argv[2], task=sys.argv[3], signal=15))
            answer, fds = link.recv()
            print(op, answer.op, len(fds))
    """,
        mine.job_id,
        shown[0].rpartition(".")[2],
    )

    assert {line.split(" ", 1)[1] for line in said} == {"refused 0"}
    assert _ends(victim) == 7
    mine.qdel()
    mine.finish(mine.wait())


@pytest.mark.parametrize("task", ["x", "../../version", "a" * 64, "a" * 3000, "\n"])
def test_tasks_that_are_none(instance: Instance, victim: Trial, task: str) -> None:
    """A task of one's own job that never was has no end but one that says so, and nothing of it is kept."""
    said = as_user(
        instance,
        """
        link = Link(sys.argv[1], 5.0)
        for op in ("rejoin", "eof", "signal"):
            link.send(wire.Message(op, job=sys.argv[2], task=sys.argv[3], signal=15))
            print(link.recv()[0].op)
    """,
        victim.job_id,
        task,
        user=USERS[0],
    )

    assert said == ["ended" if len(task) == 64 else "refused", "refused", "refused"]
    assert _ends(victim) == 7


def test_a_client_of_the_users_own(instance: Instance) -> None:
    """Whatever else a message says, the container is the plan's: no field of the user's makes it more."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER --network none {IMAGE}\ntrue\n"))
    trial.prepare_files()
    assert trial.prologue() == 0
    trial.spool.record(None)
    said = as_user(
        instance,
        """
        link = Link(sys.argv[1], 20.0)
        link.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/sh", b"-c", b"id -u; grep -c . /proc/net/dev; sleep 60"],
            env=[b"A=1"], cwd=b"/", umask=0, uid=0, user=b"0:0", privileged=1, image=b"x", network=b"host",
            mounts=b"/:/host", cap_add=b"ALL", state=b"ready", plan=b"{}"))
        answer, fds = link.recv()
        print(answer.op, len(fds))
    """,
        trial.job_id,
        user=USERS[0],
    )
    found = instance.inspect(trial.job_id)
    trial.finish(0)

    assert said == ["started 1"]
    assert found["Config"]["User"].split(":")[0] == str(trial.entry.pw_uid)
    host = found["HostConfig"]
    assert (host["Privileged"], host["CapAdd"], host["NetworkMode"]) == (False, [], "none")
    assert not [one for one in found["Mounts"] if one["Source"] in ("/", "/host")]


def test_root_and_system_users(instance: Instance) -> None:
    """Nobody starts a job as root, and a system user's is refused with the site's least uid."""
    assert works(instance)
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nid -u\n", user="daemon")
    link = subprocess.run(
        [str(instance.root / "opt/pbsdock/hooks/run"), "/bin/sh"],
        env={"PBS_JOBID": "7.vm", "PBSDOCK": "busybox", "PBS_ENVIRONMENT": "PBS_INTERACTIVE"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.exit_status == 125
    assert done.stderr.decode() == "pbsdock: user daemon has uid 1; containers are for users from uid 1000 on\n"
    assert (link.returncode, link.stdout) == (125, "")
    assert link.stderr == "pbsdock: a job is never started as root; install the run hook as $job_starter only\n"


def test_operations_of_root(instance: Instance) -> None:
    """A user may not prepare, release, sweep, reap or list; the refusal is an event that names their uid."""
    assert works(instance)
    said = as_user(
        instance,
        """
        link = Link(sys.argv[1], 5.0)
        for op in ("prepare", "release", "sweep", "reap", "list", "no-such"):
            link.send(wire.Message(op, argv=[b"7.vm", b"root", b"root", b"x"], dry_run=0))
            answer, _ = link.recv()
            print(op, answer.op, answer.text("code"))
        print(os.getuid())
    """,
    )
    *answers, uid = said

    assert answers == [
        *(f"{op} refused root-only" for op in ("prepare", "release", "sweep", "reap", "list")),
        "no-such refused unknown-request",
    ]
    told = [one for one in instance.events() if one["event"] == "client.refused" and one.get("uid") == int(uid)]
    assert {"prepare", "reap"} <= {one["op"] for one in told if "op" in one}


def test_replayed_starts_of_one_job(instance: Instance) -> None:
    """A start that is sent many times makes one container: each would have the job's whole memory and CPUs.

    They are sent before mom's .JB is there, so that all of them wait for it and go on at the same moment.
    """
    trial = Trial(instance.request(None, window=(24, 80)))
    trial.prepare_files()
    assert trial.prologue() == 0
    assert works(instance)  # the agent is there before they all ask
    with begin_as(
        instance,
        f"""
        links = [Link(sys.argv[1], 60.0) for _ in range(12)]
        for one in links:
            one.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/sleep", b"60"], directive=b"{IMAGE}", cwd=b"/"))
        time.sleep(1)  # each waits in a thread of the agent's now
        print("sent", flush=True)
        answers = []
        for one in links:
            while (answer := one.recv()[0]).op == "notice":
                pass
            answers.append(answer.op + " " + str(bool(answer.text("task"))))
        print(*sorted(answers), sep="\\n")
    """,
        trial.job_id,
        user=USERS[0],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        trial.spool.record(os.getpid())
        said = process.communicate(timeout=100)[0].splitlines()
    containers = [one for one in instance.present() if one.startswith("container ")]
    records = list((instance.state_dir / "jobs").glob("*.json"))
    trial.finish(0)

    assert said == ["started False", *["started True"] * 11]  # the others are tasks inside the first one
    assert len(containers) == len(records) == 1
