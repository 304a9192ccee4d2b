"""A real Slurm of a test run's own: munged, slurmctld and slurmd as plain processes, and an instance of pbsdock in it.

Debian's packages (tests/setup.sh). Its cgroups are the host's, below ``slurm_NODE`` in the hierarchies of version 1.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import IMAGE, USERS, Instance, install, wait_until
from tests.support.munge import Munged
from tests.support.ports import free_port

SYSFS = Path("/sys/fs/cgroup")
HOST = socket.gethostname().split(".")[0]
NODE = f"test{os.getpid()}"  # of this run alone: its cgroups are called by it
_TOOLS = ("slurmctld", "slurmd", "sbatch", "scontrol")
_SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
OVER = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
needs_slurm = pytest.mark.skipif(
    os.geteuid() != 0
    or not all(shutil.which(tool, path=_SEARCH) for tool in _TOOLS)
    or (SYSFS / "cgroup.controllers").exists(),
    reason="needs root, Debian's slurm (tests/setup.sh) and cgroup version 1",
)

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={top}/munge/socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation={top}/state
SlurmdSpoolDir={top}/spool{each}
SlurmctldPidFile={top}/slurmctld.pid
SlurmdPidFile={top}/slurmd{each}.pid
SlurmctldLogFile={top}/slurmctld.log
SlurmdLogFile={top}/slurmd{each}.log
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
JobAcctGatherFrequency=task=1
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
JobSubmitPlugins=lua
KillWait=2
TmpFS={top}/tmp{each}
ReturnToService=2
DefMemPerCPU=64
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:16
"""
_CGROUP = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainCores=yes
ConstrainRAMSpace=yes
"""


# Which lets all pass; the controller reads it anew once it has changed.
LUA = """\
function slurm_job_submit(job_desc, part_list, submit_uid)
  return slurm.SUCCESS
end
function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
  return slurm.SUCCESS
