"""Release: the one idempotent teardown of a record. The epilogue, a failed prologue and the reaper all call it."""

from __future__ import annotations

import shutil
import time
from typing import Any

from pbsdock import wire
from pbsdock.agent.node import Node
from pbsdock.engine import EngineError
from pbsdock.errors import HookError, NodeFault
from pbsdock.ledger import Record

_EMPTY_S = 5.0


def release(node: Node, record: Record, *, why: str, keep: bool = False) -> bool:
    """Undo every step of *record*, look whether it worked, and forget the record; returns whether all is gone.

    Safe for steps that never happened or happened half. With *keep* the record and its marker stay (a refusal is
    still to be told). What could not be undone keeps the record, and the reaper tries again.
    """
    began = time.monotonic()
    before = record.state
    if not keep:
        record.state = "releasing"
        node.ledger.save(record)
    node.emit("release.begun", record, why=why, state=before, phase="release")
    failures = tear_down(node, record)
    if failures:
        node.emit("release.failed", record, level="error", reason="; ".join(failures), phase="release")
        return False
    if not keep:
        node.unmark(record)
        node.ledger.remove(record)
        _tell_run_hook(node, record, why)
    node.emit("release.done", record, why=why, ms=round((time.monotonic() - began) * 1000, 1), phase="release")
    return True


def _tell_run_hook(node: Node, record: Record, why: str) -> None:
    """Let a run hook that still waits go: its container was taken away from under it."""
    running = node.running.pop(record.incarnation, None)
    if running is None or running.ended is not None:
        return
    sentence = f"the container was removed while the job ran ({why}); exit status 137 is not the job's own"
    running.ended = wire.Message("ended", code=137, sentence=sentence)
    running.send(running.ended)


def tear_down(node: Node, record: Record) -> list[str]:
    """Kill and remove container, cgroup and files, and verify; returns what is left, in words."""
    failures: list[str] = []
    if record.plan is None:
        return failures
    if not record.steps.get("cgroup", {}).get("gone"):
        _attempt(failures, "cgroup", lambda: _kill(node, record))
    if not record.steps.get("container", {}).get("gone"):
        _attempt(failures, "container", lambda: _remove_container(node, record))
    if not record.steps.get("cgroup", {}).get("gone"):
        _attempt(failures, "cgroup", lambda: _remove_cgroup(node, record))
    if not record.steps.get("files", {}).get("gone"):
        _attempt(failures, "files", lambda: _remove_files(node, record))
    return failures


def _attempt(failures: list[str], what: str, act: Any) -> None:
    try:
        act()
    except (HookError, EngineError, OSError) as error:
        failures.append(f"{what}: {error}")


def _kill(node: Node, record: Record) -> None:
    if not node.cgroups.kill(record.cgroup, _EMPTY_S):
        raise NodeFault("cgroup-busy", f"processes of {record.cgroup} survive being killed")


def _remove_container(node: Node, record: Record) -> None:
    deadline = time.monotonic() + _EMPTY_S
    # Asked by name: a crash between the engine's create and our record leaves no id.
    while True:
        node.engine.remove(record.container_name)
        if node.engine.inspect(record.container_name) is None:
            break
        if time.monotonic() > deadline:
            raise NodeFault("container-stays", f"container {record.container_name} cannot be removed")
        time.sleep(0.05)
    record.steps["container"] = {**record.steps.get("container", {}), "gone": True}
    if record.container_id:
        node.emit("container.removed", record, container=record.container_id)


def _remove_cgroup(node: Node, record: Record) -> None:
    remember_usage(node, record)
    node.cgroups.remove(record.cgroup, _EMPTY_S)
    record.steps["cgroup"] = {**record.steps.get("cgroup", {}), "gone": True}
    node.emit("cgroup.removed", record, cgroup=record.cgroup)


def remember_usage(node: Node, record: Record) -> dict[str, Any]:
    """Read what the job used while its cgroup still tells, once; {} when it never existed."""
    if "usage" not in record.facts:
        try:
            usage = node.cgroups.usage(record.cgroup)
        except (HookError, OSError):
            return {}
        record.facts["usage"] = {name: getattr(usage, name) for name in usage.__dataclass_fields__}
    return dict(record.facts["usage"])


def _remove_files(node: Node, record: Record) -> None:
    directory = node.work_dir(record)
    if directory.exists():
        shutil.rmtree(directory)
    record.steps["files"] = {**record.steps.get("files", {}), "gone": True}
