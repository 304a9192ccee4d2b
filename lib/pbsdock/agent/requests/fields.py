"""What several requests carry: a hook's arguments and its environment."""

from __future__ import annotations

from pbsdock.protocol import wire


def argv_of(message: wire.Message) -> list[str]:
    """The arguments a hook was called with; bytes that are not UTF-8 become surrogates."""
    return [argument.decode("utf-8", "surrogateescape") for argument in message.raw("argv")]


def env_of(message: wire.Message) -> dict[str, str]:
    """The variables a hook sent along."""
    pairs = (pair.decode("utf-8", "surrogateescape").partition("=") for pair in message.raw("env"))
    return {name: value for name, _, value in pairs}
