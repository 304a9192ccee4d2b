"""Manual pages and completion are those of the command as it is; ``make pages`` writes them anew."""

from __future__ import annotations

import argparse
import re
import subprocess

import pytest

from tests.conftest import ROOT
from tests.support.commands import parsers

_MAN = ROOT / "share/man/man1"
_BASH = ROOT / "share/bash-completion/completions/pbsdock"


COMMANDS = {parser.prog.replace(" ", "-"): parser for parser in parsers()}


def _plain(text: str) -> str:
    """Without what roff has in it, and however it is wrapped."""
    return re.sub(r"[\\\s&]|\\f[A-Z]|'|\"", "", text)


def test_there_is_a_page_for_each_command() -> None:
    """And none for one that is no more."""
    assert {path.stem for path in _MAN.glob("*.1")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_the_options_as_they_are(name: str) -> None:
    """Each with its text; stale pages fail here, and ``make pages`` mends them."""
    page = _plain((_MAN / f"{name}.1").read_text())
    for action in COMMANDS[name]._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        for option in action.option_strings:
            assert _plain(option) in page, option
        if action.help:
            text = COMMANDS[name]._get_formatter()._expand_help(action)
            assert _plain(text) in page, action.help


def _completed(*words: str) -> list[str]:
    script = (
        f"source {_BASH}; COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; _shtab_pbsdock;"
        ' echo "${COMPREPLY[@]}"'
    )
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_and_options() -> None:
    """Of every command there is."""
    for name, parser in COMMANDS.items():
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert set(_completed(*name.split("-"), "")) >= set(action.choices), name
    assert _completed("pbsdock", "undr") == ["undrain"]
    assert set(_completed("pbsdock", "drain", "--re")) == {"--reason"}
