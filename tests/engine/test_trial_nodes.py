"""Emulated nodes: order and conditions of hooks as real moms had them, TM, and what a sister has of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pbsdock.rm.torque import parse_jb
from pbsdock.trial.launcher import in_session
from tests.conftest import IMAGE, USERS, wait_until
from tests.support.cluster import TwoNodes
from tests.support.registry import registry

_PROBE = """#!/bin/sh
exec >>{log}/{name}
echo "at $(date +%s%N)"
for argument; do echo "argv $argument"; done
env | sed 's/^/env /'
echo "umask $(umask) cwd $(pwd) host $(hostname) groups $(id -G)"
sed -n 's/^Sig\\(...\\):[^0-9a-f]*/signals \\1 /p' /proc/$$/status
ls {mom_priv}/jobs | sed 's/^/jobs /'
exit {status}
"""


class Probes:
    """The site's own hooks, on both nodes, that write down what they see."""

    def __init__(self, cluster: TwoNodes, log: Path, stack: ExitStack) -> None:
        self.cluster, self.log, self.stack = cluster, log, stack
        self.mom_priv = cluster.mother.instance.mom_priv

    def put(self, hook: str, node: int, status: int = 0) -> None:
        """Put one for *hook* on a node, to exit with *status*."""
        directory = self.cluster.nodes[node].instance.mom_priv / f"site-{hook}.d"
        directory.mkdir(exist_ok=True)
        probe = directory / "probe"
        text = _PROBE.format(log=self.log, name=f"{hook}.{node}", status=status, mom_priv=self.mom_priv)
        probe.write_text(text)
        probe.chmod(0o755)
        self.stack.callback(probe.unlink)

    def seen(self, kind: str, hook: str, node: int) -> list[str]:
        """What it saw: the texts of one kind."""
        path = self.log / f"{hook}.{node}"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == kind]

    def ran(self, hook: str, node: int) -> list[int]:
        """When it ran, in nanoseconds."""
        return [int(text) for text in self.seen("at", hook, node)]

    def masks(self, hook: str, node: int) -> dict[str, int]:
        """Its signal masks, Blk and Ign."""
        return {name: int(mask, 16) for name, mask in (text.split() for text in self.seen("signals", hook, node))}

    def environment(self, hook: str, node: int) -> dict[str, str]:
        """What it found of Torque's and the user's variables."""
        pairs = dict(text.partition("=")[::2] for text in self.seen("env", hook, node))
        return {name: value for name, value in pairs.items() if name.startswith(("PBS_", "MINE"))}


@pytest.fixture
def probes(cluster: TwoNodes, scratch: Path) -> Iterator[Probes]:
    """None yet."""
    log = scratch / "probes"
    log.mkdir()
    log.chmod(0o777)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, log)
        yield Probes(cluster, log, stack)


def _in_mask(number: int) -> int:
    return 1 << (number - 1)


def test_order_of_hooks(cluster: TwoNodes, probes: Probes) -> None:
    """The sister's prologue comes first and its epilogue before the mother's; neither node runs the other's hooks."""
    for node in (0, 1):
        for hook in ("prologue", "epilogue", "prologue.parallel", "epilogue.parallel"):
            probes.put(hook, node)

    done = cluster.run(f"date +'at %s%N' >{probes.log}/job.0\n")

    assert done.exit_status == 0, done.stderr
    order = [
        probes.ran("prologue.parallel", 1),
        probes.ran("prologue", 0),
        probes.ran("job", 0),
        probes.ran("epilogue.parallel", 1),
        probes.ran("epilogue", 0),
    ]
    assert [len(times) for times in order] == [1, 1, 1, 1, 1]
    assert order == sorted(order)
    assert [probes.ran(hook, 0) for hook in ("prologue.parallel", "epilogue.parallel")] == [[], []]
    assert [probes.ran(hook, 1) for hook in ("prologue", "epilogue")] == [[], []]


def test_a_job_of_one_node(cluster: TwoNodes, probes: Probes) -> None:
    """A sister has no part in it."""
    probes.put("prologue.parallel", 1)

    done = cluster.run("pbsdsh -o hostname\n", resources="nodes=1:ppn=2")

    assert (done.exit_status, done.stdout) == (0, f"{cluster.mother.name}\n".encode() * 2)
    assert probes.ran("prologue.parallel", 1) == []


