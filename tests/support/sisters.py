"""A site whose two nodes sign with one key, and jobs over both whose tasks are contained."""

from __future__ import annotations

import pwd
import shutil
from pathlib import Path
from typing import Any

import pytest

from pbsdock.cluster.signing import KEY_FILE
from tests.conftest import IMAGE, USERS, wait_until
from tests.support.cluster import Node, TwoNodes
from tests.support.ports import free_port


class Site:
    """Both nodes with a key of the cluster, and a pbsdsh that the container can run."""

    def __init__(self, cluster: TwoNodes, home: Path) -> None:
        self.cluster = cluster
        self.home = home
        self.uid = pwd.getpwnam(USERS[0]).pw_uid
        self.pbsdsh = home / "pbsdsh"
        shutil.copy(cluster.client_dir / "pbsdsh", self.pbsdsh)
        self.port = free_port()
        self.configure("")
        cluster.share_key()

    @staticmethod
    def key_of(node: Node) -> Path:
        """Where a node has the cluster's key."""
        return node.instance.config.with_name(KEY_FILE)

    def flags(self, *names: str) -> None:
        """Wait until the job has made files of these names in its user's home."""
        wait_until("the tasks run", lambda: all((self.home / name).exists() for name in names), 30)

    def configure(self, text: str, nodes: str = "", port: int | None = None) -> None:
        """The site's configuration, with *nodes* more lines of that section, and another *port* than the usual."""
        chosen = self.port if port is None else port
        self.cluster.configure(f"{text}\n[nodes]\nport = {chosen}\n{nodes}")

    def script(self, body: str, directive: str = f"#DOCKER {IMAGE}") -> str:
        """A job whose *body* has ``pbsdsh`` as a command that takes a ticket along."""
        ticketed = f'pbsdsh() {{ {self.pbsdsh} -e PBSDOCK_TICKET=$PBSDOCK_TICKET "$@"; }}'
        return f"#!/bin/sh\n{directive}\n{ticketed}\n{body}\n"

    def run(self, body: str, resources: str = "nodes=1:ppn=1+n2:ppn=2", **options: Any) -> Any:
        """Run a job to its end."""
        return self.cluster.run(self.script(body), resources, **options)

    def events(self, node: Node, event: str, job: str = "") -> list[dict[str, Any]]:
        """A node's events of that name."""
        return [line for line in node.instance.events(job or None) if line["event"] == event]

    def one(self, node: Node, event: str, job: str) -> dict[str, Any]:
        """The one of that name and job, which may come a moment after the job."""
        wait_until(f"{event} on {node.name}", lambda: bool(self.events(node, event, job)), 20)
        (found,) = self.events(node, event, job)
        return found


@pytest.fixture
def site(cluster: TwoNodes) -> Site:
    """The nodes with a key."""
    return Site(cluster, Path(pwd.getpwnam(USERS[0]).pw_dir))
