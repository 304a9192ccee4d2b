"""Batch scripts with a #DOCKER line in a real Slurm: what it says of them is what it says of the same script bare."""

from __future__ import annotations

import os
import pwd
import re
import signal
from pathlib import Path

import pytest

from pbsdock.protocol import wire
from pbsdock.protocol.link import Link
from tests.conftest import IMAGE, USERS, wait_until
from tests.support.agents import running
from tests.support.slurm import LUA, NODE, Cluster, Done, SlurmSite, needs_slurm

pytestmark = needs_slurm
DIRECTIVE = f"#DOCKER {IMAGE}\n"
SLEEP = f"#!/bin/sh\n{DIRECTIVE}echo begun\nsleep 300\necho after\n"


def both(cluster: Cluster, body: str, *options: str, arguments: tuple[str, ...] = (), shell: str = "sh") -> list[Done]:
    """The same script bare and contained, at the same time."""
    scripts = [f"#!/bin/{shell}\n{head}{body}\n" for head in ("", DIRECTIVE)]
    jobs = [cluster.submit(script, *options, arguments=arguments) for script in scripts]
    return [cluster.wait(job) for job in jobs]


def same(bare: Done, contained: Done) -> None:
    """But for what is different in any two runs of one script."""
    text = contained.output.replace(f"job{int(contained.id):05d}", f"job{int(bare.id):05d}")
    text = text.replace(f"JOB {contained.id} ", f"JOB {bare.id} ")
    assert (contained.state, contained.exit, text) == (bare.state, bare.exit, bare.output)


def _over(cluster: Cluster, job: str) -> dict[str, str]:
    wait_until("it is over", lambda: cluster.state(job) == "FAILED")
    return cluster.show(job)


def first_process(site: SlurmSite, job: str) -> int:
    """Of a job's container."""
    return int(site.instance.inspect(job)["State"]["Pid"])


@pytest.mark.usefixtures("beside")
def test_an_unchanged_script_runs_in_its_image(slurm: SlurmSite) -> None:
    """As its owner, in its directory, with its arguments; and the node is as before."""
    script = (
        f"#!/bin/sh\n{DIRECTIVE}echo $0 $# $2; id -u; pwd; umask; test -e /etc/debian_version || echo image\nexit 42\n"
    )
    done = slurm.cluster.run(script, arguments=("a", "b c"))
    entry = pwd.getpwnam(USERS[0])
    path = f"{slurm.cluster.spool}/job{int(done.id):05d}/slurm_script"
    assert done.output.splitlines() == [f"{path} 2 b c", str(entry.pw_uid), entry.pw_dir, "0022", "image"]
    assert (done.state, done.exit) == ("FAILED", "42:0")
    finished = slurm.instance.trail(done.id)[-1]
    assert (finished["event"], finished["exit_status"], finished["code"]) == ("job.finished", 42, 42)


@pytest.mark.parametrize(
    "body",
    [
        "exit 0",
        "exit 255",
        "echo out; echo err >&2; cat; exit 5",
        "sh -c 'kill -SEGV $$'; exit $?",
        "kill -KILL $$",
        "kill -USR1 $$",
        "no-such-command 2>/dev/null",
        'echo "$@"; echo $SLURM_JOB_NAME $SLURM_CPUS_ON_NODE $ENVIRONMENT $SLURM_PROCID',
        "sleep 300 & exit 3",
    ],
)
def test_as_bare(slurm: SlurmSite, body: str) -> None:
    """Exit codes, signals and output."""
    same(*both(slurm.cluster, body, "-J", "x", arguments=("1", "two words")))


