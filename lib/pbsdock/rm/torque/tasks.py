"""What ``qsub -L`` asked for (Torque 6), as a .JB's ``req_information`` has it (``src/lib/Libattr/req.cpp``). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pbsdock.core.errors import BadValue
from pbsdock.core.sizes import parse_size
from pbsdock.rm.torque.values import is_number

_NAME = re.compile(r"([a-z_]+)\.([0-9]{1,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """One ``-L``. ``lprocs`` is a task's, None for all of a node; sizes are a task's in bytes, None: not asked for.

    ``hosts`` says where its tasks are, as ``vm:ppn=4`` or ``vm/0-3``; only a server with cgroups writes that down.
    """

    count: int = 1
    lprocs: int | None = 1
    memory: int | None = None
    swap: int | None = None  # memory and swap together
    has_nodes: bool = False  # each task has a node to itself
    hosts: tuple[str, ...] = ()

    def by_host(self) -> dict[str, int]:
        """How many tasks each host has, as ``req::get_num_tasks_for_host`` counts them; empty without ``hosts``."""
        counts: dict[str, int] = {}
        for place in self.hosts:
            host, slots = _host_and_slots(place)
            is_whole = slots is None or self.lprocs is None or self.has_nodes
            counts[host] = counts.get(host, 0) + (1 if is_whole else (slots or 0) // max(self.lprocs or 1, 1))
        return counts


def parse_task_requests(items: Sequence[tuple[str, str]]) -> tuple[TaskRequest, ...]:
    """From the elements of ``req_information``, such as ``memory.0`` and ``204800kb``. Raises BadValue."""
    found: dict[int, dict[str, str]] = {}
    hosts: dict[int, list[str]] = {}
    for name, value in items:
        if match := _NAME.fullmatch(name):
            key, index = match[1], int(match[2])
            found.setdefault(index, {})[key] = value
            if key == "hostlist":
                hosts.setdefault(index, []).append(value)
    return tuple(_request(values, tuple(hosts.get(index, ()))) for index, values in sorted(found.items()))


def _request(values: Mapping[str, str], hosts: tuple[str, ...]) -> TaskRequest:
    lprocs = values.get("lprocs", "1")
    return TaskRequest(
        count=_count("tasks", values.get("task_count", "1")),
        lprocs=None if lprocs == "all" else _count("lprocs", lprocs),
        memory=_size("memory", values),
        swap=_size("swap", values),
        has_nodes="node" in values,
        hosts=hosts,
    )


def _count(name: str, value: str) -> int:
    if not is_number(value):
        raise BadValue(f"{value[:40]!r} is not a number of {name} of -L")
    return int(value)


def _size(name: str, values: Mapping[str, str]) -> int | None:
    try:
        return parse_size(values[name]) if name in values else None
    except BadValue as error:
        raise BadValue(f"-L {name}: {error}") from None


def _host_and_slots(place: str) -> tuple[str, int | None]:
    """The host of ``vm:ppn=4`` or ``vm/0-2,5``, and how many of its slots; None where it does not say."""
    host, separator, rest = place.partition(":ppn=")
    if separator:
        return host, int(rest) if is_number(rest) else None
    host, separator, rest = place.partition("+")[0].partition("/")
    if not separator:
        return host.partition(":")[0], None
    ranges = re.findall(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", rest)
    return host, sum(max(1, int(last or first) - int(first) + 1) for first, last in ranges)