def test_what_a_sisters_prologue_gets(cluster: TwoNodes, probes: Probes) -> None:
    """Arguments, environment, umask, groups, directory and signals as a real mom's; there is no .JB yet."""
    probes.put("prologue.parallel", 1)
    job = cluster.begin("true\n", variables={"MINE": "x"})
    assert job.result().exit_status == 0

    hook = ("prologue.parallel", 1)
    argv = probes.seen("argv", *hook)
    assert argv[:2] == [job.job_id, USERS[0]]
    assert argv[4:] == ["nodes=2:ppn=2,neednodes=2:ppn=2", "batch", "", str(job.script_path)]
    assert probes.environment(*hook) == {
        "PBS_MSHOST": cluster.mother.name,
        "PBS_NODENUM": "1",
        "PBS_NP": "4",
        "PBS_NUM_NODES": "2",
        "PBS_NUM_PPN": "2",
        "PBS_O_WORKDIR": pwd.getpwnam(USERS[0]).pw_dir,
        "PBS_RESOURCE_NODES": "2:ppn=2",
    }
    assert probes.seen("umask", *hook) == [f"0022 cwd {probes.mom_priv} host n2 groups 0"]
    assert probes.seen("jobs", *hook) == []
    assert probes.masks(*hook)["Ign"] & _in_mask(signal.SIGPIPE)


def test_what_a_sisters_epilogue_gets(cluster: TwoNodes, probes: Probes) -> None:
    """Neither session nor exit status, the user's groups, and .JB and .TK are there."""
    probes.put("epilogue.parallel", 1)
    job = cluster.begin("exit 3\n")
    assert job.result().exit_status == 3

    hook = ("epilogue.parallel", 1)
    argv = probes.seen("argv", *hook)
    assert (argv[4], argv[9], argv[10]) == ("0", "0", str(job.script_path))
    (line,) = probes.seen("umask", *hook)
    where, _, groups = line.partition(" groups ")
    assert where == f"0022 cwd {probes.mom_priv} host n2"
    assert {int(group) for group in groups.split()} == {0, *job.groups}
    assert probes.seen("jobs", *hook) == [job.job_file.name, job.spool.task_file.name]


@pytest.mark.parametrize(
    ("hook", "opened", "blocked"),
    [
        ("prologue.parallel", ["/dev/null", "/dev/null", "/dev/null"], 0),
        ("epilogue.parallel", ["/dev/null", "", ""], sum(_in_mask(n) for n in (1, 2, 15))),
    ],
)
def test_how_a_sisters_hook_starts(
    cluster: TwoNodes, probes: Probes, hook: str, opened: list[str], blocked: int
) -> None:
    """A prologue has /dev/null three times; in an epilogue stdout and stderr are closed and HUP, INT, TERM blocked."""
    path = cluster.sister.instance.mom_priv / hook
    ours, program = path.read_bytes(), probes.log / "how"
    # A program that opens nothing before it looks, and no shell: dash has no signal blocked.
    code = """#include <stdio.h>
#include <unistd.h>
int main(void) { char to[3][99] = {"", "", ""}, from[] = "/proc/self/fd/0", line[199]; FILE *log, *status;
  for (int fd = 0; fd < 3; fd++, from[14]++) if (readlink(from, to[fd], 98) < 0) to[fd][0] = 0;
  log = fopen("%s", "w"), status = fopen("/proc/self/status", "r");
  while (fgets(line, 199, status)) if (sscanf(line, "SigBlk: %%s", line) == 1) fprintf(log, "%%s\\n", line);
  fprintf(log, "%%s\\n%%s\\n%%s\\n", to[0], to[1], to[2]); return 0; }
""" % (probes.log / "said")
    (probes.log / "how.c").write_text(code)
    subprocess.run(["cc", "-o", program, probes.log / "how.c"], check=True)
    path.write_bytes(program.read_bytes())
    try:
        done = cluster.run("true\n")
    finally:
        path.write_bytes(ours)

    assert done.exit_status == 0
    mask, *found = (probes.log / "said").read_text().splitlines()
    assert (int(mask, 16), found) == (blocked, opened)


