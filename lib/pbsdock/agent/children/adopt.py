"""A child in the resource manager's accounting: its command's session is counted as the job's, and signalled with it.

As for the job's own container (:mod:`pbsdock.hook.adopt`), but the agent starts the manager's tool, as the job's owner:
the client may be in a container, where there is none.
"""

from __future__ import annotations

import fnmatch
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pbsdock.agent.node import Node
from pbsdock.agent.runs import ChildRun
from pbsdock.core.record import Record

_AFTER_S = 1.0  # what is over sooner is not worth a tool, and the job's own container is counted first
_TOOL_S = 30.0


def begin(node: Node, running: ChildRun, environment: Mapping[str, str]) -> None:
    """Have it counted in a moment, if it runs then; *environment* is the client's."""
    patterns = node.rm.words.own_variables
    own = {
        name: value
        for name, value in environment.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    with suppress(RuntimeError):  # no thread more can be had: it is not counted
        node.adopting.after(_AFTER_S, lambda: _adopt(node, running, own))


def command_of(pid: int) -> int:
    """The process that the first process *pid* runs for the child; 0 if there is none."""
    with suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return int(file.read().split()[0])
    return 0


def _adopt(node: Node, running: ChildRun, environment: Mapping[str, str]) -> None:
    record = running.record
    if running.over.is_set() or not (pid := command_of(running.pid)):
        return
    has_place = not record.facts.bare or record.facts.has_place
    hook = str(node.paths.prefix / "hooks/run")
    commands = node.rm.adopters(record.job_id, pid, hook=hook, has_place=has_place)
    if commands and not has_place:
        record.note(has_place=True)
    for argv in commands:
        if running.over.is_set() or not _run(record, argv, environment):
            return
    if commands:
        with suppress(OSError):
            node.children.note(record.name, running.name, adopted=True)


def _run(record: Record, argv: Sequence[str], environment: Mapping[str, str]) -> bool:
    plan = record.planned
    try:
        done = subprocess.run(
            argv,
            env={**environment, "PATH": "/usr/bin:/bin"},
            user=plan.uid,
            group=plan.gid,
            extra_groups=plan.groups,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=_TOOL_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
