"""The configuration written out from its own table: the commented file in etc/ and the reference in docs/.

``python -m pbsdock.config.text toml`` prints the first, ``… markdown`` the second; a test compares both.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pbsdock.config.reader import named_type, table_type, toml_value
from pbsdock.config.tables import OVERRIDABLE, Config, Override

_RESTART = " (*)"  # see the files' heads
_UNITS = (("tb", 40), ("gb", 30), ("mb", 20), ("kb", 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the reference. ``default`` is written as TOML."""

    section: str
    key: str
    default: str
    doc: str


def describe() -> Iterator[Setting]:
    """Every setting, in the order of the file."""
    for section, kind in _sections():
        for field in dataclasses.fields(kind):
            if "doc" in field.metadata:
                value: Any = field.default
                default = _size(value) if field.metadata["size"] else toml_value(value)
                yield Setting(section=section, key=field.name, default=default, doc=_doc(field.metadata))


def _doc(metadata: Mapping[str, Any]) -> str:
    return f"{metadata['doc']}{_RESTART}" if metadata["restart"] else str(metadata["doc"])


def _sections() -> Iterator[tuple[str, type]]:
    hints = typing.get_type_hints(Config)
    for section in dataclasses.fields(Config):
        kind = Override if section.name == "override" else table_type(hints[section.name])
        if (named := named_type(hints[section.name])) is not None:
            yield f"{section.name}.{section.metadata.get('shown', 'NAME')}", named
            continue
        assert kind is not None
        yield section.name, kind


def _size(value: int) -> str:
    for unit, shift in _UNITS:
        if value and value % (1 << shift) == 0:
            return toml_value(f"{value >> shift}{unit}")
    return str(value)


def commented() -> str:
    """The shipped file: every key with its default, commented out."""
    lines = [
        "# pbsdock's site policy. Every key is shown with its default; unknown keys are refused.",
        "# `pbsdock config` checks the file; docs/configuration.md explains it. Only root may be able to write it.",
        "# `pbsdock reload` puts it in force; (*): only once the agent has been started anew.",
    ]
    for section, title, rows in _by_section():
        lines += ["", f"# {title}", _heading(section)]
        for row in rows:
            lines += [f"# {row.doc}", f"#{row.key} = {row.default}"]
    lines += [
        f"# Then any of {', '.join(OVERRIDABLE)}; what it leaves out is as above. For example:",
        "#[override.images]",
        '#allow = ["docker.io/library/*"]',
    ]
    return "\n".join(lines) + "\n"


def _heading(section: str) -> str:
    """The heading of a section; optional and repeated sections are commented out."""
    if section == "override":
        return f"#[[{section}]]"
    return f"#[{section}]" if section.endswith((".NAME", '"')) else f"[{section}]"


def documented() -> str:
    """The reference as Markdown tables."""
    lines = []
    for section, title, rows in _by_section():
        heading = f"### [[{section}]]" if section == "override" else f"### [{section}]"
        lines += [heading, title, "", "| key | default | |", "|---|---|---|"]
        lines += [f"| `{row.key}` | `{_wrapped(row.default)}` | {row.doc} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return text.replace("|", "\\|")


def _by_section() -> Iterator[tuple[str, str, list[Setting]]]:
    rows = list(describe())
    for section, kind in _sections():
        yield section, (kind.__doc__ or "").splitlines()[0], [row for row in rows if row.section == section]


def main(argv: list[str]) -> int:
    """Print the text that the argument names."""
    texts = {"toml": commented, "markdown": documented}
    if len(argv) != 1 or argv[0] not in texts:
        print("usage: python -m pbsdock.config.text toml|markdown", file=sys.stderr)
        return 2
    print(texts[argv[0]](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
