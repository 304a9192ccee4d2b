"""Write the manual pages and the completion of both shells anew, from the command's own parser.

``make pages`` runs it with argparse-manpage and shtab, which nothing that is installed needs. Nothing of the day is in
the files, so the same parser makes the same bytes.
"""

from __future__ import annotations

import argparse
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from pbsdock.admin.cli import parser_for

HERE = Path(__file__).resolve().parent.parent
SHARE = HERE / "share"
_PATHS = ("script", "scripts")  # arguments that are files


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """A parser and all below it, each with what it is for."""
    yield parser, parser.description or ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                says = told.get(name, "")
                below.description = below.description or f"{says[:1].upper()}{says[1:]}."
                yield from commands(below)


def page(parser: argparse.ArgumentParser, version: str) -> str:
    """One manual page; the options of what is below it are in pages of their own."""
    data = {"project_name": "pbsdock", "version": version, "date": " ", "manual_title": "pbsdock", "manual_section": 1}
    text = str(Manpage(parser, _data=data))
    # argparse-manpage takes the command's name for the page's, which must be one word, and has what is below it inside.
    name = parser.prog.replace(" ", "-")
    head = f'.TH {name.upper()} 1 "" "pbsdock {version}" "pbsdock"'
    says = (parser.description or "").rstrip(".").replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"\A\.TH .*$", lambda _: head, text, count=1, flags=re.MULTILINE)
    named = f".SH NAME\n{name.replace('-', chr(92) + '-')} \\- {says}\n.SH SYNOPSIS"
    text = re.sub(r"^\.SH NAME\n.*?^\.SH SYNOPSIS", lambda _: named, text, count=1, flags=re.MULTILINE | re.DOTALL)
    sections = re.split(r"(?=^\.SH )", text, flags=re.MULTILINE)
    text = "".join(part for part in sections if not re.match(r"\.SH \"?(COMMAND|OPTIONS|ARGUMENTS)\b.*'", part))
    others = ",\n".join(f".BR {other} (1)" for other in sorted(_near(parser)))
    return f"{text.rstrip()}\n.SH SEE ALSO\n{others}\n" if others else f"{text.rstrip()}\n"


def _near(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The pages of what is above and below a command."""
    words = parser.prog.split(" ")
    if len(words) > 1:
        yield "-".join(words[:-1])
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from ("-".join([*words, name]) for name in action.choices)


def main() -> int:
    """Write them all."""
    settings = configparser.ConfigParser()
    settings.read(HERE / "setup.cfg")
    parser = parser_for()
    man = SHARE / "man/man1"
    man.mkdir(parents=True, exist_ok=True)
    for stale in man.glob("*.1"):
        stale.unlink()
    made = list(commands(parser))
    for command, _ in made:
        (man / f"{command.prog.replace(' ', '-')}.1").write_text(page(command, settings["metadata"]["version"]))
        for action in command._actions:
            if action.dest in _PATHS and not action.option_strings:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    for shell, name in (("bash", "bash-completion/completions/pbsdock"), ("zsh", "zsh/site-functions/_pbsdock")):
        path = SHARE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shtab.complete(parser, shell=shell))
    print(f"{len(made)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
