"""What the containers of a job of several nodes are given to start commands on the others: tm-agent and the manager's
own client.

They lie in a directory of root's, made once and again when one of the files is another: containers have the directory
itself, so that an upgrade of the host changes nothing under a job that runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pbsdock.agent.programs import USUAL_PATH
from pbsdock.config.trust import untrusted_part
from pbsdock.core.paths import Paths
from pbsdock.core.record import Record
from pbsdock.host import interfaces
from pbsdock.host.installed import is_usable
from pbsdock.policy import mpi
from pbsdock.rm.base import ClientTool

if TYPE_CHECKING:
    from pbsdock.agent.node import Node

TARGET = "/run/pbsdock/tools"  # the directory in the container
HOSTS = "/run/pbsdock/hosts"  # likewise, a file of the job's
_BIN = f"{TARGET}/bin"
_AGENT, _CLIENT = "tm-agent", "pbsdsh"


def program(paths: Paths) -> Path:
    """Where this installation has tm-agent."""
    return paths.lib / "pbsdock/init/tm-agent"


def layout(agent: str, client: ClientTool | None) -> dict[str, str]:
    """What goes where in the directory: source by name below it. Pure.

    tm-agent is the client's front as well, by the name it is called. The client brings the loader and the libraries it
    has here, since an image may have others or none.
    """
    files = {f"bin/{_AGENT}": agent, f"bin/{_CLIENT}": agent}
    if client is not None and client.texts:
        files = {f"bin/{name}": agent for name, _path in client.programs or (("srun", ""),)}
    if client is not None and client.programs:
        files |= {f"libexec/{name}": path for name, path in client.programs}
        files |= {"lib/loader": client.loader, **{f"lib/{name}": path for name, path in client.libraries}}
        files |= dict(client.files)
    elif client is not None and client.program:
        files[f"libexec/{_CLIENT}"] = client.program
        if client.loader:
            files["lib/loader"] = client.loader
            files |= {f"lib/{name}": path for name, path in client.libraries}
    return files


def provide(node: Node, record: Record) -> tuple[list[tuple[str, str]], str]:
    """What a job gets mounted by which it starts tasks, (source, target), and the user whose name that needs, "" for
    nobody. Raises OSError."""
    agent = program(node.paths)
    is_wanted = record.facts.nodes > 1 or node.rm.moves_tasks
    if not is_wanted or not record.facts.first_process or not is_usable(agent):
        return [], ""
    client, why = node.rm.task_client()
    if client is not None and (problem := _untrusted(client)):
        client, why = None, f"{problem}, and root gives nothing of that to containers"
    if client is None:
        node.emit("tools.lacking", record, level="warning", reason=why)
    if node.rm.moves_tasks and (client is None or record.planned.network != "host"):
        if client is not None:
            network = record.planned.network
            why = f"the container has network {network!r}, where neither slurmctld nor tasks can reach srun"
        client = ClientTool(program="", texts=(("etc/why-not", f"{why}\n".encode()),))
    files, texts = layout(str(agent), client), dict(client.texts) if client is not None else {}
    place = node.paths.state_dir / "tools" / _name(files, texts)
    with node.tools_lock:
        if not place.is_dir():
            _make(place, files, texts)
        _forget_others(node, place)
    if client is None:
        return [(str(place), TARGET)], ""
    if client.scratch:
        places = {client.scratch.replace("%n", name) for name in node.rm.nodes_here(record.job_id)}
        record.note(scratch=tuple(sorted(path for path in places if os.path.isdir(path))))
    return [(str(place), TARGET), *client.directories], client.account


def environment(node: Node, record: Record, own: Mapping[str, str]) -> dict[str, str]:
    """The variables *own* of a command in that container, and what makes it find the tools and its MPI use them.

    They are in front on PATH: a client that the image has may speak another version's language, and carries no ticket.
    """
    targets = {target for _source, target in record.facts.own_files}
    if TARGET not in targets:
        return dict(own)
    found = {**own, "PATH": f"{_BIN}:{own.get('PATH') or USUAL_PATH}"}
    if "PMIX_NAMESPACE" in own:  # of srun --mpi=pmix, whose shared memory lies in slurmd's spool directory
        found.setdefault("PMIX_MCA_gds", "hash")
    node_file = own.get(node.rm.words.node_file_variable, "")
    # On another network neither the manager nor other nodes can be reached.
    if not node_file or HOSTS not in targets or not node.config.nodes.mpi_defaults or record.planned.network != "host":
        return found
    setting = mpi.Setting(
        agent=f"{_BIN}/{_AGENT}",
        node_file=node_file,
        host_file=HOSTS,
        virtual_interfaces=interfaces.virtual_bridges(),
        copies_between_processes=node.config.security.seccomp == "hpc",
        has_own_cpus=bool(record.planned.limits.cpuset),
    )
    return {**mpi.defaults(setting, {*own, *record.facts.mpi_own}), **found}


def _untrusted(client: ClientTool) -> str:
    """The first of its files that others than root can change, "" if there is none. Raises OSError."""
    listed = (*client.libraries, *client.programs, *client.files)
    paths = [client.program, *filter(None, [client.loader]), *(path for _name, path in listed)]
    return next((problem for path in paths if (problem := untrusted_part(Path(path)))), "")


def _name(files: Mapping[str, str], texts: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + text for name, text in sorted(texts.items())))
    for name, source in sorted(files.items()):
        found = os.stat(source)
        digest.update(f"{name}\0{source}\0{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _make(place: Path, files: Mapping[str, str], texts: Mapping[str, bytes]) -> None:
    fresh = place.with_name(f".{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for name, source in files.items():
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o555)
    for name, text in texts.items():
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)
        target.chmod(0o444)
    (fresh / "munge").mkdir(exist_ok=True)  # where a directory is mounted
    for directory in (fresh, *(path for path in fresh.iterdir() if path.is_dir())):
        directory.chmod(0o755)
    os.replace(fresh, place)


def _forget_others(node: Node, place: Path) -> None:
    """Remove what no record's container has."""
    used = {source for record in node.jobs.records() for source, _target in record.facts.own_files}
    for other in place.parent.iterdir():
        if other != place and str(other) not in used:
            shutil.rmtree(other, ignore_errors=True)
