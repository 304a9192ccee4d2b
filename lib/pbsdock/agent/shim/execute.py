"""``docker exec``: one more command in a child, a fork of its first process like a task of a job."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress

from pbsdock.agent import first_process
from pbsdock.agent.call import read_answer
from pbsdock.agent.children import adopt, inner, logs, places
from pbsdock.agent.children.finish import REMOVED, failed
from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, Tell, notice
from pbsdock.agent.shim.environment import of_command
from pbsdock.agent.starting import limits_of
from pbsdock.core.child import Child
from pbsdock.host.process import alive, parent
from pbsdock.protocol import init, wire
from pbsdock.shim.commands import Exec
from pbsdock.shim.refusal import FAILED, ShimRefusal


def execute(at: Context, asked: Exec) -> Steps:
    """The command. Raises Refusal, NodeFault."""
    at.asked.check_terminal(asked)
    record = at.asker.record
    child = at.running(asked.container)
    assert record is not None  # it has a child
    if asked.user is not None and asked.user.partition(":")[0] not in _own_names(child):
        yield notice(f"docker: --user {asked.user}: a job's containers run as yourself")
    given = yield from of_command(at, asked.env, asked.env_files)
    place = places.init_dir(at.node, record, child.key)
    try:
        running = at.node.jobs.child_run(record.incarnation, child.key)
        known = running.environment if running is not None else {}
        environment = {**(known or environment_of(child)), **({"TERM": "xterm"} if asked.tty else {}), **given}
        within = first_process.within(child.pid, limits_of(at.caller))
    except OSError:
        raise ShimRefusal(f"Container {child.id} is not running", FAILED) from None
    message = wire.Message("started", name=f"exec-{secrets.token_hex(8)}", leader=0, umask=at.asked.umask)
    directory = asked.workdir or child.plan.workdir or "/"
    inner.commanded(message, asked.argv, environment, directory, within)
    if asked.detach:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            end = inner.run_here(place, child.pid, message, (null, null, null))
        finally:
            logs.close_all([null])
        return _told(end)[0]
    # No signals, as Docker's own client has it.
    inner.of_client(message, interactive=asked.interactive, terminal=asked.tty, proxy=False)
    answer = yield Tell(message, (first_process.open_directory(place),), is_answered=True)
    if answer is None or not answer.text("kind"):
        return REMOVED  # the container is over, and took it along
    end = read_answer(answer)
    first_process.forget_end(place, message.text("name"))
    code, why = _told(end)
    if why:
        yield notice(f"docker: {why}")
    return code


def _told(end: init.Answer | None) -> tuple[int, str]:
    if end is None:
        return 0, ""
    return (end.code, "") if end.kind == init.ENDED else failed(end)


def _own_names(child: Child) -> tuple[str, ...]:
    return (child.plan.user, str(child.plan.uid), "")


def environment_of(child: Child) -> Mapping[str, str]:
    """The variables its command was started with: of the first process's first child. Raises OSError if it is over."""
    found: Mapping[str, str] = {}
    with suppress(OSError):
        if command := adopt.command_of(child.pid):
            found = first_process.environment_of(command)
            if parent(command) != child.pid:
                found = {}
    found = found or first_process.environment_of(child.pid)
    if not alive(child.pid, child.pid_start):  # the number may be another's already, and the variables of that
        raise ProcessLookupError(child.pid)
    return found
