"""``docker network``: networks of a job's own, on which its children find one another by name."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Any

from pbsdock.agent.children import places
from pbsdock.agent.children.start import making, parent_labels
from pbsdock.agent.shim import bare
from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, each, notice, out
from pbsdock.core.child import ChildNetwork, is_name
from pbsdock.core.errors import HookError, Refusal
from pbsdock.engine.base import EngineError, Failure
from pbsdock.policy.decide import effective
from pbsdock.shim import inspected, tables
from pbsdock.shim.commands import NetworkCreate, NetworkInspect, NetworkLs, NetworkRm
from pbsdock.shim.filters import select_networks
from pbsdock.shim.refusal import FAILED, ShimRefusal
from pbsdock.shim.rows import NetworkRow

# Each takes a range of the engine's addresses, of which it has 31 by itself, for all users.
_MOST, _MOST_OF_ONE = 8, 12  # of one job, of one user's
_OTHERS = ("bridge", "host", "none", "default", "container")


def create(at: Context, asked: NetworkCreate) -> Steps:
    """Make it; written down before. Raises Refusal, NodeFault, EngineError."""
    node, job = at.node, at.job
    if not node.config.shim.networks:
        raise Refusal(
            "networks-not-offered",
            "this site lets jobs make no networks; containers may share one with --network container:NAME",
        )
    if not is_name(asked.name) or asked.name in _OTHERS:
        raise ShimRefusal(f"{asked.name[:80]} is not a name for a network of yours", FAILED)
    record = at.asker.record or bare.record_of(node, job)
    of_user = {own.name for own in node.jobs.records() if own.uid == job.uid}
    may_leave = "bridge" in effective(node.config, job).network.allow
    with making(node, record):
        engine_name = places.network_name(record, f"n{secrets.token_hex(6)}")
        network = ChildNetwork(
            name=asked.name,
            engine_name=engine_name,
            created=time.time(),
            is_internal=asked.internal or not may_leave,
        )
        node.children.add_network(record.name, network, _MOST, of_user, _MOST_OF_ONE)
        try:
            identifier = node.engine.create_network(
                engine_name, parent_labels(node, record), internal=network.is_internal
            )
        except (HookError, EngineError):
            node.engine.remove_network(engine_name)
            node.children.forget_network(record.name, asked.name)
            raise
        node.children.note_network(record.name, replace(network, id=identifier))
    yield out(f"{identifier}\n")
    return 0


def remove(at: Context, asked: NetworkRm) -> Steps:
    """Remove each on which nothing runs."""

    def act(name: str, network: ChildNetwork) -> Steps:
        record = at.asker.record
        assert record is not None  # it has a network
        try:
            at.node.engine.remove_network(network.engine_name)
        except EngineError as error:
            if error.failure is not Failure.IN_USE:
                raise
            yield notice(f"Error: network {name} has containers that run")
            return FAILED
        at.node.children.forget_network(record.name, network.name)
        yield out(f"{name}\n")
        return 0

    if asked.force:
        return (yield from each(asked.names, at.network, act, missing="", code_of_missing=0))
    return (yield from each(asked.names, at.network, act))


def listed(at: Context, asked: NetworkLs) -> Steps:
    """Those of the job."""
    rows = [
        NetworkRow(id=network.id, name=network.name, created=network.created, internal=network.is_internal)
        for network in at.networks
    ]
    shown = select_networks(rows, asked)
    yield out(tables.networks(shown, format_=asked.format, quiet=asked.quiet, no_trunc=asked.no_trunc))
    return 0


def inspect(at: Context, asked: NetworkInspect) -> Steps:
    """Each as Docker shows it."""
    code = 0
    found: list[Any] = []
    for name in asked.names:
        try:
            found.append(inspected.network(at.network(name)))
        except ShimRefusal as error:
            yield notice(f"Error: {error.sentence}")
            code = FAILED
    yield out(tables.objects(found, asked.format))
    return code
