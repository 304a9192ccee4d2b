"""The end of a child: found out, written down, told to whoever waits; then what is left of it is removed."""

from __future__ import annotations

import errno
import os
import time

from pbsdock.agent import first_process
from pbsdock.agent.child_book import over
from pbsdock.agent.children import logs, places
from pbsdock.agent.children.start import remove, remove_container
from pbsdock.agent.node import Node
from pbsdock.agent.runs import ChildRun
from pbsdock.agent.usage import usage_of
from pbsdock.core.errors import HookError
from pbsdock.core.record import Record
from pbsdock.engine.base import EngineError
from pbsdock.protocol import init, wire

REMOVED = 137  # exit code of a child that was removed while it ran
_NOT_FOUND, _NOT_RUN, _FAILED = 127, 126, 125
_REMOVED_S = 10.0


def finish(node: Node, running: ChildRun) -> int:
    """Conclude a child that is over, once, any thread; returns its exit code, as Docker has it."""
    record = running.record
    with running.lock:
        known, running.ended = running.ended, running.ended or wire.Message("ended")
    if known is not None:
        running.over.wait(_REMOVED_S)
        return known.number("code", REMOVED)
    code = _code_of(node, running)
    running.ended.fields["code"] = [str(code).encode()]
    is_out_of_memory = _is_out_of_memory(node, record, code)
    child = node.children.child(record.name, running.name)
    try:
        node.children.note(record.name, running.name, **over(code, time.time(), oom=is_out_of_memory))
    except OSError as error:  # a full disk: what it was is told all the same
        node.emit("agent.error", record, level="error", where="children", reason=str(error)[:300])
    if child is not None and child.detached:
        logs.trim_child(node, record, child)
    node.jobs.drop(running)
    running.conclude()
    if child is not None:
        node.emit(
            "child.ended",
            record,
            child=child.name,
            container=child.id,
            code=code,
            oom=is_out_of_memory,
            seconds=round(time.time() - (child.started or child.created), 3),
            phase="run",
        )
    _tidy_beside(node, record, running.name, forgets=child is None or child.removes_itself)
    return code


def kill(node: Node, running: ChildRun) -> None:
    """End a child with all that runs in it. Raises NodeFault, EngineError."""
    remove_container(node, running.record, running.name)
    finish(node, running)


def failed(end: init.Answer) -> tuple[int, str]:
    """Exit code and sentence of a command that could not be started, as ``docker run`` has them. Pure."""
    path, why = os.fsdecode(end.path), os.strerror(end.number)
    if end.step == "execve" and end.number == errno.ENOENT and "/" in path:
        return _NOT_FOUND, f'exec: "{path}": stat {path}: no such file or directory'
    if end.step == "execve" and end.number == errno.ENOENT:
        return _NOT_FOUND, f'exec: "{path}": executable file not found in the container'
    if end.step == "execve":
        return _NOT_RUN, f'exec: "{path}": {why.lower()}'
    if end.step == "chdir":
        return _NOT_RUN, f"the directory {path} cannot be entered: {why.lower()}"
    return _FAILED, f"the command could not be started: {end.step} {path}: {why.lower()}"


def _code_of(node: Node, running: ChildRun) -> int:
    record = running.record
    end = running.said or first_process.read_end(places.init_dir(node, record, running.name), first_process.LEADER)
    if end is not None:
        return end.code if end.kind == init.ENDED else failed(end)[0]
    try:
        found = node.engine.inspect(places.container_name(record, running.name))
    except (HookError, EngineError):
        return REMOVED
    return REMOVED if found is None or found.is_running else found.exit_code


def _is_out_of_memory(node: Node, record: Record, code: int) -> bool:
    """Whether the kernel has killed for the job's memory: which of the job's processes it was it does not tell."""
    if code != REMOVED:
        return False
    try:
        return bool(usage_of(node, record).oom_kills)
    except (HookError, OSError):
        return False


def _tidy_beside(node: Node, record: Record, key: str, *, forgets: bool) -> None:
    """Remove its container while the job goes on. The release looks after what this cannot remove."""

    def act() -> None:
        try:
            with node.children.starting(record.name):
                remove(node, record, key)
                if forgets:
                    node.children.forget(record.name, key)
        except (HookError, EngineError, OSError) as error:
            if not node.children.is_closed(record.name):
                node.emit("release.failed", record, level="warning", reason=f"child: {error}", phase="run")

    try:
        node.later.soon(act)
    except RuntimeError:  # no thread more can be had
        act()
