"""The variables of a command: what ``--env-file`` and ``--env`` name, read and filled in on the client's side."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Tell
from pbsdock.protocol import wire
from pbsdock.shim.commands import Environment
from pbsdock.shim.env_file import parse_env_file
from pbsdock.shim.refusal import ShimRefusal

_FILE_BYTES = 1 << 20


def of_command(
    at: Context, pairs: Environment, files: Sequence[str]
) -> Generator[Tell, wire.Message | None, dict[str, str]]:
    """Those of the files first, then those of the options; a name alone is as the client's environment has it."""
    found: dict[str, str] = {}
    for path in files:
        text = yield from read_file(path, _FILE_BYTES)
        _fill(found, parse_env_file(text, path), at)
    _fill(found, pairs, at)
    return found


def read_file(path: str, most: int) -> Generator[Tell, wire.Message | None, bytes]:
    """A file as the client can read it. Raises ShimRefusal."""
    answer = yield Tell(wire.Message("read", path=path, most=most), is_answered=True)
    if answer is None or answer.op != "content":
        why = answer.text("reason") if answer is not None else "no answer"
        raise ShimRefusal(f"open {path}: {why}", 125)
    return (answer.raw("data") or [b""])[0]


def _fill(found: dict[str, str], pairs: Environment, at: Context) -> None:
    for name, value in pairs:
        if value is not None:
            found[name] = value
        elif name in at.asked.environment:
            found[name] = at.asked.environment[name]
