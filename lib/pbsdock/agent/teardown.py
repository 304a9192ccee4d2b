"""The acts that undo a record's steps, in their order; each can be repeated, and is a no-op where nothing is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

from pbsdock.agent import stage, standing
from pbsdock.agent.children.release import remove_all
from pbsdock.agent.node import Node
from pbsdock.agent.protocols import HasCgroups
from pbsdock.agent.stage_orders import StageFailed
from pbsdock.agent.usage import usage_of
from pbsdock.core.errors import HookError, NodeFault
from pbsdock.core.facts import Usage
from pbsdock.core.paths import Paths
from pbsdock.core.record import Record
from pbsdock.engine.base import EngineError
from pbsdock.host import pins
from pbsdock.host.process import end
from pbsdock.host.syscalls import unmount

_EMPTY_S = 5.0
_OPTIONAL = ("staging", "credentials")  # which not every job has


def remains(record: Record, step: str) -> bool:
    """Whether something of a step may be left. Pure.

    To be asked when it is its turn: ending an upload can need credentials that were revoked already.
    """
    if record.plan is None or record.is_gone(step):
        return False
    return step in record.steps or step not in _OPTIONAL


def tear_down(node: Node, record: Record) -> list[str]:
    """Kill and remove container, cgroup and files, and verify; returns what is left, in words."""
    failures: list[str] = []
    for step, act in ACTS:
        if remains(record, step):
            try:
                act(node, record)
            except (HookError, EngineError, OSError) as error:
                failures.append(f"{step}: {error}")
    return failures


def remember_usage(node: HasCgroups, record: Record) -> Usage:
    """Read what the job used while its cgroup still tells, once; nothing is known of one that never existed."""
    if record.facts.usage is None:
        try:
            record.note(usage=usage_of(node, record))
        except (HookError, OSError):
            return Usage()
    return record.facts.usage or Usage()


def remove_work(paths: Paths, name: str) -> None:
    """Remove a job's work directory, the tmpfs in it, and before them its pins. Raises OSError."""
    pins.remove(paths.pins / name)
    directory = paths.work / name
    if directory.exists():
        for place in ("s3", "init"):
            unmount(str(directory / place))
        shutil.rmtree(directory)


def _kill(node: HasCgroups, record: Record) -> None:
    before = _usage(node, record) if record.facts.usage is None else None
    if not node.cgroups.kill(record.cgroup, _EMPTY_S):
        raise NodeFault("cgroup-busy", f"processes of {record.cgroup} survive being killed")
    # On version 2 a container that the resource manager has taken in is in no cgroup of ours.
    if record.facts.counted_in and not end(record.facts.pid, record.facts.pid_start, _EMPTY_S):
        raise NodeFault("cgroup-busy", f"the first process of {record.container_name} survives being killed")
    if before is not None and before.oom_kills:
        # Only the container's own cgroup has counted them on v1, and it goes with the container.
        after = _usage(node, record) or before
        kills = max(before.oom_kills, after.oom_kills or 0)
        record.note(usage=replace(after, oom_kills=kills, oom_at=after.oom_at or before.oom_at))


def _usage(node: HasCgroups, record: Record) -> Usage | None:
    try:
        return usage_of(node, record)
    except (HookError, OSError):
        return None


def _unstage(node: Node, record: Record) -> None:
    try:
        stage.stop(node, record)
        stage.undo(node, record)
    except StageFailed as error:
        raise NodeFault(error.code, error.sentence) from None
    record.set_gone("staging")
    node.jobs.drop_work(record)


def _revoke(node: Node, record: Record) -> None:
    node.stores.revoke(record)
    record.set_gone("credentials")


def _remove_children(node: Node, record: Record) -> None:
    remove_all(node, record)
    record.set_gone("children")


def _remove_container(node: Node, record: Record) -> None:
    standing.end(node, record)
    node.remove_container(record.container_name, _EMPTY_S)
    record.set_gone("container")
    if record.container_id:
        node.emit("container.removed", record, container=record.container_id)


def _remove_cgroup(node: Node, record: Record) -> None:
    remember_usage(node, record)
    node.cgroups.remove(record.cgroup, _EMPTY_S)
    record.set_gone("cgroup")
    node.emit("cgroup.removed", record, cgroup=record.cgroup)


def _remove_files(node: Node, record: Record) -> None:
    remove_work(node.paths, node.work_dir(record).name)
    record.set_gone("files")


# The processes go first, whatever the engine does; the cgroup itself can only go after the container's own below it.
ACTS: tuple[tuple[str, Callable[[Node, Record], None]], ...] = (
    ("cgroup", _kill),
    ("staging", _unstage),
    ("credentials", _revoke),
    ("children", _remove_children),
    ("container", _remove_container),
    ("cgroup", _remove_cgroup),
    ("files", _remove_files),
)
