"""A real Slurm of two hosts: this one, and an emulated one with a slurmd, an agent and an engine of its own.

slurmctld is on this host; the other's slurmd is reached by the emulated network, under a name of its own, and has its own spool
directory and its own name below the cgroups, which are the kernel's and so in sight of both. Both share munge's key, and
nothing of pbsdock's but a key of the cluster.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pbsdock.cluster.signing import KEY_FILE
from pbsdock.core.paths import load
from pbsdock.trial import cluster as emulated
from pbsdock.trial.namespaces import ensure_agent
from pbsdock.trial.process import Process, Spec
from tests.conftest import HOST_IMAGE, IMAGE, Instance, wait_until
from tests.support.cluster import SisterInstance
from tests.support.ports import free_port
from tests.support.slurm import HOST, Cluster, SlurmSite, begin, end, install_in

OTHER = "zz2"  # Slurm sorts nodes by name, and the first has the script
_SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class SlurmHosts:
    """Both hosts: ``site`` is the first, with the controller; ``other`` the second's instance."""

    site: SlurmSite
    other: SisterInstance
    slurmd: Process

    @property
    def cluster(self) -> Cluster:
        """The controller, and both nodes."""
        return self.site.cluster

    @property
    def instances(self) -> tuple[Instance, Instance]:
        """The first host's, and the second's."""
        return self.site.instance, self.other

    def restart_agents(self) -> None:
        """And wait until both can ask each other."""
        for instance in self.instances:
            instance.kill_agent()
            (instance.run_dir / "asks-nodes").unlink(missing_ok=True)
        subprocess.run(ensure_agent(self.other.paths), check=True, capture_output=True)
        self.other.start_agent()
        for instance in self.instances:
            wait_until("the agent listens", (instance.run_dir / "asks-nodes").exists)

    def events(self, instance: Instance, event: str, job: str) -> list[dict[str, Any]]:
        """A host's events of that name and job."""
        return [line for line in instance.events(job) if line["event"] == event]

    def one(self, instance: Instance, event: str, job: str) -> dict[str, Any]:
        """The one of that name and job, which may come a moment after the job."""
        wait_until(f"{event} of job {job}", lambda: bool(self.events(instance, event, job)), 20)
        (found,) = self.events(instance, event, job)
        return found

    def left(self) -> list[str]:
        """What of any job is on either host."""
        told = self.other.run_dir / "slurm"
        files = [f"told {path.name}" for path in told.iterdir()] if told.is_dir() else []
        return [*self.site.left(), *(f"{OTHER}: {line}" for line in [*self.other.present(), *files])]

    def states(self) -> list[str]:
        """Of the nodes."""
        return self.cluster.call("sinfo", "-h", "-N", "-o", "%T").split()


def _two_addresses(text: str, first: str, second: str, port: int) -> str:
    """slurm.conf of both hosts, of that of the first alone."""
    text = re.sub(r"^SlurmctldHost=.*$", f"SlurmctldHost={HOST}({first})", text, flags=re.MULTILINE)
    text = text.replace("/slurmd.pid", "/slurmd.%n.pid").replace("/slurmd.log", "/slurmd.%n.log")
    text = re.sub(r"^(TmpFS=.*)$", r"\1.%n", text, flags=re.MULTILINE)  # PMIx's, where both see the same directory
    text = text.replace("NodeAddr=127.0.0.1", f"NodeAddr={first}")
    line = f"NodeName={OTHER} NodeHostname={OTHER} NodeAddr={second} Port={port} CPUs=2 RealMemory=1024\n"
    return text.replace("PartitionName=", f"{line}PartitionName=", 1)


@pytest.fixture(scope="module")
def two_hosts(scratch: Path, users: tuple[str, ...], installed: Instance) -> Iterator[SlurmHosts]:
    """Both, brought up once for a module."""
    with ExitStack() as stack:
        cluster = begin(scratch / "slurm-hosts", (HOST,))
        stack.callback(end, cluster)
        for site in install_in(cluster, scratch / "slurm-hosts-root", installed):
            yield from _beside(site, stack)


def _beside(site: SlurmSite, stack: ExitStack) -> Iterator[SlurmHosts]:
    cluster, instance = site.cluster, site.instance
    key = instance.config.with_name(KEY_FILE)
    key.write_text(f"{secrets.token_hex(32)}\n")
    key.chmod(0o600)
    instance.configure(instance.config.read_text().replace("\n[nodes]\n", f"\n[nodes]\nport = {free_port()}\n"))
    paths = load(instance.home / "paths.json")
    instance.kill_agent()  # the key is read at the start
    subprocess.run(ensure_agent(paths), check=True, capture_output=True)
    nodes = stack.enter_context(emulated.Cluster(paths, [OTHER]))
    (node,) = nodes.nodes
    first = f"{node.address.rpartition('.')[0]}.1"
    for name in ("slurmd", "slurmctld"):
        cluster.stop(name)
    cluster.conf.write_text(_two_addresses(cluster.conf.read_text(), first, node.address, free_port()))
    cluster.nodes = (HOST, OTHER)
    for name in cluster.nodes:
        place = cluster.top / f"tmp.{name}"
        place.mkdir()
        place.chmod(0o1777)
    for name in ("slurmctld", "slurmd"):
        cluster.start(name)
    program = shutil.which("slurmd", path=_SEARCH)
    assert program is not None
    with open(cluster.top / "slurmd.out", "ab") as log:
        slurmd = node.spawn(
            Spec(
                program=program,
                argv=[program, "-D", "-f", str(cluster.conf), "-N", OTHER],
                env={"PATH": _SEARCH, "SLURM_CONF": str(cluster.conf)},
                cwd="/",
                umask=0o022,
                uid=0,
                gid=0,
                groups=(0,),
                fds={1: log.fileno(), 2: log.fileno()},
            )
        )
    hosts = SlurmHosts(site, SisterInstance(instance, paths, node), slurmd)
    stack.callback(slurmd.send_signal, 15)
    for image in (IMAGE, HOST_IMAGE):
        nodes.copy_image(image)
    wait_until("both nodes are idle", lambda: hosts.states() == ["idle", "idle"], 30)
    yield hosts


@pytest.fixture
def slurm_hosts(two_hosts: SlurmHosts) -> Iterator[SlurmHosts]:
    """Both with nothing on them. A test must leave nothing there, and no node drained."""
    good = [instance.config.read_text() for instance in two_hosts.instances]
    yield two_hosts
    cluster = two_hosts.cluster
    try:
        try:
            wait_until("nothing is left", lambda: not two_hosts.left(), 20)
        except AssertionError as error:
            raise AssertionError(f"{error}: {two_hosts.left()}") from None
        assert two_hosts.states() == ["idle", "idle"], cluster.call("scontrol", "show", "node")
    finally:
        if live := cluster.call("squeue", "-h", "-o", "%A", check=False).split():
            cluster.call("scancel", *live, check=False)
        cluster.call("scontrol", "update", f"NodeName={HOST},{OTHER}", "State=RESUME", check=False)
        if [instance.config.read_text() for instance in two_hosts.instances] != good:
            for instance, text in zip(two_hosts.instances, good, strict=True):
                instance.config.write_text(text)
            two_hosts.restart_agents()
