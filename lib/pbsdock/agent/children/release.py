"""All children of a job, removed with it; and taken over from an agent that was there before."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from pbsdock.agent.child_book import over
from pbsdock.agent.children import places
from pbsdock.agent.children.finish import REMOVED
from pbsdock.agent.children.start import discard, remove
from pbsdock.agent.node import Node
from pbsdock.agent.runs import ChildRun
from pbsdock.core.child import Child, ChildState
from pbsdock.core.errors import HookError, NodeFault
from pbsdock.core.record import Record, State
from pbsdock.engine.base import EngineError
from pbsdock.protocol import wire

_CALLS = 4  # of the engine, for one that is being made
_AT_ONCE = 8


def remove_all(node: Node, record: Record) -> None:
    """Remove every container and network that a job has made, and what is remembered of them.

    Raises NodeFault, EngineError, OSError for the first that stays; can be repeated.
    """
    book = node.children
    if not book.close(record.name, _CALLS * node.config.engine.timeout_s):
        raise NodeFault("children-stay", f"the engine is still making containers of job {record.job_id}")
    children = book.of(record.name)
    with ThreadPoolExecutor(_AT_ONCE, "children") as pool:
        for error in [found for found in pool.map(lambda child: _remove(node, record, child), children) if found]:
            raise error
    for network in book.networks(record.name):
        node.engine.remove_network(network.engine_name)
        book.forget_network(record.name, network.name)
    _remove_unknown(node, record)
    remove_directory(node, record)
    book.remove(record.name)


def _remove_unknown(node: Node, record: Record) -> None:
    """Remove those whose record was damaged; they are known by their directories."""
    place = places.all_of(node, record)
    for directory in sorted(place.iterdir()) if place.exists() else ():
        remove(node, record, directory.name)


def _remove(node: Node, record: Record, child: Child) -> Exception | None:
    try:
        remove(node, record, child.key)
    except (HookError, EngineError, OSError) as error:
        return error
    running = node.jobs.child_run(record.incarnation, child.key)
    if running is not None:
        with running.lock:
            known, running.ended = running.ended, running.ended or wire.Message("ended", code=REMOVED)
        node.jobs.drop(running)
        if known is None:
            node.children.note(record.name, child.key, **over(REMOVED, time.time()))
            node.emit("child.ended", record, child=child.name, container=child.id, code=REMOVED, phase="release")
            running.conclude()
    return None


def remove_directory(node: Node, record: Record) -> None:
    """The directory in which each had its own, which is empty now. Raises OSError."""
    place = places.all_of(node, record)
    if place.exists():
        place.rmdir()


def adopt(node: Node) -> None:
    """After a restart of the agent: go on with the children that run, remove those that were being made."""
    found, problems = node.jobs.records_and_problems()
    records = {record.name: record for record in found}
    for name in node.children.jobs():
        record = records.get(name)
        if record is None:
            if not problems:
                node.children.remove(name)  # its release was all but over
            continue
        if record.boot_id != node.boot or record.state is State.RELEASING:
            continue
        for child in node.children.live(name):
            if child.state is ChildState.RUNNING:
                run = ChildRun(
                    record=record, name=child.key, pid=child.pid, pid_start=child.pid_start, client=child.client
                )
                run.begins_by = 0.0 if child.client[0] else time.monotonic()
                node.jobs.add(run)
            else:
                discard(node, record, child.key)