end
return slurm.SUCCESS
"""


@dataclass(frozen=True)
class Done:
    """A job that is over, as the controller shows it; ``exit`` is CODE:SIGNAL."""

    id: str
    state: str
    exit: str
    reason: str
    output: str
    restarts: int = 0


@dataclass
class Cluster:
    """One controller, and one node or several on this host."""

    top: Path
    munged: Munged
    nodes: tuple[str, ...] = (NODE,)
    jobs: list[str] = field(default_factory=list)
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """slurm.conf."""
        return self.top / "slurm.conf"

    @property
    def lua(self) -> Path:
        """job_submit.lua."""
        return self.top / "job_submit.lua"

    @property
    def spool(self) -> Path:
        """SlurmdSpoolDir."""
        return self.top / "spool"

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need."""
        return {"SLURM_CONF": str(self.conf), "PATH": _SEARCH, "LC_ALL": "C", "SLURMD_NODENAME": self.nodes[0]}

    def start(self, name: str) -> None:
        """Start ``slurmctld`` or ``slurmd``, or ``slurmd`` of another than the first node as "slurmd NODE"."""
        program, _, node = name.partition(" ")
        path = shutil.which(program, path=_SEARCH)
        assert path is not None
        self._daemons[name] = subprocess.Popen(
            [path, "-D", "-f", str(self.conf), *(["-N", node or self.nodes[0]] if program == "slurmd" else [])],
            env={"PATH": _SEARCH, "SLURM_CONF": str(self.conf)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End it."""
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(10)

    def call(self, *words: str, check: bool = True) -> str:
        """What one of Slurm's commands prints, as root."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=60, check=False, errors="replace"
        )
        assert not check or done.returncode == 0, (words, done.stderr)
        return done.stdout

    def submit(
        self, script: str, *options: str, user: str = USERS[0], arguments: tuple[str, ...] = (), **variables: str
    ) -> str:
        """Have a user submit a script; returns the job's number."""
        done = self.try_to_submit(script, *options, user=user, arguments=arguments, **variables)
        assert done.returncode == 0, done.stderr
        number = done.stdout.strip()
        self.jobs.append(number)
        return number

    def try_to_submit(
        self, script: str, *options: str, user: str = USERS[0], arguments: tuple[str, ...] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """The same, which sbatch may refuse."""
        path = self.top / f"script-{len(self.jobs)}"
        path.write_text(script)
        path.chmod(0o644)
        words = ["sbatch", "--parsable", "-o", str(self.output("%j", user)), *options, str(path), *arguments]
        return self.launch(*words, user=user, **variables)

    def launch(
        self, *words: str, user: str = USERS[0], seconds: float = 60.0, stdin: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Have a user run ``sbatch``, ``srun`` or ``salloc`` in the foreground."""
        entry = pwd.getpwnam(user)
        return subprocess.run(
            words,
            env={**self.environment, "HOME": entry.pw_dir, "USER": user, "LOGNAME": user, **variables},
            cwd=entry.pw_dir,
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=os.getgrouplist(user, entry.pw_gid),
            umask=0o022,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def output(self, job: str, user: str = USERS[0]) -> Path:
        """Where a job writes to: a name of this run's alone, since other runs use the same homes."""
        return Path(pwd.getpwnam(user).pw_dir) / f"{NODE}-{self.top.name}-{job}.out"

    def show(self, job: str) -> dict[str, str]:
        """What the controller says of a job."""
        said = self.call("scontrol", "show", "job", job)
        found = dict(re.findall(r"(\w+)=(\S*)", said))
        assert isinstance(found, dict)
        return found

    def state(self, job: str) -> str:
        """Its state."""
        return self.show(job)["JobState"]

    def await_running(self, job: str, user: str = USERS[0], says: str = "") -> None:
        """Wait until its script runs, and *says* something in its output."""
        path = self.output(job, user)
        wait_until(f"job {job} runs", lambda: self.state(job) == "RUNNING" or path.exists())
        wait_until(f"job {job} says {says!r}", lambda: path.exists() and says in path.read_text(errors="replace"))

    def wait(self, job: str, user: str = USERS[0], seconds: float = 60.0) -> Done:
        """Wait for a job's end, and that of its Epilog."""
        path = self.output(job, user)
        try:
            wait_until(f"job {job} ends", lambda: self.state(job) in OVER, seconds)
        except AssertionError as error:
            said = path.read_text(errors="replace") if path.exists() else "nothing"
            logs = [path.read_text(errors="replace").splitlines()[-8:] for path in sorted(self.top.glob("slurmd*.log"))]
            raise AssertionError(f"{error}; it says {said!r}, and slurmd {logs}; it is {self.show(job)}") from None
        wait_until(f"job {job} has left the node", lambda: not self.cgroups(job))
        shown = self.show(job)
        output = path.read_text(errors="replace") if path.exists() else ""
        return Done(job, shown["JobState"], shown["ExitCode"], shown["Reason"], output, int(shown["Restarts"]))

    def run(self, script: str, *options: str, **named: Any) -> Done:
        """Run a job to its end."""
        return self.wait(self.submit(script, *options, **named), user=named.get("user", USERS[0]))

    def cgroups(self, job: str = "*") -> list[Path]:
        """The cgroups of a job, or of all."""
        return sorted(path for node in self.nodes for path in SYSFS.glob(f"*/slurm_{node}/uid_*/job_{job}"))

    def node_state(self) -> tuple[str, str]:
        """State and reason of the node."""
        said = self.call("scontrol", "show", "node", *self.nodes[:1])
        state, reason = re.search(r"State=(\S+)", said), re.search(r"Reason=(.*)", said)
        return state[1] if state else "", reason[1].rpartition(" [")[0] if reason else ""


@dataclass
class SlurmSite:
    """A cluster whose node has pbsdock."""

    cluster: Cluster
    instance: Instance
    beside: set[str] = field(default_factory=set)  # jobs that run beside the others

    def left(self) -> list[str]:
        """What of any job but those beside is there: pbsdock's own and the cgroups of Slurm's."""
        told = self.instance.run_dir / "slurm"
        files = [f"told {path.name}" for path in told.iterdir()] if told.is_dir() else []
        found = [*self.instance.present(), *files, *map(str, self.cluster.cgroups())]
        beside = re.compile(rf"(?<![0-9a-z])({'|'.join(self.beside) or 'none'})(?![0-9a-z])")
        return [line for line in found if not beside.search(line)]


def begin(top: Path, nodes: tuple[str, ...] = (NODE,)) -> Cluster:
    """Start a controller and these nodes of this host."""
    is_one = len(nodes) == 1
    for place in ["tmp"] if is_one else [f"tmp.{node}" for node in nodes]:
        (top / place).mkdir(parents=True)
        (top / place).chmod(0o1777)
    for name in ("state", *(["spool"] if is_one else [f"spool.{node}" for node in nodes])):
        (top / name).mkdir(mode=0o755, parents=True)
    cluster = Cluster(top, Munged(top / "munge"), nodes)
    ports: list[int] = []
    while len(set(ports)) < len(nodes) + 1:
        ports = [free_port() for _ in (0, *nodes)]
    cpus = max(1, len(os.sched_getaffinity(0)) // len(nodes))
    lines = [
        f"NodeName={node} NodeHostname={HOST} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=1024"
        for node, port in zip(nodes, ports[1:], strict=True)
    ]
    each = "" if is_one else ".%n"
    text = _CONF.format(host=HOST, controller=ports[0], daemon=ports[1], top=top, nodes="\n".join(lines), each=each)
    cluster.conf.write_text(text)
    (top / "cgroup.conf").write_text(_CGROUP)
    cluster.lua.write_text(LUA)
    cluster.start("slurmctld")
    for node in nodes:
        cluster.start("slurmd" if node == nodes[0] else f"slurmd {node}")
    _await_idle(cluster)
    return cluster


def _await_idle(cluster: Cluster) -> None:
    def is_idle() -> bool:
        return cluster.call("sinfo", "-h", "-N", "-o", "%T", check=False).split() == ["idle"] * len(cluster.nodes)

    wait_until("the nodes are idle", is_idle)


def end(cluster: Cluster) -> None:
    """End all of it, and remove its cgroups."""
    with suppress(AssertionError, OSError):
        cluster.call("scancel", "--quiet", *cluster.jobs, check=False)
        wait_until("no job is there", lambda: not cluster.cgroups(), 10)
    for name in list(cluster._daemons):
        cluster.stop(name)
    cluster.munged.stop()
    for top in (top for node in cluster.nodes for top in SYSFS.glob(f"*/slurm_{node}")):
        for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                path.rmdir()
        with suppress(OSError):
            top.rmdir()


@pytest.fixture(scope="session")
def slurm_cluster(scratch: Path, users: tuple[str, ...]) -> Iterator[Cluster]:
    """Slurm without pbsdock yet."""
    with ExitStack() as stack:
        cluster = begin(scratch / "slurm")
        stack.callback(end, cluster)
        yield cluster


@pytest.fixture(scope="session")
def slurm_installed(slurm_cluster: Cluster, scratch: Path, installed: Instance) -> Iterator[SlurmSite]:
    """The same with an instance of its own, as ``install.sh --slurm`` makes it."""
    yield from install_in(slurm_cluster, scratch / "slurm-root", installed)


@pytest.fixture(scope="session")
def two_slurmds(scratch: Path, users: tuple[str, ...], installed: Instance) -> Iterator[SlurmSite]:
    """A cluster of two nodes, whose slurmds are on this host and have the same agent."""
    with ExitStack() as stack:
        cluster = begin(scratch / "slurm2", (f"{NODE}a", f"{NODE}b"))
        stack.callback(end, cluster)
        yield from install_in(cluster, scratch / "slurm2-root", installed)


def install_in(slurm_cluster: Cluster, root: Path, installed: Instance) -> Iterator[SlurmSite]:
    """Install below *root* for it, as ``install.sh --slurm`` does."""
    root.mkdir()
    done = install(root, "--write-conf", slurm_conf=slurm_cluster.conf, packages=installed.home)
    assert done.returncode == 0, done.stderr
    slurm_cluster.stop("slurmctld")  # which reads PrologFlags when it starts
    slurm_cluster.start("slurmctld")
    _await_idle(slurm_cluster)
    slurm_cluster.call("scontrol", "reconfigure")
    instance = Instance(root, slurm_cluster.spool, (root / "etc/pbsdock/instance").read_text().strip())
    wait_until("slurmd has the hooks", lambda: "task-prolog" in slurm_cluster.call("scontrol", "show", "config"))
    yield SlurmSite(slurm_cluster, instance)
    instance.kill_agent()


@pytest.fixture
def slurm(slurm_installed: SlurmSite) -> Iterator[SlurmSite]:
    """The installation with nothing in it. A test must leave nothing in it, and no node drained."""
    yield from _emptied(slurm_installed)


@pytest.fixture
def slurm_pair(two_slurmds: SlurmSite) -> Iterator[SlurmSite]:
    """The same with two slurmds."""
    yield from _emptied(two_slurmds)


def _emptied(slurm_installed: SlurmSite) -> Iterator[SlurmSite]:
    good = slurm_installed.instance.config.read_text()
    yield slurm_installed
    cluster = slurm_installed.cluster
    try:
        if slurm_installed.instance.config.read_text() != good:
            slurm_installed.instance.configure(good)
        try:
            wait_until("nothing is left", lambda: not slurm_installed.left(), 20)
        except AssertionError as error:
            raise AssertionError(f"{error}: {slurm_installed.left()}") from None
        assert "DRAIN" not in cluster.node_state()[0], cluster.node_state()
    finally:
        live = [
            job for job in cluster.jobs[-8:] if job not in slurm_installed.beside and cluster.state(job) not in OVER
        ]
        if live:
            cluster.call("scancel", *live, check=False)
        cluster.call("scontrol", "update", f"NodeName={','.join(cluster.nodes)}", "State=RESUME", check=False)
        time.sleep(0.05)


@pytest.fixture(scope="session")
def beside(slurm_installed: SlurmSite) -> Iterator[tuple[str, str]]:
    """Jobs that take their time, run beside the others and are waited for last: one has a minute, and ignores being told; the
    other is queued again, which Slurm does two minutes later."""
    cluster = slurm_installed.cluster
    ignores = f"#!/bin/sh\n#DOCKER {IMAGE}\ntrap 'echo told' TERM\necho begun\nwhile :; do sleep 0.2; done\n"
    again = f'#!/bin/sh\n#DOCKER {IMAGE}\necho run $SLURM_RESTART_COUNT\n[ -n "$SLURM_RESTART_COUNT" ] || sleep 300\n'
    jobs = cluster.submit(ignores, "-t", "1"), cluster.submit(again)
    slurm_installed.beside.update(jobs)
    cluster.await_running(jobs[1], says="run")
    cluster.call("scontrol", "requeue", jobs[1])
    yield jobs
    cluster.call("scancel", *jobs, check=False)
