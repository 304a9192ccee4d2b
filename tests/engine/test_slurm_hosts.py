"""A Slurm job over two hosts: the second has an agent and an engine of its own, and is told by the job's ticket."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from tests.conftest import HOST_IMAGE, IMAGE, USERS, wait_until
from tests.support.slurm import HOST, Done, needs_slurm
from tests.support.slurm_hosts import OTHER, SlurmHosts
from tests.support.slurm_mpi import MPI_IMAGE, mpi_program, needs_mpi, with_hosts_mpi

pytestmark = needs_slurm
DIRECTIVE = f"#DOCKER {IMAGE}\n"
WHERE = "test -e /etc/debian_version && echo host || echo image"
BOTH = ("-N2", "--ntasks-per-node=1")
THERE = f"-w {OTHER} -N1 -n1"


def _run(hosts: SlurmHosts, body: str, head: str = DIRECTIVE) -> Done:
    return hosts.cluster.run(f"#!/bin/sh\n{head}{body}\n", *BOTH)


def test_tasks_on_both_hosts(slurm_hosts: SlurmHosts) -> None:
    """Each in the container of its own host, in its own step's cgroups; the exit code of each rank is told."""
    done = _run(
        slurm_hosts,
        f"{WHERE}; hostname\nsrun -l sh -c '{WHERE}; hostname; grep memory: /proc/self/cgroup'\n"
        "srun -l sh -c 'exit $((SLURM_PROCID * 4 + 3))'; echo code $?",
    )
    lines = done.output.splitlines()
    assert lines[:2] == ["image", HOST], done
    uid = pwd.getpwnam(USERS[0]).pw_uid
    for rank, node in enumerate((HOST, OTHER)):
        assert {f"{rank}: image", f"{rank}: {node}"} <= set(lines), done
        place = f"/slurm_{node}/uid_{uid}/job_{done.id}/step_0/task_0"
        assert any(line.startswith(f"{rank}: ") and line.endswith(place) for line in lines), done
        assert f"srun: error: {node}: task {rank}: Exited with exit code {rank * 4 + 3}" in lines, done
    assert lines[-1] == "code 7"
    assert (done.state, done.exit) == ("COMPLETED", "0:0")


def test_the_first_host_decides(slurm_hosts: SlurmHosts) -> None:
    """The second has the image that the first runs, whatever its name means there, and events of the same incarnation."""
    node = slurm_hosts.other.emulated
    image_id = node.docker("image", "inspect", "--format", "{{.Id}}", IMAGE).stdout.strip()
    assert node.docker("tag", HOST_IMAGE, IMAGE).returncode == 0
    try:
        done = _run(slurm_hosts, f"srun -l sh -c '{WHERE}; command -v busybox'")
    finally:
        assert node.docker("tag", image_id, IMAGE).returncode == 0
    assert {"0: image", "1: image"} <= set(done.output.splitlines()), done
    told = [slurm_hosts.one(instance, "job.finished", done.id) for instance in slurm_hosts.instances]
    assert len({event["incarnation"] for event in told}) == 1, told
    assert [event["node"] for event in told] == [HOST, OTHER]
    ready = [slurm_hosts.one(instance, "job.ready", done.id) for instance in slurm_hosts.instances]
    assert [event["image_id"] for event in ready] == [image_id, image_id]


def test_another_jobs_ticket_is_as_good_as_none(slurm_hosts: SlurmHosts) -> None:
    """It brings a task of a bare job into no container, and one of a contained job into that of its own."""
    other = _run(slurm_hosts, "echo $PBSDOCK_TICKET").output.strip()
    assert other
    ask = f"PBSDOCK_TICKET={other} srun {THERE} sh -c '{WHERE}; echo $SLURM_JOB_ID'"
    bare = _run(slurm_hosts, ask, head="")
    assert bare.output.splitlines() == ["host", bare.id], bare
    own = _run(slurm_hosts, ask)
    assert own.output.splitlines() == ["image", own.id], own
    incarnations = {
        slurm_hosts.one(instance, "job.finished", own.id)["incarnation"] for instance in slurm_hosts.instances
    }
    assert len(incarnations) == 1


@pytest.mark.parametrize("head", ["", DIRECTIVE], ids=["bare", "contained"])
def test_a_forged_ticket_is_refused(slurm_hosts: SlurmHosts, head: str) -> None:
    """With a sentence and 125; nothing is started there."""
    forged = "x=${PBSDOCK_TICKET:-k1.AAAA.BBBB}; x=${x%?}$([ ${x#${x%?}} = A ] && echo B || echo A)"
    done = _run(slurm_hosts, f"{forged}\nPBSDOCK_TICKET=$x srun {THERE} sh -c '{WHERE}'; echo code $?", head)
    assert "the job's ticket is not taken on" in done.output, done
    assert done.output.splitlines()[-1] == "code 125"
    assert not {"host", "image"} & set(done.output.splitlines()), done
    assert slurm_hosts.events(slurm_hosts.other, "ticket.refused", done.id)


