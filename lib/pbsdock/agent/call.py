"""The four things that are believed of a run hook, as they come in its request. Pure."""

from __future__ import annotations

from pbsdock.core.errors import Refusal
from pbsdock.engine.spec import Call
from pbsdock.protocol import wire


def read_call(request: wire.Message, shell_option: str) -> tuple[Call, list[str]]:
    """The call, and the names of variables the Engine API cannot carry; *shell_option* is how a user asks for a shell.

    Raises Refusal if there is no command.
    """
    environment, lost = [], []
    for pair in request.raw("env"):
        name, _, value = pair.partition(b"=")
        try:
            environment.append((name.decode(), value.decode()))
        except UnicodeDecodeError:
            lost.append(name.decode("utf-8", "replace"))
    argv = tuple(word.decode("utf-8", "replace") for word in request.raw("argv"))
    if not argv:
        raise Refusal("no-command", "the run hook was called without a command")
    call = Call(
        argv=argv,
        environment=tuple(environment),
        cwd=request.text("cwd", "/"),
        umask=request.number("umask", 0o077),
        tty=bool(request.number("tty")),
        shell_option=shell_option,
    )
    return call, lost
