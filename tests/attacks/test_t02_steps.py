"""T2 and T17, job steps of Slurm: nobody has a task run in the container of a job that they are not in, nor is anything
run there that was not brought into its own step's cgroups first."""

from __future__ import annotations

import pytest

from tests.conftest import IMAGE, USERS
from tests.support.slurm import SlurmSite, needs_slurm

pytestmark = [needs_slurm, pytest.mark.threat(17)]
_SCRIPT = f"#!/bin/sh\n#DOCKER {IMAGE}\necho begun\nsleep 300\n"


def _step(slurm: SlurmSite) -> str:
    """The program that steps are exchanged for."""
    return str((slurm.instance.root / "opt/pbsdock/current/slurm/step").resolve())


@pytest.mark.parametrize("user", USERS[:2])
def test_a_step_of_another_job_gets_in_nowhere(slurm: SlurmSite, user: str) -> None:
    """Whoever says in its own step that it is another's, of the same user or not, is known by its cgroups."""
    job = slurm.cluster.submit(_SCRIPT)
    slurm.cluster.await_running(job, says="begun")
    done = slurm.cluster.launch(
        "srun", "--overlap", "env", f"PBSDOCK_STEP={job} /bin/echo", _step(slurm), "got in", user=user
    )
    assert "got in" not in done.stdout
    assert "belongs to another user" in done.stderr or "is not in that job" in done.stderr, done
    slurm.cluster.call("scancel", job)
    slurm.cluster.wait(job)


def test_nobody_outside_of_the_job_gets_in(slurm: SlurmSite) -> None:
    """Not even its owner on the same host."""
    job = slurm.cluster.submit(_SCRIPT)
    slurm.cluster.await_running(job, says="begun")
    done = slurm.cluster.launch("env", f"PBSDOCK_STEP={job} /bin/echo", _step(slurm), "got in")
    assert "got in" not in done.stdout
    assert done.returncode == 125
    slurm.cluster.call("scancel", job)
    slurm.cluster.wait(job)


_ATTACK = """
import os, socket, struct, sys, time
sys.path.insert(0, {library!r})
from pbsdock.protocol import init, wire
from pbsdock.protocol.link import Link
job = os.environ["SLURM_JOB_ID"]
link = Link({agent!r}, 30.0)
link.send(wire.Message("start", job=job, argv=[b"/bin/true"], env=[], cwd=b"/", umask=18, directive={image!r}, direct=1))
while (found := link.recv())[0].op in ("waiting", "notice"):
    pass
answer, fds = found
print(answer.op, answer.text("held"), answer.text("sentence"), flush=True)
path = "/proc/self/fd/%d/socket" % fds[0]
for flags in (init.SESSION, init.SESSION | init.LEADER):
    connection = init.Connection(path, 3.0)
    name = "mine-%d" % flags
    connection.run(init.Run(name, [b"/bin/sh", b"-c", b"echo ran unmoved"], [], b"/", umask=18, flags=flags))
    told = connection.receive()
    try:
        connection.send(init.encode_go(name, told.number))
        print("go", connection.receive().kind, flush=True)
        print("end", connection.receive().kind, flush=True)
    except init.InitError:
        print("held", flush=True)
    link.send(wire.Message("held", job=job, task=answer.text("task"), pid=told.host_pid))
    message = link.recv()[0]
    print(message.op, message.text("sentence"), flush=True)
"""


def test_what_is_run_past_the_agent_stays_held(slurm: SlurmSite) -> None:
    """A user may speak to the first process, whose directory the run hook is given. What they have it run waits for
    root, who moves and lets go only what its own run hook has asked for: in a container of steps alone, a leader too."""
    text = _ATTACK.format(
        library=str(next(slurm.instance.home.glob("venv/lib/python3*/site-packages"))),
        agent=str(slurm.instance.run_dir / "agent.sock"),
        image=IMAGE.encode(),
    )
    done = slurm.cluster.launch("srun", "-Q", "/usr/bin/python3", "-", stdin=text)
    assert "started 1" in done.stdout, done
    assert "ran unmoved" not in done.stdout + done.stderr
    assert done.stdout.count("held\n") >= 2, done
    assert "end" not in done.stdout
