"""What jobs are given to ask for children: the client, and a socket of the agent's for it alone.

The client lies in a directory of its own, which the run hook puts in front of PATH and containers have as it is. Beside
it a file says where the agent listens; in a container that is a place of its own, in a directory, since a socket's file
is another one after a restart of the agent.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping

from pbsdock.agent.node import Node
from pbsdock.agent.programs import USUAL_PATH
from pbsdock.core.record import Record
from pbsdock.host.installed import docker_client, offers_docker

TOOLS, DOOR = "/run/pbsdock/shim", "/run/pbsdock/door"  # the directories in the container
_SOCKET = "agent.sock"


def listen(node: Node) -> socket.socket | None:
    """The socket for containers' clients, in a directory of its own; None where none is offered. Raises OSError."""
    place = node.paths.door
    if not offers_docker(node.paths, node.config):
        shutil.rmtree(place, ignore_errors=True)
        return None
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    place.chmod(0o755)
    temporary = place / f".{os.getpid()}"
    for stale in place.iterdir():
        if stale.name != _SOCKET:
            stale.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(temporary))
    os.chmod(temporary, 0o666)  # noqa: S103 - everybody may knock, SO_PEERCRED decides
    listening.listen(512)
    os.rename(temporary, place / _SOCKET)
    return listening


def mounts(node: Node, record: Record) -> list[tuple[str, str]]:
    """What a job's own container gets mounted: (source, target)."""
    if not record.facts.first_process or not offers_docker(node.paths, node.config) or not node.paths.door.is_dir():
        return []
    name = node.config.shim.name  # the program alone: what lies beside it says where the agent is on the host
    # This version's own, which a rollback leaves where it is.
    return [(str(docker_client(node.paths)), f"{TOOLS}/{name}"), (str(node.paths.door), DOOR)]


def environment(record: Record, own: Mapping[str, str]) -> dict[str, str]:
    """The variables *own* of a command in that container, with the client's directory in front."""
    if DOOR not in {target for _source, target in record.facts.own_files}:
        return dict(own)
    return {**own, "PATH": f"{TOOLS}:{own.get('PATH') or USUAL_PATH}"}
