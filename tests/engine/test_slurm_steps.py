"""Job steps in a real Slurm: what srun and salloc start runs in the container that the job has on its node."""

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, wait_until
from tests.support.slurm import NODE, SlurmSite, needs_slurm
from tests.support.slurm_mpi import MPI_IMAGE, mpi_program, needs_mpi, with_hosts_mpi

pytestmark = needs_slurm
DIRECTIVE = f"#DOCKER {IMAGE}\n"
WHERE = "test -e /etc/debian_version && echo host || echo image"


def test_srun_in_an_allocation_of_its_own(slurm: SlurmSite) -> None:
    """Each task in the image, as its user, with Slurm's variables and its exit code."""
    done = slurm.cluster.launch("srun", "-n2", "-l", "sh", "-c", f"{WHERE}; echo $SLURM_PROCID; id -u", PBSDOCK=IMAGE)
    uid = pwd.getpwnam(USERS[0]).pw_uid
    lines = [f"{task}: {line}" for task in (0, 1) for line in ("image", task, uid)]
    assert sorted(done.stdout.splitlines()) == sorted(lines), done
    assert slurm.cluster.launch("srun", "sh", "-c", "exit 7", PBSDOCK=IMAGE).returncode == 7


def test_srun_in_a_contained_script(slurm: SlurmSite) -> None:
    """It is found there, and its tasks are in the same container, with what the script has exported."""
    script = (
        f"#!/bin/sh\n{DIRECTIVE}export A='a b'\nhostname >/tmp/made-by-script\n"
        f"srun -n2 sh -c '{WHERE}; cat /tmp/made-by-script; echo \"$A\"; exit 3'\necho code $?\n"
    )
    done = slurm.cluster.run(script, "-n2")
    lines = done.output.splitlines()
    assert lines.count("image") == 2, done.output
    assert lines.count("a b") == 2
    assert "code 3" in lines
    assert done.exit == "0:0"


def test_arguments_and_environment_are_those_of_a_bare_step(slurm: SlurmSite) -> None:
    """But for what belongs to the image, and what is different in any two steps."""
    show = (
        'printf "<%s>" "$0" "$@"; env | grep ^SLURM_ | grep -vE "PID|STEP|JOB|PORT|GTIDS_ADDR|UMASK" | sort; pwd; umask'
    )
    words = ("srun", "-n1", "sh", "-c", show, "zero", "one two", "", "*", "$x")
    bare, contained = slurm.cluster.launch(*words), slurm.cluster.launch(*words, PBSDOCK=IMAGE)
    assert contained.stdout == bare.stdout
    assert "SLURM_PROCID=0" in bare.stdout


@pytest.mark.parametrize(
    "body", ["exit 0", "exit 255", "kill -TERM $$", "kill -KILL $$", "cat; echo out; echo err >&2; exit 5"]
)
def test_as_bare(slurm: SlurmSite, body: str) -> None:
    """Exit codes, signals, and descriptors."""
    results = []
    for variables in ({}, {"PBSDOCK": IMAGE}):
        done = slurm.cluster.launch("srun", "sh", "-c", body, stdin="in\n", **variables)
        told = [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("srun: error")]
        results.append((done.returncode, done.stdout, told, "err" in done.stderr))
    assert results[0] == results[1]


def _paths(pid: str) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:  # it has just ended
        return {}
    return {name: path for _number, name, path in (line.split(":", 2) for line in lines)}


def _marked(mark: str) -> list[str]:
    """The processes with that word among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (
                (entry / "cmdline").read_bytes().decode(errors="replace").split("\0") if entry.name.isdigit() else []
            )
            if words[:1] == ["sh"] and mark in words:
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_each_task_is_in_its_own_steps_cgroups(slurm: SlurmSite) -> None:
    """From before it runs anything: in a script's job and in one of steps alone."""
    uid = pwd.getpwnam(USERS[0]).pw_uid
    script = (
        f"#!/bin/sh\n{DIRECTIVE}srun -n2 sh -c 'cat /proc/self/cgroup; sleep 300; :' mark-{NODE} &\necho begun\nwait\n"
    )
    job = slurm.cluster.submit(script, "-n2")
    slurm.cluster.await_running(job, says=":memory:")
    wait_until("both run", lambda: len(_inside(slurm, f"mark-{NODE}")) == 2)
    places = sorted(_paths(pid)["memory"] for pid in _inside(slurm, f"mark-{NODE}"))
    assert places == [f"/slurm_{NODE}/uid_{uid}/job_{job}/step_0/task_{task}" for task in (0, 1)]
    assert {_paths(pid)["freezer"] for pid in _inside(slurm, f"mark-{NODE}")} == {
        f"/slurm_{NODE}/uid_{uid}/job_{job}/step_0"
    }
    slurm.cluster.call("scancel", f"{job}.0")
    wait_until("the step is over", lambda: not _inside(slurm, f"mark-{NODE}"))
    assert slurm.cluster.wait(job).exit == "0:0"