def test_a_step_without_a_ticket(slurm_hosts: SlurmHosts) -> None:
    """The first host is asked: a contained job's is in its container, a bare one's is bare, and is asked about once."""
    step = f"srun --export=NONE -l /bin/sh -c '{WHERE}'; "
    assert sorted(_run(slurm_hosts, step).output.splitlines()) == ["0: image", "1: image"]
    bare = _run(slurm_hosts, step * 2, head="")
    assert sorted(bare.output.splitlines()) == ["0: host"] * 2 + ["1: host"] * 2
    (asked,) = slurm_hosts.events(slurm_hosts.other, "job.announced", bare.id)
    assert asked["outcome"] == "bare"


def test_an_allocation_whose_first_host_has_no_step(slurm_hosts: SlurmHosts) -> None:
    """It is bare without a question of anybody's."""
    done = slurm_hosts.cluster.launch("salloc", "-Q", *BOTH, "sh", "-c", f"srun {THERE} sh -c '{WHERE}'")
    assert (done.stdout, done.returncode) == ("host\n", 0), done


@pytest.mark.parametrize("choice", ["bare", "refuse"])
def test_without_ticket_where_the_first_host_gives_no_answer(slurm_hosts: SlurmHosts, choice: str) -> None:
    """As the second host's configuration says, and the job's container on the first goes on."""
    text = slurm_hosts.other.config.read_text()
    slurm_hosts.other.configure(text.replace("\n[nodes]\n", f'\n[nodes]\nwithout_ticket = "{choice}"\n'))
    slurm_hosts.restart_agents()
    flag = Path(pwd.getpwnam(USERS[0]).pw_dir) / f"go-{choice}"
    script = (
        f"#!/bin/sh\n{DIRECTIVE}echo begun\nwhile [ ! -e {flag} ]; do sleep 0.1; done\n"
        f"srun --export=NONE {THERE} /bin/sh -c '{WHERE}'; echo code $?\n{WHERE}\n"
    )
    try:
        job = slurm_hosts.cluster.submit(script, *BOTH)
        slurm_hosts.cluster.await_running(job, says="begun")
        slurm_hosts.site.instance.kill_agent()
        flag.touch()
        done = slurm_hosts.cluster.wait(job)
    finally:
        flag.unlink(missing_ok=True)
    lines = [line for line in done.output.splitlines() if not line.startswith("srun: error")]
    if choice == "bare":
        assert lines == ["begun", "host", "code 0", "image"], done
    else:
        assert lines[0:1] + lines[-2:] == ["begun", "code 125", "image"], done
        assert f"it brings no ticket, and nobody listens on {HOST}" in done.output, done


def test_steps_without_a_script(slurm_hosts: SlurmHosts) -> None:
    """Each host prepares by itself, and has its container from the first step to the end of the allocation."""
    done = slurm_hosts.cluster.launch("srun", *BOTH, "-l", "sh", "-c", f"{WHERE}; hostname", PBSDOCK=IMAGE)
    assert sorted(done.stdout.splitlines()) == sorted(["0: image", f"0: {HOST}", "1: image", f"1: {OTHER}"]), done
    steps = f"srun sh -c 'echo $SLURM_PROCID >/tmp/made; {WHERE}'; srun -l cat /tmp/made; exit 5"
    done = slurm_hosts.cluster.launch("salloc", "-Q", *BOTH, "sh", "-c", steps, PBSDOCK=IMAGE)
    assert sorted(done.stdout.splitlines()) == ["0: 0", "1: 1", "image", "image"], done
    assert done.returncode == 5


def test_scancel(slurm_hosts: SlurmHosts) -> None:
    """Ends the tasks on both hosts, and the fixture sees that nothing is left of them."""
    script = f"#!/bin/sh\n{DIRECTIVE}srun sh -c 'echo begun $SLURM_PROCID; sleep 300; :'\n"
    job = slurm_hosts.cluster.submit(script, *BOTH)
    for rank in (0, 1):
        slurm_hosts.cluster.await_running(job, says=f"begun {rank}")
    slurm_hosts.cluster.call("scancel", job)
    assert slurm_hosts.cluster.wait(job).state == "CANCELLED"
    wait_until("both are told", lambda: all(slurm_hosts.events(i, "job.finished", job) for i in slurm_hosts.instances))


@needs_mpi
def test_mpi_between_two_hosts(slurm_hosts: SlurmHosts) -> None:
    """Open MPI by PMIx, from the command line and from a contained script, and by its own mpirun."""
    program = mpi_program()
    for instance in slurm_hosts.instances:
        instance.config.write_text(with_hosts_mpi(instance.config.read_text()))
    slurm_hosts.restart_agents()
    expected = [f"rank {rank} of 2, sum 1, image" for rank in (0, 1)]
    done = slurm_hosts.cluster.launch("srun", "--mpi=pmix", *BOTH, str(program), PBSDOCK=MPI_IMAGE)
    assert sorted(done.stdout.splitlines()) == expected, done
    for command in ("srun --mpi=pmix", "mpirun --oversubscribe"):
        over = _run(slurm_hosts, f"{command} {program}", head=f"#DOCKER {MPI_IMAGE}\n")
        assert sorted(over.output.splitlines()) == expected, (command, over)
