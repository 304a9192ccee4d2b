"""A job's nodes request, laid out over the nodes there are. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pbsdock.rm.torque import BadValue
from pbsdock.rm.torque.resources import NodeSpec

MOST_NODES = 16
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSlots:
    """A node of the job and how many slots of it the job has."""

    node: str
    slots: int


def sisters(specs: Sequence[NodeSpec], mother: str) -> tuple[str, ...]:
    """The names of the nodes that must be emulated for a request: those it names, else n2, n3 ... Raises BadValue.

    *mother* is this host, the first node of every job.
    """
    names: list[str] = []
    count = 0
    for spec in specs:
        if spec.name not in (None, mother) and spec.name not in names:
            if not _NAME.fullmatch(spec.name or ""):
                raise BadValue(f"{spec.name!r} cannot be a host name; write small letters, digits, dots and hyphens")
            names.append(spec.name or "")
        count += spec.count
    if count > MOST_NODES:
        raise BadValue(f"{count} nodes are more than the {MOST_NODES} that are emulated on one host")
    number = 1
    named_mother = any(spec.name == mother for spec in specs)
    wanted = len(names) + sum(spec.count for spec in specs if spec.name is None) - (0 if named_mother else 1)
    while len(names) < wanted:
        number += 1
        if (name := f"n{number}") not in (*names, mother):
            names.append(name)
    return tuple(names)


def place(specs: Sequence[NodeSpec], mother: str, names: Sequence[str]) -> tuple[NodeSlots, ...]:
    """Which node has how many slots, in the order of exec_host. Raises BadValue.

    The first is this host, *mother*; *names* are the emulated nodes.
    """
    named = [spec.name for spec in specs if spec.name is not None]
    free = [name for name in (mother, *names) if name not in named]
    placed: list[NodeSlots] = []
    for spec in specs:
        if spec.name is not None:
            if spec.name not in (mother, *names):
                raise BadValue(f"there is no node {spec.name}; there are {', '.join((mother, *names))}")
            if spec.name in (node.node for node in placed):
                raise BadValue(f"the node {spec.name} is named twice; name it once, with all its slots")
            placed.append(NodeSlots(node=spec.name, slots=spec.ppn))
            continue
        if spec.count > len(free):
            raise BadValue(f"only {1 + len(names)} nodes are there: {', '.join((mother, *names))}")
        placed += [NodeSlots(node=free.pop(0), slots=spec.ppn) for _ in range(spec.count)]
    if not placed or placed[0].node != mother:
        raise BadValue(f"a job tried here starts on this host; name {mother} first")
    if any(node.slots < 1 for node in placed):
        raise BadValue("ppn is 1 or more")
    return tuple(placed)


def exec_host(placement: Sequence[NodeSlots]) -> str:
    """The attribute exec_host: ``vm/0+n2/0-2``."""
    return "+".join(f"{n.node}/0" if n.slots == 1 else f"{n.node}/0-{n.slots - 1}" for n in placement)


def slot_owners(placement: Sequence[NodeSlots]) -> tuple[int, ...]:
    """For each virtual node (PBS_VNODENUM), in order, the number of its node in the host list (PBS_NODENUM)."""
    return tuple(number for number, node in enumerate(placement) for _ in range(node.slots))
