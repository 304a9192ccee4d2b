"""What a Resource_List comes to on one node. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pbsdock.rm.base import Grant
from pbsdock.rm.torque.jobfile import of_host
from pbsdock.rm.torque.resources import Resources
from pbsdock.rm.torque.tasks import TaskRequest

# Policies by which no other job comes to the node (qsub -l naccesspolicy=, Moab's and Torque's words).
_ALONE = ("singlejob", "singletask")


def gpus_on(lines: Sequence[str], node: str) -> tuple[str, ...]:
    """The ids of *node*'s GPUs in mom's file of them: lines such as ``n1-gpu0``."""
    found: dict[str, list[str]] = {}
    for line in lines:
        host, dash, number = line.rpartition("-gpu")
        if dash and number.isascii() and number.isdigit():
            found.setdefault(host, []).append(str(int(number)))
    mine = [ids for host, ids in found.items() if of_host({host: 1}, node)]
    return tuple(sorted(set(mine[0]), key=int)) if len(mine) == 1 else ()


def grant_of(
    asked: Resources,
    *,
    slots_here: int,
    slots_total: int,
    hosts: tuple[str, ...] = (),
    host_slots: tuple[int, ...] = (),
    gpu_ids: tuple[str, ...] = (),
    tasks: Sequence[TaskRequest] = (),
    node: str = "",
    exclusive: bool = False,
) -> Grant:
    """This node's part, by slots: mem and vmem are the whole job's, pmem and pvmem a slot's; *tasks* say their own.

    *tasks* and *exclusive* are of qsub's -L and -n, which only a .JB tells.
    """

    def share(total: int) -> int:
        return total * slots_here // max(slots_total, 1)

    own = _Tasks.on(tasks, node, slots_here, slots_total)
    swap = [size for size in (None if asked.vmem is None else share(asked.vmem), own.swap) if size is not None]
    key, memory = "", None
    totals = [(name, share(total)) for name, total in (("mem", asked.mem), ("vmem", asked.vmem)) if total is not None]
    totals += [] if own.memory is None else [("-L memory", own.memory)]
    per_slot = [
        (name, size * slots_here) for name, size in (("pmem", asked.pmem), ("pvmem", asked.pvmem)) if size is not None
    ]
    if totals:
        key, memory = min(totals, key=lambda total: total[1])
    elif per_slot:
        key, memory = per_slot[0]
    return Grant(
        memory_bytes=memory,
        memory_from=key,
        memory_text=next((value for name, value in asked.raw if name == key), ""),
        memory_swap_bytes=min(swap, default=None),
        cpus=max(asked.ncpus if asked.ncpus and not asked.nodes else slots_here, own.cpus),
        whole_node=exclusive
        or any(task.lprocs is None for task in tasks)
        or any(name == "naccesspolicy" and value.lower() in _ALONE for name, value in asked.raw),
        slots_here=slots_here,
        slots_total=slots_total,
        # gpus=N is per node, and which part of an uneven request this node serves is not known: the least is safe.
        gpus=len(gpu_ids) or min((part.gpus for part in asked.nodes), default=0),
        gpu_ids=gpu_ids,
        hosts=hosts,
        host_slots=host_slots,
        walltime_s=asked.walltime,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tasks:
    """What -L comes to on one node, sizes in bytes; None where no task asks for it."""

    memory: int | None
    swap: int | None
    cpus: int

    @classmethod
    def on(cls, tasks: Sequence[TaskRequest], node: str, slots_here: int, slots_total: int) -> _Tasks:
        """By the hosts that are written down; where this node is not among them, or none are, by slots."""
        counts = [of_host(task.by_host(), node) for task in tasks]

        def sum_of(size_of: Callable[[TaskRequest], int | None]) -> int | None:
            sizes = [
                (count, task.count, size)
                for count, task in zip(counts, tasks, strict=True)
                if (size := size_of(task)) is not None
            ]
            if not sizes:
                return None
            if any(counts):
                return sum(count * size for count, _all, size in sizes)
            return sum(of_all * size for _count, of_all, size in sizes) * slots_here // max(slots_total, 1)

        return cls(
            # A task that asks for one of the two has no more of the other.
            memory=sum_of(lambda task: task.swap if task.memory is None else task.memory),
            swap=sum_of(lambda task: task.memory if task.swap is None else task.swap)
            if any(task.swap is not None for task in tasks)
            else None,
            cpus=sum_of(lambda task: task.lprocs) or 0,
        )