def test_an_array(slurm: SlurmSite) -> None:
    """Each element is a job, and has a container, of its own."""
    script = f'#!/bin/sh\n{DIRECTIVE}echo "$SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID $SLURM_JOB_ID"\nexit $SLURM_ARRAY_TASK_ID\n'
    first = slurm.cluster.submit(script, "--array=3,4")
    numbers = []
    for element in (3, 4):
        shown = _over(slurm.cluster, f"{first}_{element}")
        numbers.append(shown["JobId"])
        done = slurm.cluster.wait(shown["JobId"])
        assert shown["ExitCode"] == f"{element}:0"
        assert done.output == f"{first} {element} {shown['JobId']}\n"
    assert len(set(numbers)) == 2


def test_scancel(slurm: SlurmSite) -> None:
    """A script with a trap ends by it, another by the signal, and what it has started with it: as bare ones do."""
    trap = "trap 'echo trapped; exit 77' TERM\necho begun\nwhile :; do sleep 0.1; done"
    plain = "sleep 300 &\necho begun\nsleep 300"
    for body in (trap, plain):
        jobs = [slurm.cluster.submit(f"#!/bin/sh\n{head}{body}\n") for head in ("", DIRECTIVE)]
        for job in jobs:
            slurm.cluster.await_running(job, says="begun")
        slurm.cluster.call("scancel", *jobs)
        bare, contained = (slurm.cluster.wait(job) for job in jobs)
        cut = [re.sub(rf"\b{done.id}\b", "N", done.output.partition(" AT ")[0]) for done in (bare, contained)]
        assert cut[0] == cut[1]
        assert (contained.state, contained.exit) == (bare.state, bare.exit)


def test_a_signal_is_for_the_leader_alone(slurm: SlurmSite) -> None:
    """What the script has started gets none, as slurmstepd sends it."""
    body = "trap 'echo leader' USR1\nsh -c \"trap 'echo child' USR1; echo begun; sleep 1; sleep 1\" &\nwait; wait; wait"
    jobs = [slurm.cluster.submit(f"#!/bin/sh\n{head}{body}\n") for head in ("", DIRECTIVE)]
    for job in jobs:
        slurm.cluster.await_running(job, says="begun")
        slurm.cluster.call("scancel", "--batch", "--signal=USR1", job)
    bare, contained = (slurm.cluster.wait(job) for job in jobs)
    assert bare.output == "begun\nleader\n"
    same(bare, contained)


def test_memory_is_slurms(slurm: SlurmSite) -> None:
    """Its limit, its verdict, and the user is told how to ask for more."""
    body = "head -c 150000000 /dev/zero | tail | wc -c"
    bare, contained = both(slurm.cluster, body, "--mem=60")
    assert (contained.state, contained.exit) == (bare.state, bare.exit) == ("OUT_OF_MEMORY", "0:125")
    assert "Detected 1 oom-kill event" in contained.output
    assert "ask for more with sbatch --mem=SIZE" in contained.output
    finished = slurm.instance.trail(contained.id)[-1]
    assert finished["oom"]
    assert 50 << 20 < finished["memory_peak_bytes"] < 61 << 20


def test_the_container_is_in_the_steps_own_cgroups(slurm: SlurmSite) -> None:
    """In every hierarchy of Slurm's but those that stay Docker's; what it uses is the job's."""
    job = slurm.cluster.submit(
        f"#!/bin/sh\n{DIRECTIVE}head -c 30000000 /dev/zero | tail -c 30000000 | wc -c\necho begun\nsleep 300\n"
    )
    slurm.cluster.await_running(job, says="begun")
    lines = Path(f"/proc/{first_process(slurm, job)}/cgroup").read_text().splitlines()
    paths = {name: path for _number, name, path in (line.split(":", 2) for line in lines)}
    step = f"/slurm_{NODE}/uid_{pwd.getpwnam(USERS[0]).pw_uid}/job_{job}/step_batch"
    assert paths["freezer"] == step
    assert paths["memory"] == f"{step}/task_0"
    assert "pbsdock" in paths["pids"]
    assert "pbsdock" in paths["devices"]
    story = slurm.instance.command("why", job, "--json").stdout
    assert f'"job": "{job}"' in story
    slurm.cluster.call("scancel", job)
    slurm.cluster.wait(job)
    assert slurm.instance.trail(job)[-1]["memory_peak_bytes"] > 25 << 20


