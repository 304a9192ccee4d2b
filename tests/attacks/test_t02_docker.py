"""T2: the docker of jobs. Whose command it is, and which containers there are, no word of the user's decides."""

from __future__ import annotations

import pwd
import subprocess
from collections.abc import Iterator

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import ATTACKER, as_user, is_healthy
from tests.support.shim import JOBS, Job, bare, begin_bare, client

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]


@pytest.fixture
def victim(instance: Instance) -> Iterator[Trial]:
    """A job of the first user whose container ``db`` runs until it is killed."""
    trial = begin_bare(
        instance,
        f"docker run -d --name db {IMAGE} sh -c 'echo secret; sleep 600' && docker inspect -f '{{{{.State.Pid}}}}' db &&"
        " echo ready; docker wait db",
    )
    wait_until("the victim runs", lambda: b"ready" in trial.out_path.read_bytes())
    yield trial
    assert b"137" not in trial.out_path.read_bytes()  # it runs on
    trial.qdel()
    trial.finish(trial.wait())


@JOBS
def test_anothers_container(instance: Instance, victim: Trial, job: Job) -> None:
    """By name, id and the beginning of that: for every command it is not there, with the words of one that never was."""
    identifier = victim.out_path.read_text().split()[0]
    lines = "\n".join(
        f"for name in db {identifier} {identifier[:12]} {identifier[:1]} /db; do docker {command} 2>/dev/null && echo got it; done"
        for command in (
            "exec $name true",
            "logs $name",
            "cp $name:/etc/passwd -",
            "cp $name:/etc/passwd /tmp/stolen",
            "kill $name",
            "stop -t 0 $name",
            "rm -f $name | grep -q .",
            "inspect --type container -f '{{.Id}}' $name",
            "wait $name",
            f"run --rm --network container:$name {IMAGE} true",
        )
    )
    done = job(
        instance,
        f"{lines}\ndocker ps -aq\ndocker network ls -q\ndocker exec db true\ndocker exec nosuch true",
        ATTACKER,
    )

    assert done.stdout == b"", (done.stdout, done.stderr)
    said = done.stderr.decode().splitlines()
    assert said[-2].replace("db", "nosuch") == said[-1]
    assert said[-1].startswith("docker: No such container: nosuch")


def test_another_job_of_the_same_user(instance: Instance, victim: Trial) -> None:
    """Names are the job's own: another job of the same owner has a db of its own and sees nothing of this one's."""
    done = bare(
        instance, f"docker ps -aq\ndocker kill db\ndocker run -d --name db {IMAGE} sleep 60 >/dev/null && echo mine"
    )

    assert done.stdout == b"mine\n", done.stderr


def test_job_ids_and_variables_that_name_another(instance: Instance, victim: Trial) -> None:
    """PBS_JOBID, PBSDOCK_* and their like are not asked, wherever they are said."""
    said = as_user(
        instance,
        """
        link = Link(sys.argv[1], 30.0)
        env = [b"PBS_JOBID=" + sys.argv[2].encode(), b"PBSDOCK_JOB=" + sys.argv[2].encode(), b"PBS_ENVIRONMENT=PBS_BATCH"]
        for more in ({}, {"job": sys.argv[2]}, {"uid": 0, "user": "root"}):
            link = Link(sys.argv[1], 30.0)
            link.send(wire.Message("docker", argv=[b"ps", b"-aq"], env=env, cwd=b"/", umask=18, **more))
            while (answer := link.recv()[0]).op == "waiting":
                pass
            print(answer.op, answer.text("code"))
        """,
        victim.job_id,
    )
    forged = {"PBS_JOBID": victim.job_id, "PBSDOCK_JOB": victim.job_id}
    done = bare(instance, f"export PBS_JOBID={victim.job_id}; docker ps -aq", ATTACKER, variables=forged)

    assert said == ["refused no-job"] * 3  # the attacker's process is in no job
    assert done.stdout == b"", done.stderr


def test_ends_that_are_told_for_another(instance: Instance, victim: Trial) -> None:
    """docker-over and over with the key of another user's child end nothing; answers nobody asked for do nothing."""
    (key,) = [path.stem for path in (instance.state_dir / "children").glob("*/c*.json")]
    incarnation = next((instance.state_dir / "children").iterdir()).name.rpartition(".")[2]
    said = as_user(
        instance,
        """
        for op in ("docker-over", "over", "content", "done", "copied", "left", "failed"):
            link = Link(sys.argv[1], 30.0)
            link.send(wire.Message(op, child=sys.argv[2], kind=1, number=0, step="", path="", data="x"))
            print(op, link.recv()[0].op)
        """,
        f"{incarnation}/{key}",
    )

    assert {line.split()[1] for line in said} == {"refused"}
    assert is_healthy(instance)


