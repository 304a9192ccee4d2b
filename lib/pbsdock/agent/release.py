"""Release: the one idempotent teardown of a record. The epilogue, a failed prologue and the reaper all call it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from pbsdock.agent import stage
from pbsdock.agent.node import Node, ms_since
from pbsdock.core.errors import HookError, NodeFault
from pbsdock.core.facts import Usage
from pbsdock.core.record import Record, State
from pbsdock.engine.base import EngineError
from pbsdock.host import pins
from pbsdock.host.syscalls import unmount
from pbsdock.protocol import wire

_EMPTY_S = 5.0


def release(node: Node, record: Record, *, why: str, keep: bool = False) -> bool:
    """Undo every step of *record*, look whether it worked, and forget the record; returns whether all is gone.

    Safe for steps that never happened or happened half. With *keep* the record and its marker stay (a refusal is
    still to be told). What could not be undone keeps the record, and the reaper tries again.
    """
    began = time.monotonic()
    told = {"why": why, "state": record.state.value, "phase": "release"}
    if keep:
        node.emit("release.begun", record, **told)
    else:
        # Room is what this makes: a full disk must not stop it. The next agent would find the record as it was before.
        record.advance(State.RELEASING, must_be_written=False, **told)
    failures = tear_down(node, record)
    if failures:
        node.emit("release.failed", record, level="error", reason="; ".join(failures), phase="release")
        return False
    if not keep:
        node.unmark(record)
        node.jobs.remove(record)
        _tell_run_hook(node, record, why)
    node.emit("release.done", record, why=why, ms=ms_since(began), phase="release")
    return True


def _tell_run_hook(node: Node, record: Record, why: str) -> None:
    """Let a run hook that still waits go: its container was taken away from under it."""
    run = node.jobs.job_run(record.incarnation)
    if run is not None:
        node.jobs.drop(run)
        if run.ended is None:
            sentence = f"the container was removed while the job ran ({why}); exit status 137 is not the job's own"
            run.end(wire.Message("ended", code=137, sentence=sentence))
    node.streams.end(record.incarnation)


def tear_down(node: Node, record: Record) -> list[str]:
    """Kill and remove container, cgroup and files, and verify; returns what is left, in words."""
    failures: list[str] = []
    if record.plan is None:
        return failures
    for step, act in _STEPS:
        if not record.is_gone(step):
            try:
                act(node, record)
            except (HookError, EngineError, OSError) as error:
                failures.append(f"{step}: {error}")
    return failures


def _kill(node: Node, record: Record) -> None:
    if not node.cgroups.kill(record.cgroup, _EMPTY_S):
        raise NodeFault("cgroup-busy", f"processes of {record.cgroup} survive being killed")


def _remove_container(node: Node, record: Record) -> None:
    node.remove_container(record, _EMPTY_S)
    record.set_gone("container")
    if record.container_id:
        node.emit("container.removed", record, container=record.container_id)


def _remove_cgroup(node: Node, record: Record) -> None:
    remember_usage(node, record)
    node.cgroups.remove(record.cgroup, _EMPTY_S)
    record.set_gone("cgroup")
    node.emit("cgroup.removed", record, cgroup=record.cgroup)


def remember_usage(node: Node, record: Record) -> Usage:
    """Read what the job used while its cgroup still tells, once; nothing is known of one that never existed."""
    if record.facts.usage is None:
        try:
            record.note(usage=node.cgroups.usage(record.cgroup))
        except (HookError, OSError):
            return Usage()
    return record.facts.usage or Usage()


def _unstage(node: Node, record: Record) -> None:
    if "staging" in record.steps:
        try:
            stage.stop(node, record)
            stage.undo(node, record)
        except stage.StageFailed as error:
            raise NodeFault(error.code, error.sentence) from None
        record.set_gone("staging")
        node.jobs.drop_work(record)


def _revoke(node: Node, record: Record) -> None:
    if "credentials" in record.steps:
        node.stores.revoke(record)
        record.set_gone("credentials")


def _remove_files(node: Node, record: Record) -> None:
    remove_work(node, node.work_dir(record).name)
    record.set_gone("files")


def remove_work(node: Node, name: str) -> None:
    """Remove a job's work directory, the tmpfs in it, and before them its pins. Raises OSError."""
    pins.remove(node.paths.pins / name)
    directory = node.paths.work / name
    if directory.exists():
        unmount(str(directory / "s3"))
        shutil.rmtree(directory)


# The processes go first, whatever the engine does; the cgroup itself can only go after the container's own below it.
_STEPS: tuple[tuple[str, Callable[[Node, Record], None]], ...] = (
    ("cgroup", _kill),
    ("staging", _unstage),
    ("credentials", _revoke),
    ("container", _remove_container),
    ("cgroup", _remove_cgroup),
    ("files", _remove_files),
)
