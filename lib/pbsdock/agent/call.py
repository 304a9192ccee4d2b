"""The four things that are believed of a run hook, as they come in its request. Pure."""

from __future__ import annotations

import os
from dataclasses import replace

from pbsdock.core.errors import BadValue, Refusal
from pbsdock.engine.spec import Call
from pbsdock.protocol import init, wire


def read_call(request: wire.Message, shell_option: str) -> Call:
    """The call; bytes that are no text become surrogates. *shell_option* is how a user asks for a shell.

    Raises Refusal if there is no command.
    """
    pairs = (pair.partition(b"=") for pair in request.raw("env"))
    argv = tuple(os.fsdecode(word) for word in request.raw("argv"))
    if not argv:
        raise Refusal("no-command", "the run hook was called without a command")
    return Call(
        argv=argv,
        environment=tuple((os.fsdecode(name), os.fsdecode(value)) for name, _, value in pairs),
        cwd=request.text("cwd", "/"),
        umask=request.number("umask", 0o077),
        tty=bool(request.number("tty")),
        shell_option=shell_option,
    )


def without_bytes(call: Call) -> tuple[Call, list[str]]:
    """The call less the variables that an engine cannot carry, and their names; words as it can carry them."""
    kept: list[tuple[str, str]] = []
    lost: list[tuple[str, str]] = []
    for name, value in call.environment:
        (kept if _is_text(f"{name}={value}") else lost).append((name, value))
    argv = tuple(os.fsencode(word).decode("utf-8", "replace") for word in call.argv)
    names = [os.fsencode(name).decode("utf-8", "replace") for name, _ in lost]
    return replace(call, argv=argv, environment=tuple(kept)), names


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_answer(message: wire.Message) -> init.Answer:
    """How a command has ended, as its client has heard it from the first process. Raises BadValue."""
    kind, number, path = message.number("kind"), message.number("number"), message.raw("path")
    if kind not in (init.ENDED, init.FAILED) or not 0 <= number < 1 << 16:
        raise BadValue(f"an end of kind {kind} with number {number} is none")
    return init.Answer(kind, number, message.text("step")[:32], (path or [b""])[0][:255])
