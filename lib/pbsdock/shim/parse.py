"""From the words behind ``docker`` to a command, by the rules of Docker's own client. Pure.

Nothing but ShimRefusal is raised, whatever the words, and the time is in proportion to their length.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from pbsdock.directive.tokens import shown
from pbsdock.rm.base import Words
from pbsdock.shim import build, help, vocabulary
from pbsdock.shim.commands import Command, Help, Version
from pbsdock.shim.flags import HELP, Parsed, parse_bool, read
from pbsdock.shim.given import Given
from pbsdock.shim.other_programs import why_not_called
from pbsdock.shim.refusal import FAILED, USAGE, ShimRefusal, not_offered
from pbsdock.shim.syntax import GLOBAL, GROUPS, OFFERED, SPELLINGS, Syntax

WORD_LIMIT = 65_536  # words
TEXT_LIMIT = 4 * 1024 * 1024  # characters of all words, twice what the kernel takes by default

__all__ = ["Command", "ShimRefusal", "parse"]


def parse(argv: Sequence[str], words: Words, called_as: str = "docker") -> Command:
    """Read a command line, without the program's name. Raises ShimRefusal.

    *words* are those of the resource manager that runs the job; *called_as* is the name the client was called by, of
    which all but ``docker`` are refused with what to write instead.
    """
    if len(argv) > WORD_LIMIT or sum(map(len, argv)) > TEXT_LIMIT:
        raise ShimRefusal(
            f"the command line is too long; at most {WORD_LIMIT} words and {TEXT_LIMIT} characters are taken"
        )
    if any("\0" in word for word in (*argv, called_as)):
        raise ShimRefusal("the command line holds a NUL, which no program's can")
    if refusal := why_not_called(called_as, argv):
        raise refusal
    top = read(argv, GLOBAL, _strange("", words), interspersed=False)
    if top.flag("version"):
        return Version(short=True)
    _check_global(top)
    if top.flag(HELP) or not top.arguments:
        return help.overview(words)
    return _command(top.arguments, words)


def _check_global(top: Parsed) -> None:
    context = top.last("context")
    if context not in (None, "", "default"):
        raise not_offered("--context", vocabulary.why_no_context())
    level = top.last("log-level")
    if level is not None and level not in ("debug", "info", "warn", "error", "fatal"):
        raise ShimRefusal(f"unable to parse logging level: {shown(level)}; use debug, info, warn, error or fatal")


def _command(arguments: list[str], words: Words) -> Command:
    """The command the first words name, with whatever follows them."""
    first, rest = arguments[0], arguments[1:]
    if first == HELP:
        return _help(rest, words)
    if first in GROUPS:
        group = read(rest, (), _strange(first, words), interspersed=False)
        if group.flag(HELP) or not group.arguments:
            return help.group(first, words)
        name, rest = f"{first} {group.arguments[0]}", group.arguments[1:]
    else:
        name = first
    syntax = OFFERED.get(SPELLINGS.get(name, name))
    if syntax is None:
        raise _unknown_command(name, rest, words)
    parsed = read(rest, syntax.options, _strange(syntax.name, words), interspersed=not syntax.ends_early)
    if parsed.flag(HELP):
        return help.command(syntax, name, words)
    _check_count(syntax, name, parsed)
    return build.BUILDERS[syntax.name](Given(syntax, parsed))


def _help(topic: Sequence[str], words: Words) -> Help:
    """``docker help [COMMAND [COMMAND]]``."""
    if not topic:
        return help.overview(words)
    if len(topic) == 1 and topic[0] in GROUPS:
        return help.group(topic[0], words)
    for count in (2, 1):
        name = " ".join(topic[:count])
        if syntax := OFFERED.get(SPELLINGS.get(name, name)):
            return help.command(syntax, name, words)
    raise _unknown_command(topic[0], topic[1:], words)


def _unknown_command(name: str, rest: Sequence[str], words: Words) -> ShimRefusal:
    """The refusal of a command that is not offered, or that nobody has."""
    first, _, second = name.partition(" ")
    following = next((word for word in rest if not word.startswith("-")), "")
    if found := vocabulary.why_no_command((first, second or following), words):
        status = USAGE if found[0] in ("create", "container create") else FAILED  # as docker create itself
        return not_offered(f"docker {found[0]}", found[1], status)
    known = (*OFFERED, *SPELLINGS, *GROUPS)
    near = difflib.get_close_matches(name[:40].lower(), known, n=1, cutoff=0.6)
    hint = f"did you mean docker {near[0]}?" if near else "the commands are listed by docker --help"
    said = name if name.isprintable() and len(name) <= 40 else shown(name)
    return ShimRefusal(f"unknown command: docker {said}; {hint}", FAILED)


def _check_count(syntax: Syntax, name: str, parsed: Parsed) -> None:
    count, least, most = len(parsed.arguments), syntax.least, syntax.most
    if count >= least and (most is None or count <= most):
        return
    if most == 0:
        takes = "accepts no arguments"
    elif least == most:
        takes = f"requires {least} argument{'s' * (least > 1)}"
    elif count < least:
        takes = f"requires at least {least} argument{'s' * (least > 1)}"
    else:
        takes = f"requires at most {most} argument{'s' * ((most or 0) > 1)}"
    raise ShimRefusal(f"'docker {name}' {takes}; its usage is: {syntax.usage}", FAILED)


def _strange(command: str, words: Words) -> Callable[[str, str | None], None]:
    """What is done with an option of a command that is not offered."""

    def refuse(option: str, value: str | None) -> None:
        name = vocabulary.long_name(command, option)
        if why := vocabulary.why_no_option(command, name, words):
            if not (value is not None and vocabulary.is_flag(command, name) and parse_bool(value) is False):
                raise not_offered(option, why)
        elif option.startswith("--"):
            raise ShimRefusal(_unknown_option(command, option))

    return refuse


def _unknown_option(command: str, option: str) -> str:
    options = OFFERED[command].options if command in OFFERED else GLOBAL if not command else ()
    known = [f"--{each.name}" for each in options if not each.stands_for]
    near = difflib.get_close_matches(option[:40].lower(), known, n=1, cutoff=0.6)
    usage = " ".join(word for word in ("docker", command, "--help") if word)
    hint = f"did you mean {near[0]}?" if near else f"the options are listed by {usage}"
    return f"unknown flag: {option if option.isprintable() and len(option) <= 40 else shown(option)}; {hint}"
