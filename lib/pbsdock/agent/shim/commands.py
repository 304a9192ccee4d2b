"""Every ``docker`` command that a job has, and the dialogue that carries it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pbsdock.agent.shim import copy, ends, execute, fetch, login, look, networks, output, run
from pbsdock.agent.shim.context import Asked, Context
from pbsdock.agent.shim.dialogue import Dialogue, Steps, out
from pbsdock.host.process import Caller
from pbsdock.shim import commands
from pbsdock.shim.parse import parse

if TYPE_CHECKING:
    from pbsdock.agent.session import Session

_ACTS: dict[type, Callable[[Context, Any], Steps]] = {
    commands.Run: run.run,
    commands.Exec: execute.execute,
    commands.Logs: output.logs,
    commands.Wait: ends.wait,
    commands.Stop: ends.stop,
    commands.Kill: ends.kill,
    commands.Rm: ends.remove,
    commands.Pull: fetch.pull,
    commands.Login: login.login,
    commands.Logout: login.logout,
    commands.Cp: copy.copy,
    commands.NetworkCreate: networks.create,
    commands.NetworkRm: networks.remove,
    commands.NetworkLs: networks.listed,
    commands.NetworkInspect: networks.inspect,
    commands.Ps: look.ps,
    commands.Images: look.images,
    commands.Inspect: look.inspect,
    commands.Version: look.version,
    commands.Info: look.info,
}


def begin(session: Session, caller: Caller, asked: Asked) -> Dialogue:
    """The dialogue of a command line, which has taken no step yet."""
    starts = asked.argv[:1] in (("run",), ("exec",)) or asked.argv[:2] in (("container", "run"), ("container", "exec"))
    return Dialogue(session, _steps(Context(session, caller, asked), asked), starts)


def _steps(at: Context, asked: Asked) -> Steps:
    """Raises ShimRefusal for what cannot be understood, at the first step."""
    command = parse(asked.argv, at.node.rm.words, asked.called_as)
    if isinstance(command, commands.Help):
        yield out(command.text)
        return 0
    return (yield from _ACTS[type(command)](at, command))
