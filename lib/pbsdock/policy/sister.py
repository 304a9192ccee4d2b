"""A plan that a sister has made by its own policy, narrowed by what the mother superior has decided. Pure.

The stricter of the two holds. Memory and CPUs are the sister's own: they follow from its slots.
"""

from __future__ import annotations

from dataclasses import replace

from pbsdock.core.errors import Refusal
from pbsdock.core.plan import Mount, Plan
from pbsdock.core.ticket import Ticket

_OF_NODE = ("tmpdir", "nodefile", "workdir")  # each node has its own, or none


def narrowed(plan: Plan, ticket: Ticket, node: str) -> Plan:
    """What is left of *plan* on the sister *node*: no staging, which the mother superior does.

    Raises Refusal where the two policies have no network in common.
    """
    return replace(
        plan,
        image=ticket.image,
        network=_network(plan, ticket, node),
        read_only_root=plan.read_only_root or ticket.read_only_root,
        mounts=tuple(_mounts(plan, ticket)),
        limits=replace(plan.limits, pids=min(plan.limits.pids, ticket.pids)),
        stage_in=(),
        stage_out=(),
        stores=tuple(replace(store, staging=()) for store in plan.stores if store.container),
    )


def _network(plan: Plan, ticket: Ticket, node: str) -> str:
    if plan.network == ticket.network:
        return plan.network
    if "none" in (plan.network, ticket.network):
        return "none"
    raise Refusal(
        "network-differs",
        f"the job has network {ticket.network!r} on {ticket.mother}, and {node} would give it {plan.network!r}; name"
        " one with --network, and tell the site that [network] differs between its nodes",
    )


def _mounts(plan: Plan, ticket: Ticket) -> list[Mount]:
    decided = {(source, target): read_only for source, target, read_only in ticket.mounts}
    kept = []
    for mount in plan.mounts:
        if mount.origin in _OF_NODE:
            kept.append(mount)
        elif (read_only := decided.get((mount.source, mount.target))) is not None:
            kept.append(replace(mount, read_only=mount.read_only or read_only))
    return kept
