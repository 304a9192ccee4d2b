"""A job's container that is made and started ahead of its run hook: its first process waits at the gate.

The prologue begins it in the background and answers; nothing of the user's runs in it until the gate is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pbsdock.agent import first_process
from pbsdock.agent.launch import launch_error, waiting_pid
from pbsdock.agent.node import Node
from pbsdock.agent.pinning import pinned
from pbsdock.agent.stand import Standing
from pbsdock.agent.starting import REMOVED_S
from pbsdock.core.errors import HookError, NodeFault
from pbsdock.core.facts import Bound
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record
from pbsdock.engine import spec as container
from pbsdock.engine.base import EngineError
from pbsdock.host.installed import is_usable
from pbsdock.host.process import start_time

_CALLS = 3  # of the engine, each with its deadline


class _Abandoned(NodeFault):
    """The job is released."""


def is_wanted(node: Node) -> bool:
    """Whether jobs of this node have the first process of our own."""
    return node.config.engine.first_process and is_usable(first_process.program(node.paths))


def begin(node: Node, record: Record) -> None:
    """Begin, in a thread of its own. Where files are staged in first, the container waits for them."""
    if not record.facts.first_process or record.planned.stage_in:
        return
    standing = Standing(record.facts.bound)
    node.jobs.stand(record, standing)
    try:
        threading.Thread(target=_make, args=(node, record, standing), name="stand", daemon=True).start()
    except RuntimeError as error:  # no thread more can be had; the run hook's own may
        standing.error = error
        standing.over.set()


def take(node: Node, record: Record, bound: Sequence[Bound]) -> Standing:
    """The job's container with its first process at the gate, and these mounts in it; made now if it is not there, or
    is another. Raises what :func:`_make` met: Refusal, NodeFault."""
    standing = node.jobs.standing_of(record)
    if standing is not None:
        standing.over.wait()
        if standing.is_ready and standing.bound == tuple(bound):
            return standing
    # Also what an agent that was killed has left, of which this one knows nothing.
    node.remove_container(record.container_name, REMOVED_S)
    standing = Standing(tuple(bound))
    node.jobs.stand(record, standing)
    _make(node, record, standing)
    if standing.error is not None:
        raise standing.error
    return standing


def end(node: Node, record: Record) -> None:
    """See to it that nothing more comes of it, before what it has made is removed. Raises NodeFault."""
    standing = node.jobs.standing_of(record)
    if standing is None:
        return
    standing.is_abandoned = True
    if not standing.over.wait(_CALLS * node.config.engine.timeout_s):
        raise NodeFault("container-stays", f"the engine is still making container {record.container_name}")


def _make(node: Node, record: Record, standing: Standing) -> None:
    plan = record.planned
    try:
        with pinned(node, node.paths.pins / record.name, plan, standing.bound) as held:
            _start(node, record, plan, standing, held)
    except EngineError as error:
        standing.error = launch_error(error, plan, node.name)
    except (HookError, OSError) as error:
        standing.error = error
    except Exception as error:  # whoever waits must be let go
        node.emit("agent.error", record, level="error", where="stand", reason=repr(error)[:300])
        standing.error = NodeFault("agent-error", f"the container of job {record.job_id} could not be made: {error}")
    finally:
        standing.over.set()


def _start(node: Node, record: Record, plan: Plan, standing: Standing, held: Sequence[Bound]) -> None:
    """Create and start. Raises EngineError, NodeFault."""
    _go_on(standing)
    spec = container.to_wait(
        plan,
        [first_process.PROGRAM, first_process.TARGET, str(node.rm.polite_end_ms)],
        bound=held,
        made=made_for(node, record),
    )
    standing.container = record.container_id = node.engine.create(spec, record.container_name)
    _go_on(standing)
    node.engine.start(standing.container)
    pid = waiting_pid(node.engine, standing.container)
    standing.pid, standing.pid_start = pid, start_time(pid)


def _go_on(standing: Standing) -> None:
    if standing.is_abandoned:
        raise _Abandoned("abandoned", "the job is released")


def made_for(node: Node, record: Record) -> container.Made:
    """What the agent has made for the job's container."""
    facts, own_files, own_places = record.facts, record.facts.own_files, []
    if facts.first_process:
        own_files = (*own_files, (str(first_process.program(node.paths)), first_process.PROGRAM))
        own_places = [(str(node.init_dir(record)), first_process.TARGET)]
        own_places += [(str(node.init_dir(record) / first_process.SCRATCH), place) for place in facts.scratch]
    return container.Made(
        image_id=record.image_id or "",
        own_files=own_files,
        own_places=own_places,
        cgroup_parent=node.cgroups.cgroup_parent(record.cgroup),
        labels=node.labels(record),
        hostname=node.name,
        runtime=node.config.engine.runtime,
    )
