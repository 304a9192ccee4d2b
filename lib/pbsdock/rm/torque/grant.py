"""What a Resource_List comes to on one node. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pbsdock.rm.base import Grant
from pbsdock.rm.torque.jobfile import of_host
from pbsdock.rm.torque.resources import Resources

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
    gpu_ids: tuple[str, ...] = (),
) -> Grant:
    """This node's part, by slots: mem and vmem are the whole job's, pmem and pvmem a slot's."""

    def share(total: int) -> int:
        return total * slots_here // max(slots_total, 1)

    key, memory = "", None
    totals = [(name, share(total)) for name, total in (("mem", asked.mem), ("vmem", asked.vmem)) if total is not None]
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
        memory_swap_bytes=None if asked.vmem is None else share(asked.vmem),
        cpus=asked.ncpus if asked.ncpus and not asked.nodes else slots_here,
        whole_node=any(name == "naccesspolicy" and value.lower() in _ALONE for name, value in asked.raw),
        slots_here=slots_here,
        slots_total=slots_total,
        # gpus=N is per node, and which part of an uneven request this node serves is not known: the least is safe.
        gpus=len(gpu_ids) or min((part.gpus for part in asked.nodes), default=0),
        gpu_ids=gpu_ids,
        hosts=hosts,
        walltime_s=asked.walltime,
    )