def test_uneven_request(cluster: TwoNodes, probes: Probes) -> None:
    """The number of nodes and slots that mom tells is wrong; exec_host and the node file are right."""
    probes.put("prologue.parallel", 1)
    mother = cluster.mother.name
    job = cluster.begin("cat $PBS_NODEFILE; sleep 1\n", resources=f"nodes={mother}:ppn=1+n2:ppn=3")
    record = parse_jb(job.sisters[0].job_file.read_bytes())
    done = job.result()

    assert done.stdout.decode().split() == [mother, "n2", "n2", "n2"]
    env = probes.environment("prologue.parallel", 1)
    assert (env["PBS_NUM_NODES"], env["PBS_NUM_PPN"], env["PBS_NP"]) == ("0", "1", "4")
    assert record.exec_host == f"{mother}/0+n2/0-2"
    assert record.job_id == job.job.id
    assert record.node_id == 1


def test_records_of_both_nodes(cluster: TwoNodes) -> None:
    """The mother's .JB is there in its prologue and has a session; the sister's has none, and says which node it is."""
    job = cluster.begin("sleep 60\n", variables={"MINE": "x"})
    mothers, sisters = job.job_file.read_text(), job.sisters[0].job_file.read_text()
    there = sorted(path.name for path in job.sisters[0].job_file.parent.iterdir())
    job.qdel()
    done = job.result()

    assert "<nodeid>0</nodeid>" in mothers
    assert f">{job.leader_pid}</session_id>" in mothers
    assert "<nodeid>1</nodeid>" in sisters
    assert "session_id" not in sisters
    for part in (f">{job.job.cookie}</cookie>", "MINE=x", '<nodes flags="3">2:ppn=2</nodes>', f"{USERS[0]}@"):
        assert part in sisters
    assert there == [job.job_file.name, job.spool.task_file.name]  # no script
    assert done.exit_status == 271
    assert not any(job.sisters[0].job_file.parent.iterdir())


def test_a_sister_that_refuses(cluster: TwoNodes, probes: Probes) -> None:
    """Its prologue's failure queues the job again: the mother's prologue never runs, her epilogue each time."""
    probes.put("prologue.parallel", 1, status=1)
    for hook, node in (("prologue", 0), ("epilogue", 0), ("epilogue.parallel", 1)):
        probes.put(hook, node)

    done = cluster.run("true\n", requeue_limit=2)

    assert (done.exit_status, done.started) == (-3, 2)
    ran = {(hook, node): len(probes.ran(hook, node)) for hook, node in (("prologue", 0), ("epilogue", 0))}
    assert ran == {("prologue", 0): 0, ("epilogue", 0): 2}
    assert len(probes.ran("prologue.parallel", 1)) == 2
    assert probes.ran("epilogue.parallel", 1) == []


def test_a_sister_in_its_hook_answers_nobody(cluster: TwoNodes, probes: Probes) -> None:
    """Mom runs it in her own process: no other job's task starts on that node meanwhile."""
    first = cluster.begin("sleep 60\n")
    probes.put("prologue.parallel", 1)
    hook = cluster.sister.instance.mom_priv / "site-prologue.parallel.d/probe"
    hook.write_text(hook.read_text().replace("exit 0", "sleep 1"))
    second = threading.Thread(target=cluster.run, args=("true\n",))
    second.start()
    wait_until("the hook runs", lambda: bool(probes.seen("signals", "prologue.parallel", 1)))

    began = time.monotonic()
    status = first.tm_spawn(["/bin/true"], slot=2).wait(20)
    waited = time.monotonic() - began
    second.join(20)

    assert status == 0
    assert waited > 0.5


# -- TM ---------------------------------------------------------------------------------------------------------------


def test_bare_job_over_two_nodes(cluster: TwoNodes) -> None:
    """A task on each slot, as the user, on its own node; output of all is the job's, and pbsdsh ends with 0."""
    done = cluster.run("pbsdsh sh -c 'echo $(hostname) $(id -un) $PBS_VNODENUM $PBS_NODENUM; exit 7'; exit $?\n")

    assert done.exit_status == 0
    mother, user = cluster.mother.name, USERS[0]
    assert sorted(done.stdout.decode().splitlines()) == sorted(
        [f"{mother} {user} 0 0", f"{mother} {user} 1 0", f"n2 {user} 2 1", f"n2 {user} 3 1"]
    )
    assert sorted(done.stderr.decode().splitlines()) == [f"pbsdsh(): task {n} exit status 7" for n in range(4)]