def test_killed_run_hook(slurm: SlurmSite) -> None:
    """Slurm ends what is left of the job, the container with it."""
    job = slurm.cluster.submit(SLEEP)
    slurm.cluster.await_running(job, says="begun")
    first = first_process(slurm, job)
    (hook,) = running("pbsdock-run", f"job{int(job):05d}/slurm_script")
    os.kill(hook, signal.SIGKILL)
    done = slurm.cluster.wait(job)
    assert (done.state, done.exit) == ("FAILED", "0:9")
    assert not Path(f"/proc/{first}").exists()


def test_the_agent_is_killed_in_mid_job(slurm: SlurmSite) -> None:
    """The job goes on, ends as it would have, and another agent releases it."""
    job = slurm.cluster.submit(f"#!/bin/sh\n{DIRECTIVE}echo begun\nsleep 2\necho end\nexit 6\n")
    slurm.cluster.await_running(job, says="begun")
    slurm.instance.kill_agent()
    done = slurm.cluster.wait(job)
    assert (done.exit, done.output) == ("6:0", "begun\nend\n")


def test_slurmd_is_restarted_in_mid_job(slurm: SlurmSite) -> None:
    """Neither notices the other."""
    job = slurm.cluster.submit(f"#!/bin/sh\n{DIRECTIVE}echo begun\nsleep 3\necho end\nexit 6\n")
    slurm.cluster.await_running(job, says="begun")
    slurm.cluster.stop("slurmd")
    slurm.cluster.start("slurmd")
    done = slurm.cluster.wait(job)
    assert (done.exit, done.output) == ("6:0", "begun\nend\n")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("#DOCKER --privileged busybox", "script:2:9: --privileged is not available"),
        ("#Docker busybox", "script:2:1:"),
        ("#DOCKER pbsdock-test/no-such-image:1 --pull never", "pbsdock-test/no-such-image:1"),
        (f"#DOCKER -e A=$PBS_JOBID {IMAGE}", "PBS_JOBID"),
    ],
)
def test_a_users_mistake_is_told(slurm: SlurmSite, line: str, says: str) -> None:
    """In a sentence, with 125; the node is none the worse, which the fixture looks at."""
    done = slurm.cluster.run(f"#!/bin/sh\n{line}\necho never\n")
    assert (done.state, done.exit) == ("FAILED", "125:0")
    assert says in done.output
    assert "never\n" not in done.output


def test_sbatch_tells_a_mistake_where_a_site_wants_that(slurm: SlurmSite) -> None:
    """By the job_submit plugin, in the same words; what is right, or bare, is let pass."""
    cluster = slurm.cluster
    cluster.lua.write_text((slurm.instance.home / "hooks/slurm/job_submit.lua").read_text())
    try:
        done = cluster.try_to_submit("#!/bin/sh\n#DOCKER --privileged busybox\n")
        assert done.returncode == 1
        assert "sbatch: error: pbsdock: script:2:9: --privileged is not available" in done.stderr
        assert cluster.run(f"#!/bin/sh\n{DIRECTIVE}exit 3\n").exit == "3:0"
        assert cluster.run("#!/bin/sh\nexit 4\n").exit == "4:0"
    finally:
        cluster.lua.write_text(LUA)


def test_a_fault_that_may_pass_queues_the_job_again(slurm: SlurmSite) -> None:
    """An admin has told the agent to take no container jobs; Slurm's own state of the node is not touched by that job."""
    assert slurm.instance.command("drain", "--reason", "mending").returncode == 0
    try:
        job = slurm.cluster.submit(SLEEP)
        wait_until("it is queued again", lambda: slurm.cluster.show(job)["Restarts"] == "1")
        shown = slurm.cluster.show(job)
        assert (shown["JobState"], shown["Reason"]) == ("PENDING", "BeginTime")
        assert "DRAIN" not in slurm.cluster.node_state()[0]
    finally:
        slurm.instance.command("undrain")
    slurm.cluster.call("scancel", job)