def test_namespaces_of_ones_own(instance: Instance) -> None:
    """From a mount namespace of one's own, where a name may mean another file: refused. Root in a user namespace of one's
    own is still the user."""
    uid = pwd.getpwnam(USERS[0]).pw_uid
    done = bare(
        instance,
        f"unshare -Ur --mount docker run --rm {IMAGE} id -u\nunshare -Ur docker run --rm {IMAGE} id -u\n"
        f"unshare -Ur chroot /usr/.. docker run --rm -v /root:/x {IMAGE} id -u",
    )

    if b"unshare failed" in done.stderr:
        pytest.skip("this kernel gives users no namespaces")
    assert done.stdout.decode() == f"{uid}\n", done.stderr
    assert b"this process sees other mounts than the host" in done.stderr


def test_from_within_a_child(instance: Instance) -> None:
    """A child has no way to the agent: neither client nor socket, and what carries them there is refused."""
    program, door = instance.root / "opt/pbsdock/shim", instance.run_dir / "door"
    done = bare(
        instance,
        f"docker run --rm {IMAGE} sh -c 'ls /run/pbsdock; type docker 2>&1 | grep -v found'\n"
        f"docker run --rm -v {door}:/door {IMAGE} true\ndocker run --rm -v {program}:/x {IMAGE} true\n"
        f"ln -s {instance.run_dir}/agent.sock sock; docker run --rm -v $PWD/sock:/x {IMAGE} true; rm sock",
    )

    assert done.stdout == b"init\npbsdock-init\n", done.stderr
    assert done.stderr.count(b"cannot be mounted") == 3, done.stderr


def test_the_door_takes_nothing_else(instance: Instance) -> None:
    """By the socket containers have nothing but docker is asked for: no start, no question, nothing of root's."""
    trial = begin_bare(instance, f"docker run --rm {IMAGE} true; echo ready; sleep 60")
    wait_until("it runs", lambda: b"ready" in trial.out_path.read_bytes())
    said = as_user(
        instance,
        """
        door = sys.argv[1].replace("agent.sock", "door/agent.sock")
        for op in ("start", "rejoin", "why", "ping", "signal", "prepare", "release", "reap", "list", "config", "pull", "docker"):
            link = Link(door, 30.0)
            link.send(wire.Message(op, job=sys.argv[2], argv=[b"ps"], signal=9))
            while (answer := link.recv()[0]).op == "waiting":
                pass
            print(op, answer.op, answer.text("code"))
        """,
        trial.job_id,
        user=USERS[0],
    )
    trial.qdel()
    trial.finish(trial.wait())

    assert {line.split(" ", 1)[1] for line in said[:-1]} == {"refused not-from-here"}
    assert said[-1] == "docker refused no-job"  # this process is in none


def test_root_asks_the_engine_itself(instance: Instance) -> None:
    """Nothing of the docker of jobs is done for root."""
    instance.start_agent()
    done = subprocess.run(
        [str(instance.root / "opt/pbsdock/shim/docker"), "ps"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert "docker in a job is its owner's" in done.stderr


def test_answers_out_of_turn(instance: Instance) -> None:
    """Two commands on a connection, answers before they are asked for, and of the wrong kind: the agent lives, the job's
    other containers too."""
    code = f"""
        link = ask("run", "-d", "--name", "other", "{IMAGE}", "sleep", "60")
        print(until(link, "out")[0].op)
        link = ask("wait", "other")
        for op in ("content", "done", "copied", "over", "left", "failed", "docker"):
            link.send(wire.Message(op, argv=[b"ps"], kind=1, number=3, errno=-1, data=b"\\xff", child="x/y"))
        print(until(link)[0].op)
        link = ask("run", "--env-file", "x", "{IMAGE}", "true")
        until(link, "read")
        link.send(wire.Message("over", kind=77, number=-5, child="../.."))
        print(until(link)[0].op)
        link = ask("run", "{IMAGE}", "sleep", "60")
        until(link, "started")
        link.send(wire.Message("over", kind=99, number=1 << 20, step="x" * 9999, path="y" * 9999))
        print(until(link)[0].op)
    """
    done = bare(instance, f"{client(instance, code)}\ndocker ps --format '{{{{.Names}}}} {{{{.State}}}}'")

    assert done.stdout.decode().splitlines() == ["out", "exit", "refused", "refused", "other running"], done.stderr
