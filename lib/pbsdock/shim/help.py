"""What ``--help`` prints: what is offered, in Docker's own layout, and what is not, with its reason. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pbsdock.rm.base import Words
from pbsdock.shim import vocabulary
from pbsdock.shim.commands import Help
from pbsdock.shim.flags import Option
from pbsdock.shim.syntax import GLOBAL, GROUPS, OFFERED, SPELLINGS, Syntax


def overview(words: Words) -> Help:
    """``docker --help``."""
    lines = [
        "Usage:  docker [OPTIONS] COMMAND",
        "",
        f"Containers within this job; {words.name} and the site set the limits",
        "",
        "Commands:",
        *_columns([(name, syntax.says) for name, syntax in OFFERED.items() if " " not in name]),
        "",
        "Management Commands:",
        *_columns([(name, f"docker {name} --help lists its commands") for name in GROUPS]),
        "",
        "Global Options:",
        *_options(GLOBAL),
        "",
        "Run 'docker COMMAND --help' for more information on a command.",
    ]
    return _help("docker", lines)


def group(name: str, words: Words) -> Help:
    """``docker network --help``, or ``docker network`` alone."""
    offered = {spelling: OFFERED[of].says for spelling, of in SPELLINGS.items()}
    offered |= {of: syntax.says for of, syntax in OFFERED.items()}
    rows = [(each.removeprefix(f"{name} "), says) for each, says in offered.items() if each.startswith(f"{name} ")]
    lines = [f"Usage:  docker {name} COMMAND", "", "Commands:", *_columns(sorted(rows))]
    return _help(name, [*lines, "", f"Run 'docker {name} COMMAND --help' for more information on a command."])


def command(syntax: Syntax, name: str, words: Words) -> Help:
    """``docker COMMAND --help``."""
    lines = [f"Usage:  {syntax.usage.replace(syntax.name, name, 1)}", "", syntax.says]
    if options := _options(syntax.options):
        lines += ["", "Options:", *options]
    if refused := vocabulary.refused_options(syntax.name):
        rows = [(f"--{option}", why.format(words)) for option, why in sorted(refused.items())]
        lines += ["", "Not available in a job:", *_columns(rows)]
    return _help(name, lines)


def _options(options: Sequence[Option]) -> list[str]:
    rows = []
    for option in sorted(options, key=lambda each: each.name):
        if option.says:
            short = f"-{option.short}, " if option.short else "    "
            rows.append((f"{short}--{option.name}{' ' + option.value if option.value else ''}", option.says))
    return _columns(rows)


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(left) for left, _ in rows), default=0)
    return [f"  {left:<{width}}   {right}" for left, right in rows]


def _help(topic: str, lines: Sequence[str]) -> Help:
    return Help(topic=topic, text="\n".join(lines) + "\n")