def test_the_health_check_drains_and_resumes_what_it_drained(slurm: SlurmSite) -> None:
    """With a reason of pbsdock's; what somebody else has drained stays so."""
    check = [str(slurm.instance.root / "opt/pbsdock/hooks/slurm/health-check")]
    slurm.instance.command("drain", "--reason", "mending")
    slurm.cluster.call(*check)
    state, reason = slurm.cluster.node_state()
    assert "DRAIN" in state
    assert reason.startswith("pbsdock: ")
    assert "mending" in reason
    slurm.instance.command("undrain")
    slurm.cluster.call(*check)
    assert "DRAIN" not in slurm.cluster.node_state()[0]

    slurm.cluster.call("scontrol", "update", f"NodeName={NODE}", "State=DRAIN", "Reason=a fan")
    slurm.instance.command("drain", "--reason", "mending")
    slurm.cluster.call(*check)
    slurm.instance.command("undrain")
    slurm.cluster.call(*check)
    assert slurm.cluster.node_state()[1] == "a fan"
    slurm.cluster.call("scontrol", "update", f"NodeName={NODE}", "State=RESUME")


def test_a_bare_script_is_unchanged(slurm: SlurmSite) -> None:
    """Byte for byte on its node; nothing of pbsdock's is in its environment, and a late #DOCKER line is told."""
    script = "#!/bin/sh\ncat $0; env | grep -c ^PBSDOCK\n: #DOCKER\n"
    assert slurm.cluster.run(script).output == f"{script}0\n"
    late = f"#!/bin/sh\ncat $0\n{DIRECTIVE}exit 4\n"
    done = slurm.cluster.run(late)
    assert done.exit == "4:0"
    assert late in done.output
    assert "line 3: a #DOCKER line after the script's first command is no directive" in done.output


def test_an_image_by_a_variable(slurm: SlurmSite) -> None:
    """As with qsub -v PBSDOCK."""
    done = slurm.cluster.run("#!/bin/sh\ntest -e /etc/debian_version || echo image\n", "--export=ALL", PBSDOCK=IMAGE)
    assert done.output == "image\n"


def _ask(site: SlurmSite, job: str, user: str) -> wire.Message:
    """A start of *job*, asked for by a process of *user* that is in no job."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        entry = pwd.getpwnam(user)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        link = Link(str(site.instance.run_dir / "agent.sock"), 30.0)
        link.send(wire.Message("start", job=job, argv=[b"/bin/true"], env=[], cwd=b"/", umask=18))
        while (message := link.recv()[0]).op in ("waiting", "notice"):
            pass
        os.write(writing, f"{message.op} {message.text('code')} {message.text('sentence')}".encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as answer:
        op, code, sentence = answer.read().split(" ", 2)
    return wire.Message(op, code=code, sentence=sentence)


def test_who_is_not_in_the_job_starts_nothing(slurm: SlurmSite) -> None:
    """The kernel tells which job a process is in: neither another user, nor the owner from outside of the job."""
    job = slurm.cluster.submit("#!/bin/sh\necho begun\nsleep 300\n#DOCKER\n")
    slurm.cluster.await_running(job, says="begun")
    assert _ask(slurm, job, USERS[1]).text("code") == "not-your-job"
    path = Path(slurm.cluster.spool / f"job{int(job):05d}/slurm_script")
    path.write_text(f"#!/bin/sh\n{DIRECTIVE}")
    outside = _ask(slurm, job, USERS[0])
    assert outside.op in ("refused", "fault")
    assert outside.text("code") == "not-in-step"
    assert not [event for event in slurm.instance.events(job) if event["event"] == "job.started"]
    slurm.cluster.call("scancel", job)
    slurm.cluster.wait(job)
