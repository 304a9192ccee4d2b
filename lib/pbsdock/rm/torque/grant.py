"""What a Resource_List comes to on one node. Pure."""

from __future__ import annotations

from pbsdock.rm.base import Grant
from pbsdock.rm.torque.resources import Resources


def grant_of(asked: Resources, *, slots_here: int, slots_total: int, hosts: tuple[str, ...] = ()) -> Grant:
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
        slots_here=slots_here,
        slots_total=slots_total,
        # gpus=N is per node, and which part of an uneven request this node serves is not known: the least is safe.
        gpus=min((part.gpus for part in asked.nodes), default=0),
        hosts=hosts,
        walltime_s=asked.walltime,
    )
