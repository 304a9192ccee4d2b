"""Where the things of a child are. Nothing here touches them."""

from __future__ import annotations

from pathlib import Path

from pbsdock.agent.node import Node
from pbsdock.core.child import Child
from pbsdock.core.record import Record

_CHILDREN = "children"


def all_of(node: Node, record: Record) -> Path:
    """The directory of a job's children in its work directory."""
    return node.work_dir(record) / _CHILDREN


def work_dir(node: Node, record: Record, key: str) -> Path:
    """Root-only directory of a child's generated files."""
    return all_of(node, record) / key


def init_dir(node: Node, record: Record, key: str) -> Path:
    """Where a child's first process listens: a tmpfs of its own."""
    return work_dir(node, record, key) / "init"


def pins(node: Node, record: Record, key: str) -> Path:
    """Its mounts while it is started."""
    return node.paths.pins / f"{record.name}.{key}"


def container_name(record: Record, key: str) -> str:
    """What the engine calls its container; known before there is one."""
    return f"{record.container_name}-{key}"


def network_name(record: Record, number: str) -> str:
    """What the engine calls a network of the job's."""
    return f"{record.container_name}-{number}"


def logs(node: Node, record: Record, child: Child) -> tuple[Path, ...]:
    """The files with its standard output and standard error; the first alone where it has a terminal."""
    place = node.paths.state_dir / _CHILDREN / record.name
    names = (f"{child.key}.out",) if child.terminal else (f"{child.key}.out", f"{child.key}.err")
    return tuple(place / name for name in names)