def test_environment_of_a_sisters_task(cluster: TwoNodes) -> None:
    """The job's own and what -e and -E add; no node file, and mom's PATH and PBS_VNODENUM win."""
    script = """env >~/here
pbsdsh -n 2 -o env >~/there
PATH=/usr/bin:/bin:$PATH X=1 PBS_VNODENUM=9 PBS_TASKNUM=1 pbsdsh -n 2 -o -E env >~/all
X=1 pbsdsh -n 2 -o -e X,Y=2,Z env >~/some
"""
    done = cluster.run(script, variables={"MINE": "a b"})
    assert (done.exit_status, done.stderr) == (0, b"")
    home = Path(pwd.getpwnam(USERS[0]).pw_dir)
    here, there, everything, some = (
        dict(line.partition("=")[::2] for line in (home / name).read_text().splitlines())
        for name in ("here", "there", "all", "some")
    )

    assert {name for name in here if name not in there} >= {"PBS_NODEFILE", "USER", "LOGNAME", "SHELL", "PBS_NP"}
    assert there["MINE"] == "a b"
    assert there["PBS_JOBCOOKIE"] == here["PBS_JOBCOOKIE"]
    assert (there["PBS_NODENUM"], there["PBS_VNODENUM"]) == ("1", "2")
    assert int(there["PBS_TASKNUM"]) > 1
    assert (everything["X"], everything["PBS_TASKNUM"], everything["PBS_VNODENUM"]) == ("1", "1", "2")
    assert everything["PATH"] == there["PATH"]
    assert (some["X"], some["Y"], some["Z"]) == ("1", "2", "")


def test_pbsdsh_options(cluster: TwoNodes) -> None:
    """-h, -u, -c and -s choose nodes; a wrong use ends with 1."""
    script = """echo h $(pbsdsh -h n2 -o hostname)
echo u $(pbsdsh -u -s -o hostname)
echo c $(pbsdsh -c 3 -s -o hostname)
echo n $(pbsdsh -n 3 -o -- hostname)
pbsdsh -h n9 true; echo $?
pbsdsh -n 4 true; echo $?
pbsdsh; echo $?
"""
    done = cluster.run(script)

    mother = cluster.mother.name
    assert done.stdout.decode().splitlines() == [
        *("h n2", f"u {mother} n2", f"c {mother} {mother} n2", "n n2"),
        *("1", "1", "1"),
    ]
    said = done.stderr.decode()
    for sentence in ("n9 not found", "only 4 nodes available", "must specify a program"):
        assert f"pbsdsh(): {sentence}" in said


@pytest.mark.parametrize(
    ("command", "status"),
    [("sh -c 'kill -9 $$'", 265), ("sh -c 'kill -15 $$'", 271), ("/no/such/program", 127)],
)
def test_exit_codes_of_tasks(cluster: TwoNodes, command: str, status: int) -> None:
    """As Torque counts them; 127 comes from the job starter."""
    done = cluster.run(f"pbsdsh -n 2 {command}\n")

    assert done.exit_status == 0
    assert f"pbsdsh(): task 2 exit status {status}" in done.stderr.decode()


def test_tm_kill(cluster: TwoNodes) -> None:
    """A pbsdsh that is told to end signals its tasks, on whatever node."""
    script = """pbsdsh -n 2 -o sh -c 'trap "echo told; exit 4" TERM; echo ready; sleep 60 & wait' >~/said &
while ! grep -qs ready ~/said; do sleep 0.1; done
kill $!; wait $!; echo $?
while ! grep -qs told ~/said; do sleep 0.1; done
"""
    done = cluster.run(script)

    assert done.stdout == b"1\n"
    assert b"killing task 2 signal 15" in done.stderr


def test_who_may_not_use_tm(cluster: TwoNodes) -> None:
    """Neither who has another cookie, nor who is no task, nor a task on a sister: nobody answers there."""
    script = """PBS_JOBCOOKIE=no pbsdsh -n 0 true; echo $?
PBS_TASKNUM=99 pbsdsh -n 0 true; echo $?
pbsdsh -n 2 sh -c 'pbsdsh -n 0 true'
"""
    done = cluster.run(script)

    assert done.stdout == b"1\n1\n"
    assert done.stderr.count(b"tm_init failed, rc = TM_ENOTCONNECTED (17002)") == 2
    assert b"tm_init failed, rc = TM_ENOTFOUND (17006)" in done.stderr


