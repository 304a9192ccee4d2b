"""Manual pages in the macros of man(7): one for ``pbsdock``, one for each of its commands. Pure.

Own code because argparse-manpage makes one page for a whole program, and is published as source only.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

SECTION = 1
_FILES = (
    ("/etc/pbsdock/pbsdock.toml", "the site's configuration"),
    ("/var/log/pbsdock/events.jsonl", "what happened, one JSON object a line"),
    ("/var/lib/pbsdock", "records and history of jobs"),
)


def pages(parser: argparse.ArgumentParser, version: str) -> dict[str, str]:
    """File name -> text of the pages of *parser* and of each of its commands."""
    commands = subcommands(parser)
    made = {f"{parser.prog}.{SECTION}": _overview(parser, commands, version)}
    for name, (command, said) in commands.items():
        made[f"{parser.prog}-{name}.{SECTION}"] = _page(parser.prog, name, command, said, version)
    return made


def subcommands(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Name -> parser and one line of help of each command of *parser*."""
    found: dict[str, tuple[argparse.ArgumentParser, str]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            said = {entry.dest: _help(parser, entry) for entry in action._choices_actions}
            found |= {name: (command, said.get(name, "")) for name, command in action.choices.items()}
    return found


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options and operands of *parser* itself that are not hidden, commands left out."""
    return [
        action
        for action in parser._actions
        if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)
    ]


def _overview(
    parser: argparse.ArgumentParser, commands: dict[str, tuple[argparse.ArgumentParser, str]], version: str
) -> str:
    lines = [*_head(parser.prog, parser.description or "", version)]
    lines += [".SH SYNOPSIS", f".B {parser.prog}", r"\fICOMMAND\fR [\fIARGUMENT\fR ...]"]
    lines += [".SH DESCRIPTION", _plain(parser.description or ""), ".SH COMMANDS"]
    for name, (_, said) in commands.items():
        lines += [".TP", rf"\fB{_plain(parser.prog)}\-{_plain(name)}\fR({SECTION})", _plain(said)]
    lines += _options(parser)
    lines += [".SH EXIT STATUS", "0 if all is well, 1 if not, 2 for wrong input.", ".SH FILES"]
    for path, said in _FILES:
        lines += [".TP", f".I {_plain(path)}", _plain(said)]
    return "\n".join(lines) + "\n"


def _page(prog: str, name: str, command: argparse.ArgumentParser, said: str, version: str) -> str:
    lines = [*_head(f"{prog}-{name}", said, version)]
    lines += [".SH SYNOPSIS"]
    for parser, _ in _leaves(command, said):
        lines += [".PP", _synopsis(parser)]
    lines += [".SH DESCRIPTION", _plain(command.description or said)]
    lines += _options(command)
    for below, (parser, text) in subcommands(command).items():
        lines += [f".SH {_plain(f'{prog} {name} {below}'.upper())}", _plain(text)]
        lines += _options(parser, heading=None)
    lines += [".SH SEE ALSO", f".BR {prog} ({SECTION})"]
    return "\n".join(lines) + "\n"


def _leaves(command: argparse.ArgumentParser, said: str) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """The command itself, unless it always needs another word, and those below it."""
    below = subcommands(command)
    if not any(isinstance(action, argparse._SubParsersAction) and action.required for action in command._actions):
        yield command, said
    yield from below.values()


def _head(name: str, said: str, version: str) -> Iterator[str]:
    yield f'.TH "{_plain(name.upper())}" {SECTION} "" "pbsdock {_plain(version)}" "pbsdock"'
    yield ".SH NAME"
    yield rf"{_plain(name)} \- {_plain(said.rstrip('.'))}"


def _synopsis(parser: argparse.ArgumentParser) -> str:
    words = [rf"\fB{_plain(parser.prog)}\fR"]
    for action in arguments(parser):
        if action.option_strings:
            word = _option(parser, action, action.option_strings[:1])
            words.append(word if action.required else f"[{word}]")
        else:
            words.append(rf"\fI{_plain(_metavar(parser, action))}\fR")
    return " ".join(words)


def _options(parser: argparse.ArgumentParser, heading: str | None = ".SH OPTIONS") -> Iterator[str]:
    found = arguments(parser)
    if found and heading:
        yield heading
    for action in found:
        yield ".TP"
        if action.option_strings:
            yield _option(parser, action, action.option_strings)
        else:
            yield rf"\fI{_plain(_metavar(parser, action))}\fR"
        yield _plain(_help(parser, action)) or r"\&"


def _option(parser: argparse.ArgumentParser, action: argparse.Action, names: list[str]) -> str:
    value = "" if action.nargs == 0 else rf" \fI{_plain(_metavar(parser, action))}\fR"
    return ", ".join(rf"\fB{_plain(name)}\fR{value}" for name in names)


def _metavar(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = parser._get_formatter()
    default = formatter._get_default_metavar_for_optional(action) if action.option_strings else action.dest.upper()
    return formatter._format_args(action, default)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _plain(text: str) -> str:
    """Text that roff prints as it is: no escapes, hyphens that can be copied, no line that begins with a request."""
    escaped = re.sub(r"\s+", " ", text.strip()).replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
