"""A child in the resource manager's accounting: its command's session is counted as the job's, and signalled with it.

As for the job's own container (:mod:`pbsdock.hook.adopt`), but the agent starts the manager's tool, as the job's owner:
the client may be in a container, where there is none.
"""

from __future__ import annotations

import os
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
    own = {name: value for name, value in environment.items() if name.startswith("PBS_")}
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
    tool = node.rm.adopt(running.pid, 0).told.get("pbs_track", "")
    if not tool:
        return
    if record.facts.bare and not record.facts.has_place:
        # Mom files an adopted task in the place of the newest one it has started, which would be the job's shell.
        starter = f"{os.path.dirname(tool)}/pbsdsh"
        if not os.access(starter, os.X_OK):
            return
        record.note(has_place=True)
        if not _run(record, [starter, "-n", "0", str(node.paths.prefix / "hooks/run")], environment):
            record.note(has_place=False)
            return
    if not running.over.is_set() and _run(record, [tool, "-j", record.job_id, "-a", str(pid)], environment):
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
