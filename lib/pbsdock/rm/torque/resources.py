"""Resource lists and nodes requests (``src/server/node_manager.c``). Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pbsdock.core.errors import BadValue
from pbsdock.core.sizes import parse_size
from pbsdock.rm.torque.values import is_number, parse_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One part of ``nodes=``: how many nodes (or which), and what on each."""

    count: int
    name: str | None
    ppn: int
    gpus: int
    properties: tuple[str, ...]


def parse_nodes(text: str) -> tuple[NodeSpec, ...]:
    """Parse ``2:ppn=4:gpus=1+3:bigmem`` or ``host1:ppn=2+host2``. Raises BadValue."""
    return tuple(_node_spec(part, text) for part in text.split("#", 1)[0].split("+"))


def _node_spec(part: str, whole: str) -> NodeSpec:
    head, *rest = part.split(":")
    if head.startswith(("ppn=", "gpus=")):  # "nodes=ppn=4": Torque reads a missing count as one node
        head, rest = "1", [head, *rest]
    if not head:
        raise BadValue(f"{whole[:80]!r} is not a nodes request; write for example 2:ppn=4+1:bigmem")
    counts = {"ppn": 1, "gpus": 0}
    properties = []
    for word in rest:
        key, equals, value = word.partition("=")
        if equals and key in counts:
            if not is_number(value):
                raise BadValue(f"{word[:40]!r} in nodes={whole[:80]} needs a whole number after '='")
            counts[key] = int(value)
        elif word:
            properties.append(word)
    is_count = is_number(head)
    return NodeSpec(
        count=int(head) if is_count else 1,
        name=None if is_count else head,
        ppn=counts["ppn"],
        gpus=counts["gpus"],
        properties=tuple(properties),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """A parsed Resource_List. Sizes in bytes, times in seconds; ``raw`` has every item as written.

    An item may be missing because it did not fit into mom's 2,048-byte buffer: absent is not "none asked for".
    """

    mem: int | None = None
    vmem: int | None = None
    pmem: int | None = None
    pvmem: int | None = None
    walltime: int | None = None
    cput: int | None = None
    ncpus: int | None = None
    nodes: tuple[NodeSpec, ...] = ()
    raw: tuple[tuple[str, str], ...] = ()


_SIZES = ("mem", "vmem", "pmem", "pvmem")
_TIMES = ("walltime", "cput")


def parse_resource_list(text: str) -> Resources:
    """Parse the fifth argument of a prologue: ``nodes=1:ppn=2,mem=200mb,walltime=00:05:00,…``. Raises BadValue.

    mom joins the items with commas and escapes none, so a text resource can hold what looks like another item: of two
    sizes or times of one name the smaller counts, and a user gains nothing by writing a second one.
    """
    return _resources(items_of(text))


def _resources(items: Sequence[tuple[str, str]]) -> Resources:
    sizes: dict[str, int] = {}
    times: dict[str, int] = {}
    nodes: tuple[NodeSpec, ...] = ()
    ncpus = None
    for key, value in items:
        if key in _SIZES:
            size = _named(key, value, parse_size)
            sizes[key] = min(size, sizes.get(key, size))
        elif key in _TIMES:
            seconds = _named(key, value, parse_duration)
            times[key] = min(seconds, times.get(key, seconds))
        elif key == "nodes":
            nodes = nodes or parse_nodes(value)
        elif key == "ncpus" and is_number(value):
            ncpus = min(int(value), int(value) if ncpus is None else ncpus)
    return Resources(
        mem=sizes.get("mem"),
        vmem=sizes.get("vmem"),
        pmem=sizes.get("pmem"),
        pvmem=sizes.get("pvmem"),
        walltime=times.get("walltime"),
        cput=times.get("cput"),
        ncpus=ncpus,
        nodes=nodes,
        raw=tuple(items),
    )


def _named(key: str, value: str, parse: Callable[[str], int]) -> int:
    try:
        return parse(value)
    except BadValue as error:
        raise BadValue(f"{key}: {error}") from None


def understood(items: Sequence[tuple[str, str]]) -> tuple[Resources, str]:
    """The resources and "", or none and what is wrong: whoever asks for nonsense still has a job with an id."""
    try:
        return _resources(items), ""
    except BadValue as error:
        return Resources(raw=tuple(items)), str(error)


def items_of(text: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (item.partition("=") for item in text.split(",") if item)]
