"""What a prologue would be called with for a request, without anything being called."""

from __future__ import annotations

import socket

from pbsdock.rm.torque.resources import parse_resource_list
from pbsdock.trial.environment import MOM, node_count
from pbsdock.trial.request import Request, resource_text


def prologue_of(request: Request, script_path: str) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment; the job may have several nodes, and its id is nobody's.

    Raises BadRequest, and BadValue for resources that cannot be read.
    """
    text = resource_text(request.resources)
    nodes = parse_resource_list(text).nodes
    ppn = nodes[0].ppn if nodes else 1
    asked = next((item.partition("=")[2] for item in text.split(",") if item.startswith("nodes=")), "1")
    env = {
        **MOM,
        "PBS_NUM_NODES": str(node_count(asked)),
        "PBS_NUM_PPN": str(ppn),
        "PBS_NP": str(sum(node.count * node.ppn for node in nodes) or 1),
        "PBS_NODENUM": "0",
        "PBS_RESOURCE_NODES": asked,
    }
    if request.work_dir:
        env["PBS_O_WORKDIR"] = request.work_dir
    argv = [f"0.{socket.gethostname()}", request.user, "", request.name, text, request.queue, "", script_path]
    return argv, env