def test_descriptors_of_a_sisters_task(cluster: TwoNodes) -> None:
    """stdin is /dev/null, the outputs are connections; SIGPIPE is ignored."""
    done = cluster.run("pbsdsh -n 2 sh -c 'readlink /proc/$$/fd/0 /proc/$$/fd/1; grep SigIgn /proc/$$/status'\n")

    first, second, ignored = done.stdout.decode().splitlines()
    assert first == "/dev/null"
    assert second.startswith("socket:")
    assert int(ignored.split()[1], 16) & _in_mask(signal.SIGPIPE)


def test_pbs_demux_is_the_jobs_child(cluster: TwoNodes) -> None:
    """The job's shell has a child that it never started, in its own session; a job of one node has none."""
    wide, narrow = cluster.begin("sleep 60\n"), cluster.begin("sleep 60\n", resources="nodes=1")
    found = []
    for job in (wide, narrow):
        names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in in_session(job.leader_pid)]
        found.append("pbs_demux" in names)
        job.qdel()
        job.result()

    assert found == [True, False]


# -- the end ----------------------------------------------------------------------------------------------------------


def test_qdel_gives_a_sister_no_grace(cluster: TwoNodes, probes: Probes) -> None:
    """TERM and KILL come at once there; here TERM comes first, and a leader that survives it has no kill delay."""
    probes.put("epilogue.parallel", 1)
    script = f"""trap 'echo mother told' TERM
pbsdsh -n 2 sh -c 'trap "sleep 0.3; echo told >{probes.log}/told" TERM; echo ready >{probes.log}/ready; sleep 60 & wait; wait'
sleep 60
"""
    job = cluster.begin(script, kill_delay_s=30)
    wait_until("the task runs", (probes.log / "ready").exists)
    began = time.monotonic()
    job.qdel()
    done = job.result()

    assert done.exit_status == 271  # the leader is mom's /bin/sh, which dies of it
    assert time.monotonic() - began < 5
    assert not (probes.log / "told").exists()
    assert len(probes.ran("epilogue.parallel", 1)) == 1


def test_any_signal_ends_it(cluster: TwoNodes) -> None:
    """qsig -s USR1 ends a job of several nodes with 271, and one of one node lives on."""
    job = cluster.begin("trap : USR1; sleep 60\n")
    job.signal(signal.SIGUSR1)

    assert job.result().exit_status == 271


def test_tasks_end_with_the_job(cluster: TwoNodes) -> None:
    """What is left on a sister when the job's shell ends is killed."""
    job = cluster.begin("pbsdsh -n 2 sleep 61.5 & sleep 1\n")
    wait_until("the task runs", lambda: bool(job.sisters[0].tasks))
    (task,) = job.sisters[0].tasks

    assert os.path.exists(f"/proc/{task.pid}")
    assert job.result().exit_status == 0
    assert task.torque_status in (265, 271)


# -- what a sister has ------------------------------------------------------------------------------------------------


def test_a_node_of_its_own(cluster: TwoNodes) -> None:
    """Host name, address, names of all nodes, /tmp, /dev/shm, engine and agent are its own; homes are shared."""
    marker = Path("/tmp") / f"pbsdock-nodes-{os.getpid()}"
    marker.touch()
    try:
        done = cluster.sister.run("sh", "-c", f"hostname; getent hosts n2 {cluster.mother.name}; ls {marker}")
    finally:
        marker.unlink()
    name, own, mothers = done.stdout.splitlines()

    assert name == "n2"
    assert own.split() == [cluster.cluster.nodes[0].address, "n2"]
    assert mothers.split()[1] == cluster.mother.name
    assert cluster.mother.run("getent", "hosts", "n2").stdout.split()[0] == own.split()[0]
    assert "No such file" in done.stderr
    ids = {node.docker("info", "--format", "{{.ID}}").stdout for node in cluster.nodes}
    assert len(ids) == 2
    assert cluster.sister.docker("info", "--format", "{{.Name}}").stdout == "n2\n"
    if not cluster.mother.instance.agent_pids():
        assert cluster.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n", resources="nodes=1").exit_status == 0
    pids = [node.instance.agent_pids() for node in cluster.nodes]
    assert [len(found) for found in pids] == [2, 2]
    assert cluster.sister.agent_pid not in pids[0]
    assert cluster.sister.instance.command("ps").returncode == 0


