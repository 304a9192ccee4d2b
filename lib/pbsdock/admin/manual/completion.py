"""Completion for bash and zsh, written by shtab. Nothing is run while somebody waits for it, not even Python."""

from __future__ import annotations

import argparse

import shtab

from pbsdock.admin.manual.pages import subcommands

SHELLS = ("bash", "zsh")
_FILES = ("SCRIPT", "FILE", "PATH")
_DIRECTORIES = ("DIR",)


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The text that *shell* reads (one of SHELLS)."""
    _mark(parser)
    return str(shtab.complete(parser, shell=shell))


def _mark(parser: argparse.ArgumentParser) -> None:
    """Which arguments are names of files: what the help calls them says so."""
    for action in parser._actions:
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in _DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    for command, _ in subcommands(parser).values():
        _mark(command)