def _inside(slurm: SlurmSite, mark: str) -> list[str]:
    """Those of them that are a container's."""
    return [pid for pid in _marked(mark) if "pbsdock" in _paths(pid).get("pids", "")]


def test_what_a_step_leaves_ends_with_it(slurm: SlurmSite) -> None:
    """As a bare step's, while the job goes on; memory of a step is the step's."""
    script = (
        f"#!/bin/sh\n{DIRECTIVE}srun sh -c 'sleep 317 & exit 4'\necho code $?\n"
        "srun --mem=40 sh -c 'head -c 150000000 /dev/zero | tail | wc -c'\necho oom $?\npgrep -f 'sleep 317' || echo none\n"
    )
    done = slurm.cluster.run(script, "--mem=100")
    assert "code 4\n" in done.output
    assert "oom-kill" in done.output
    assert "none\n" in done.output, done.output


def test_an_allocation_without_a_script(slurm: SlurmSite) -> None:
    """The container waits between steps, is the same for all of them, and goes with the allocation."""
    steps = f"srun sh -c 'echo x >/tmp/made; {WHERE}'; sleep 1; srun cat /tmp/made; {WHERE}; exit 5"
    done = slurm.cluster.launch("salloc", "-Q", "sh", "-c", steps, PBSDOCK=IMAGE)
    assert (done.stdout, done.returncode) == ("image\nx\nhost\n", 5), done


def test_a_step_that_asks_for_none_has_none(slurm: SlurmSite) -> None:
    """Beside one that does, in an allocation without a script."""
    steps = f"PBSDOCK={IMAGE} srun sh -c '{WHERE}'; srun sh -c '{WHERE}'"
    done = slurm.cluster.launch("salloc", "-Q", "sh", "-c", steps)
    assert done.stdout == "image\nhost\n", done
    assert slurm.cluster.launch("srun", "sh", "-c", WHERE).stdout == "host\n"


def test_a_terminal(slurm: SlurmSite) -> None:
    """srun --pty: the command has a terminal of the container's, and its exit code is told."""
    words = ["srun", "--pty", "sh", "-c", f"test -t 0 && test -t 1 && echo terminal; {WHERE}; exit 6"]
    quoted = " ".join(f"'{word}'" if " " in word else word for word in words)
    done = slurm.cluster.launch("script", "-qec", quoted, "/dev/null", PBSDOCK=IMAGE)
    assert {"terminal", "image"} <= {line.strip("^@\r ") for line in done.stdout.splitlines()}, done
    assert done.returncode == 6


def test_a_users_mistake_is_told(slurm: SlurmSite) -> None:
    """In a sentence, with 125; nothing is drained, which the fixture looks at."""
    done = slurm.cluster.launch("srun", "true", PBSDOCK=f"{IMAGE} --privileged")
    assert done.returncode == 125
    assert "--privileged is not available" in done.stderr
    gone = slurm.cluster.launch("srun", "no-such-program", PBSDOCK=IMAGE)
    assert "no-such-program" in gone.stderr
    assert gone.returncode in (2, 127)


def test_signals_go_to_the_task_alone(slurm: SlurmSite) -> None:
    """As slurmstepd sends them."""
    body = 'trap "echo task" USR1; (trap "echo child" USR1; echo begun; sleep 1; sleep 1) & wait; wait; wait'
    outputs = []
    for head in ("", DIRECTIVE):
        job = slurm.cluster.submit(f"#!/bin/sh\n{head}srun sh -c '{body}'\n")
        slurm.cluster.await_running(job, says="begun")
        slurm.cluster.call("scancel", "--signal=USR1", f"{job}.0")
        outputs.append(slurm.cluster.wait(job).output)
    assert outputs[0] == outputs[1]


def test_two_slurmds_of_one_host(slurm_pair: SlurmSite) -> None:
    """A script on the first, tasks on both, each in the cgroups of its own slurmd's step; the job's end empties both."""
    cluster = slurm_pair.cluster
    script = (
        f"#!/bin/sh\n{DIRECTIVE}{WHERE}\nsrun sh -c '{WHERE}; echo $SLURMD_NODENAME; grep memory: /proc/self/cgroup'\n"
        "srun sh -c 'exit $((SLURM_NODEID + 2))'; echo code $?\n"
    )
    done = cluster.run(script, "-N2", "--ntasks-per-node=1")
    lines = done.output.splitlines()
    assert lines.count("image") == 3, done.output
    uid = pwd.getpwnam(USERS[0]).pw_uid
    for task, node in enumerate(cluster.nodes):
        assert node in lines
        assert any(line.endswith(f"/slurm_{node}/uid_{uid}/job_{done.id}/step_0/task_0") for line in lines), (
            task,
            lines,
        )
    assert "code 3" in lines


