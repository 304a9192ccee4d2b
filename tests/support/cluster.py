"""A cluster of two nodes: the installation of the run as the mother, and an emulated sister n2 beside it.

``cluster.run(script)`` runs a job over both; ``cluster.nodes[0]`` is this host, ``cluster.nodes[1]`` the sister. Sisters
have the same paths: ``nodes[1].instance`` is theirs as this host can open them. An image that the job's directive names is
copied to the sister's engine from this host's; ``nodes[1].emulated.forward(port)`` leads to a registry on this host's
127.0.0.1 instead.
"""

from __future__ import annotations

import pwd
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from pbsdock.cluster.signing import KEY_FILE
from pbsdock.core.paths import Paths, load
from pbsdock.trial import Outcome
from pbsdock.trial.cluster import Cluster
from pbsdock.trial.namespaces import EmulatedNode
from pbsdock.trial.wide import WideTrial, start_on
from tests.conftest import SLOWER, USERS, Instance, wait_until
from tests.support.agents import agents, kill_agents


class SisterInstance(Instance):
    """The instance of an emulated node; its paths are those this host can open."""

    def __init__(self, mother: Instance, paths: Paths, emulated: EmulatedNode) -> None:
        super().__init__(
            emulated.path(mother.root), emulated.path(mother.mom_priv), f"{paths.instance}-{emulated.number}"
        )
        self.emulated, self.paths, self.there = emulated, paths, mother.root

    @property
    def home(self) -> Path:
        """The version in force; all nodes share it."""
        return self.paths.home

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the installed ``pbsdock`` on the node."""
        program = str(self.there / "opt/pbsdock/bin/pbsdock")
        return self.emulated.run([program, *arguments], timeout=120 * SLOWER, **options)

    def engine(self) -> docker.DockerClient:
        """A client of the node's own engine; to be closed."""
        return docker.DockerClient(base_url=f"unix://{self.emulated.path(self.emulated.engine_socket)}")

    def agent_pids(self) -> list[int]:
        """Supervisor and worker, as this host numbers them."""
        return agents(self.there, self.emulated.pid)

    def kill_agent(self) -> None:
        """Kill both, to their end."""
        kill_agents(self.there, self.emulated.pid)

    def start_agent(self) -> None:
        """Start one, as an init system would, and wait until it answers."""
        self.emulated.start_agent(self.paths)


@dataclass(kw_only=True)
class Node:
    """A node of the cluster; ``emulated`` None: this host."""

    name: str
    instance: Instance
    emulated: EmulatedNode | None = None

    @property
    def agent_pid(self) -> int:
        """The agent's worker, as this host numbers it."""
        return self.instance.agent_pids()[-1]

    def kill_agent(self) -> None:
        """Kill the agent to its end; the next hook that wants one starts another."""
        self.instance.kill_agent()

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The docker client, against the node's engine."""
        if self.emulated is not None:
            return self.emulated.docker(*arguments)
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the node, as root."""
        if self.emulated is not None:
            return self.emulated.run(argv)
        return subprocess.run(argv, capture_output=True, text=True, check=False)


@dataclass(kw_only=True)
class TwoNodes:
    """Both nodes, and what runs jobs over them."""

    cluster: Cluster
    nodes: list[Node]
    trials: list[WideTrial] = field(default_factory=list)

    @property
    def mother(self) -> Node:
        """This host."""
        return self.nodes[0]

    @property
    def sister(self) -> Node:
        """The emulated node."""
        return self.nodes[1]

    @property
    def client_dir(self) -> Path:
        """Where pbsdsh is, for ``[torque] client_dir``; first in a job's PATH too."""
        return self.cluster.client_dir

    def begin(self, script: str, resources: str = "nodes=2:ppn=2", user: str = USERS[0], **options: Any) -> WideTrial:
        """Start a job; if a prologue ended it, ``result`` has its outcome at once."""
        request = self.mother.instance.request(script, user, resources=resources, **options)
        trial = start_on(self.cluster, request)
        self.trials.append(trial)
        return trial

    def run(self, script: str, resources: str = "nodes=2:ppn=2", user: str = USERS[0], **options: Any) -> Outcome:
        """Run one job to its end."""
        return self.begin(script, resources, user, **options).result()

    def configure(self, text: str, nodes: Sequence[Node] = ()) -> None:
        """Replace the configuration, on all nodes if none is named; the fixture puts the first one back."""
        for node in nodes or self.nodes:
            node.instance.configure(text)

    def share_key(self) -> None:
        """Give all nodes one key, so that their agents believe each other; the fixture takes it away."""
        key = secrets.token_hex(32)
        for node in self.nodes:
            path = node.instance.config.with_name(KEY_FILE)
            path.write_text(f"{key}\n")
            path.chmod(0o600)
            node.kill_agent()  # it is read at the start
        self.sister.instance.start_agent()

    def forget_key(self) -> None:
        """Take the key away."""
        keys = [node.instance.config.with_name(KEY_FILE) for node in self.nodes]
        if any(key.exists() for key in keys):
            for node, key in zip(self.nodes, keys, strict=True):
                key.unlink(missing_ok=True)
                node.kill_agent()
            self.sister.instance.start_agent()

    def end_all(self) -> None:
        """End what a failed test left running."""
        with ExitStack() as stack:
            while self.trials:
                stack.callback(_end, self.trials.pop(0))


def _end(trial: WideTrial) -> None:
    if trial.leader is not None and trial.leader.poll() is None:
        trial.qdel()
    trial.result()


@pytest.fixture(scope="module")
def two_nodes(installed: Instance) -> Iterator[TwoNodes]:
    """The nodes, one pair for each module: they are there in a second or two."""
    paths = load(installed.home / "paths.json")
    with Cluster(paths, ["n2"]) as cluster:
        (emulated,) = cluster.nodes
        sister = SisterInstance(installed, paths, emulated)
        nodes = [
            Node(name=cluster.mother, instance=installed),
            Node(name=emulated.name, instance=sister, emulated=emulated),
        ]
        yield TwoNodes(cluster=cluster, nodes=nodes)


@pytest.fixture
def cluster(two_nodes: TwoNodes, instance: Instance) -> Iterator[TwoNodes]:
    """Both nodes with nothing on them. Each test must leave nothing on them; its configuration is replaced."""
    assert two_nodes.mother.instance is instance
    sister = two_nodes.sister.instance
    good = sister.config.read_text()
    home = Path(pwd.getpwnam(USERS[0]).pw_dir)
    with ExitStack() as stack:
        stack.callback(_remove_new, home, set(home.iterdir()))
        stack.callback(_put_back, sister, good)
        stack.callback(two_nodes.forget_key)
        for node in two_nodes.nodes:  # before its agent, which cleans up after the job, is killed
            stack.callback(wait_until, f"{node.name} is empty", lambda node=node: not node.instance.left(), 20)
        stack.callback(two_nodes.end_all)
        yield two_nodes


def _remove_new(home: Path, before: set[Path]) -> None:
    """What a test has left in the user's home would be found there by the next."""
    for path in set(home.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _put_back(sister: Instance, config: str) -> None:
    if sister.config.read_text() != config:
        sister.configure(config)
