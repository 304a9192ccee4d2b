"""The command with all its parts, as its parser has them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pbsdock.admin.cli import parser_for


def parsers(parser: argparse.ArgumentParser | None = None) -> Iterator[argparse.ArgumentParser]:
    """A parser, by default the whole command's, and those of its parts."""
    parser = parser or parser_for()
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from parsers(part)