def test_an_allocation_of_two_slurmds(slurm_pair: SlurmSite) -> None:
    """Without a script; and the Epilog that comes first leaves the other node's tasks their time."""
    done = slurm_pair.cluster.launch("srun", "-N2", "-l", "sh", "-c", WHERE, PBSDOCK=IMAGE)
    assert sorted(done.stdout.splitlines()) == ["0: image", "1: image"], done


@needs_mpi
def test_mpi_between_two_slurmds(slurm_pair: SlurmSite) -> None:
    """Open MPI by PMIx, from the command line and from a contained script, and by its own mpirun."""
    program = mpi_program()
    instance = slurm_pair.instance
    instance.configure(with_hosts_mpi(instance.config.read_text()))
    expected = [f"rank {rank} of 2, sum 1, image" for rank in (0, 1)]
    done = slurm_pair.cluster.launch("srun", "--mpi=pmix", "-N2", str(program), PBSDOCK=MPI_IMAGE)
    assert sorted(done.stdout.splitlines()) == expected, done
    for command in ("srun --mpi=pmix", "mpirun --oversubscribe"):
        script = f"#!/bin/sh\n#DOCKER {MPI_IMAGE}\n{command} {program}\n"
        over = slurm_pair.cluster.run(script, "-N2", "--ntasks-per-node=1")
        assert sorted(over.output.splitlines()) == expected, (command, over)


def test_a_socket_of_pmi2_comes_along(slurm: SlurmSite) -> None:
    """It is an inherited descriptor, which the first process is handed: slurmstepd answers in the container."""
    body = "printf 'cmd=init pmi_version=2 pmi_subversion=0\\n' >&3; read -r line <&3; echo $PMI_FD $line"
    done = slurm.cluster.launch("srun", "--mpi=pmi2", "sh", "-c", f"{WHERE}; {body}", PBSDOCK=IMAGE)
    assert done.stdout == "image\n3 cmd=response_to_init rc=0 pmi_version=2 pmi_subversion=0\n", done


def test_without_the_plugin_steps_run_bare(slurm: SlurmSite) -> None:
    """And nothing says a word, nor does a step fail: what plugstack.conf includes is not there."""
    stack = (slurm.instance.root / "opt/pbsdock/current/slurm/plugstack.conf").resolve()
    kept = stack.with_suffix(".kept")
    stack.rename(kept)
    try:
        done = slurm.cluster.launch("srun", "-Q", "sh", "-c", WHERE, PBSDOCK=IMAGE)
    finally:
        kept.rename(stack)
    assert (done.stdout, done.returncode) == ("host\n", 0), done
    assert "spank" not in done.stderr


def test_a_network_of_its_own_has_no_srun(slurm: SlurmSite) -> None:
    """Which is said in a sentence."""
    done = slurm.cluster.run(f"#!/bin/sh\n#DOCKER --network none {IMAGE}\nsrun true\n")
    assert "srun: cannot work here: the container has network 'none'" in done.output, done.output


def test_the_agent_is_killed_in_mid_step(slurm: SlurmSite) -> None:
    """The step goes on and ends as it would have, the allocation's next one is in the same container, and all is
    released."""
    mark = f"agent-{NODE}"
    steps = f"srun sh -c 'echo x >/tmp/made; sleep 4; exit 3' {mark}; echo $?; srun cat /tmp/made"
    entry = pwd.getpwnam(USERS[0])
    with subprocess.Popen(
        ["salloc", "-Q", "sh", "-c", steps],
        env={**slurm.cluster.environment, "HOME": entry.pw_dir, "PBSDOCK": IMAGE},
        cwd=entry.pw_dir,
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as launched:
        wait_until("the step runs", lambda: bool(_inside(slurm, mark)))
        slurm.instance.kill_agent()
        assert slurm.instance.command("ps").returncode != 0
        # Nobody starts an agent but the next job's Prolog, or the health check.
        slurm.cluster.launch("srun", "--overlap", "-n1", "true", user=USERS[1])
        said, _ = launched.communicate(timeout=60)
    assert [line for line in said.splitlines() if not line.startswith("srun: error")] == ["3", "x"], said