def test_agents_end_one_by_one(cluster: TwoNodes) -> None:
    """The sister's agent is killed and started without the mother's noticing."""
    assert cluster.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n", resources="nodes=1").exit_status == 0
    before = cluster.mother.instance.agent_pids()
    cluster.sister.kill_agent()
    gone = cluster.sister.instance.agent_pids()
    cluster.sister.instance.start_agent()

    assert gone == []
    assert cluster.mother.instance.agent_pids() == before
    assert len(cluster.sister.instance.agent_pids()) == 2


def test_contained_on_the_mother(cluster: TwoNodes) -> None:
    """The script runs in the mother's container and speaks TM from inside; its image is on the sister by then."""
    home = Path(pwd.getpwnam(USERS[0]).pw_dir)
    shutil.copy(cluster.client_dir / "pbsdsh", home / "pbsdsh")
    script = f"#!/bin/sh\n#DOCKER {IMAGE}\nls /.dockerenv; hostname; ~/pbsdsh -h n2 -o /bin/sh -c 'hostname; exit 3'\n"

    done = cluster.run(script, user=USERS[0])

    assert done.exit_status == 0, done.stderr
    assert done.stdout.decode().split() == ["/.dockerenv", cluster.mother.name, "n2"]
    assert b"task 2 exit status 3" in done.stderr
    ids = [node.docker("image", "inspect", "--format", "{{.Id}}", IMAGE).stdout for node in cluster.nodes]
    assert ids[0] == ids[1] != ""


def test_contained_on_both(cluster: TwoNodes) -> None:
    """With a key of the cluster, a task that brings the job's ticket runs in a container of the sister's own engine."""
    cluster.share_key()
    home = Path(pwd.getpwnam(USERS[0]).pw_dir)
    shutil.copy(cluster.client_dir / "pbsdsh", home / "pbsdsh")
    script = f"""#!/bin/sh
#DOCKER {IMAGE}
~/pbsdsh -h n2 -o -e PBSDOCK_TICKET -- /bin/sh -c 'hostname; ls /.dockerenv; id -un; sleep 1'
"""

    job = cluster.begin(script)
    wait_until("a container is there", lambda: bool(cluster.sister.docker("ps", "-q").stdout))
    done = job.result()

    assert done.exit_status == 0, done.stderr
    assert done.stdout.decode().split() == ["n2", "/.dockerenv", USERS[0]], done.stderr
    wait_until("the container is gone", lambda: not cluster.sister.docker("ps", "-aq").stdout)


def test_containers_on_a_sister(cluster: TwoNodes) -> None:
    """A container with the host's network is in the sister's, with her host name."""
    cluster.cluster.copy_image(IMAGE)

    done = cluster.sister.docker("run", "--rm", "--network=host", IMAGE, "sh", "-c", "hostname; cat /proc/net/dev")

    assert done.stdout.startswith("n2\n"), done.stderr
    assert "eth0" in done.stdout
    assert "pbsdock-try" not in done.stdout


def test_pull_from_this_hosts_registry(cluster: TwoNodes) -> None:
    """A forwarded port leads a sister's engine to a registry on this host's loopback."""
    with registry() as address:
        image = f"{address}/sisters:1"
        cluster.mother.docker("tag", IMAGE, image)
        try:
            assert cluster.mother.docker("push", "-q", image).returncode == 0
        finally:
            cluster.mother.docker("rmi", image)
        cluster.cluster.nodes[0].forward(int(address.split(":")[1]))

        pulled = cluster.sister.docker("pull", "-q", image)

    assert pulled.returncode == 0, pulled.stderr


def test_a_second_cluster(cluster: TwoNodes) -> None:
    """Names and addresses are those of the first: it is refused, and disturbs nothing."""
    script = Path(pwd.getpwnam(USERS[0]).pw_dir) / "second.sh"
    script.write_text("true\n")

    done = cluster.mother.instance.command("try", "--user", USERS[0], "--nodes", "2", str(script))

    assert done.returncode == 2
    assert "another pbsdock try --nodes is under way on this host; wait for its end" in done.stderr
    assert cluster.run("pbsdsh -u -s -o hostname\n").stdout.split() == [cluster.mother.name.encode(), b"n2"]
