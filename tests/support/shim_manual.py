"""The tables of docs/shim.md, made of the shim's own: ``python -m tests.support.shim_manual`` writes them anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pbsdock.shim.flags import Option
from pbsdock.shim.syntax import GLOBAL, OFFERED, SPELLINGS, Syntax
from pbsdock.shim.vocabulary import refused_commands, refused_options
from tests.support.torque import WORDS

PAGE = Path(__file__).parents[2] / "docs/shim.md"
START, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"


def tables() -> str:
    """What is offered, by command; then what is not, and why."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from ("### Commands", "| command | other spellings | |", "|---|---|---|")
    for syntax in OFFERED.values():
        others = ", ".join(f"`{other}`" for other, name in SPELLINGS.items() if name == syntax.name)
        yield f"| `{_cell(f'{syntax.name} {syntax.arguments}'.strip())}` | {others} | {_cell(syntax.says)} |"
    yield ""
    yield from ("Before the command:", "", *_options(GLOBAL), "")
    for syntax in OFFERED.values():
        if any(option.says for option in syntax.options):
            yield from _command(syntax)
    yield from ("### Options that are not available", "| option | why, and what instead |", "|---|---|")
    for command in ("", *OFFERED):
        for why, names in _by_reason(refused_options(command)).items():
            options = ", ".join(f"`{f'{command} '.lstrip()}--{name}`" for name in names)
            yield f"| {options} | {_cell(why.format(WORDS))} |"
    yield ""
    yield from ("### Commands that are not available", "| command | why, and what instead |", "|---|---|")
    for why, names in _by_reason(refused_commands()).items():
        yield f"| {', '.join(f'`{name}`' for name in names)} | {_cell(why.format(WORDS))} |"


def _command(syntax: Syntax) -> Iterator[str]:
    yield from (f"#### {syntax.name}", *_options(syntax.options), "")


def _options(options: tuple[Option, ...]) -> Iterator[str]:
    yield from ("| option | |", "|---|---|")
    for option in sorted(options, key=lambda each: each.name):
        if option.says:
            short = f"`-{option.short}`, " if option.short else ""
            yield f"| {short}`--{option.name}` | {_cell(option.says)} |"


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, why in sorted(reasons.items()):
        found.setdefault(why, []).append(name)
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def written(page: str) -> str:
    """A page with the tables between its marks."""
    before, _, rest = page.partition(START)
    return f"{before}{START}{tables()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
