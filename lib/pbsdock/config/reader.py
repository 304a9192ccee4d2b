"""Builds typed settings from TOML and collects everything that is wrong, each with its line. Pure."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal

from pbsdock.config.lines import Place, line_of, positions
from pbsdock.core.errors import BadValue
from pbsdock.core.sizes import parse_size

MOST_BYTES = 1 << 60  # a page multiple that neither the kernel's counters nor the engine's int64 overflow
MOST_SECONDS = 366 * 86400
_SHOWN = 80
_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")

Check = Callable[[str], str | None]  # a string -> what was expected, None if it is fine


def setting(
    default: Any,
    doc: str,
    *,
    least: float | None = None,
    most: float | None = None,
    size: bool = False,
    check: Check | None = None,
    formerly: Mapping[Any, Any] | None = None,
    restart: bool = False,
) -> Any:
    """A documented setting. With *size* the file may say "64mb" and the value is bytes; *check* judges each string.

    *formerly* has values that earlier releases took, and what they mean now. With *restart* a change counts only once
    the agent has been started anew.
    """
    if most is None and size:
        most = MOST_BYTES
    elif most is None and isinstance(default, float):
        most = MOST_SECONDS
    metadata = {"doc": doc, "least": least, "most": most, "size": size, "check": check, "formerly": formerly or {}}
    return field(default=default, metadata={**metadata, "restart": restart})


def _table_name(text: str) -> str | None:
    return None if _TABLE_NAME.fullmatch(text) else "expected letters, digits, - and _"


class ConfigError(ValueError):
    """All errors of a configuration file; ``str()`` is one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class _InvalidValue(Exception):
    """A value that is not allowed; ``str()`` says what was expected. *item* is its position in a list."""

    def __init__(self, allowed: str, item: int | None = None) -> None:
        super().__init__(allowed)
        self.item = item


class Reader:
    """Reads tables into dataclasses; ``problems`` are (line, sentence) pairs."""

    def __init__(self, text: str) -> None:
        self.lines = positions(text)
        self.problems: list[tuple[int, str]] = []

    def wrong(self, place: Place, sentence: str) -> None:
        """Note one problem, with the line of *place*."""
        self.problems.append((line_of(self.lines, place), sentence))

    def table(self, kind: type, data: Any, place: Place, base: Any = None) -> Any:
        """Build a *kind*; what the table leaves out is as in *base*, or the default."""
        if base is None:
            base = kind()
        if not isinstance(data, dict):
            self.wrong(place, f"{dotted(place)} is not a table; expected [{dotted(place)}]")
            return base
        hints = typing.get_type_hints(kind)
        known = {field.name: field for field in dataclasses.fields(kind)}
        values: dict[str, Any] = {}
        for key, value in data.items():
            if key not in known:
                self.unknown((*place, key), list(known))
            elif (named := named_type(hints[key])) is not None:
                check = known[key].metadata.get("names", _table_name)
                values[key] = self.named(named, value, (*place, key), getattr(base, key) or {}, check)
            elif (inner := table_type(hints[key])) is not None:
                values[key] = self.table(inner, value, (*place, key), getattr(base, key))
            else:
                self.read(values, known[key], hints[key], value, (*place, key))
        return dataclasses.replace(base, **values)

    def named(self, kind: type, data: Any, place: Place, base: dict[str, Any], check: Check) -> dict[str, Any]:
        """Build one *kind* for each name, ``[s3.NAME]``, in the order of the file; *check* judges the names."""
        if not isinstance(data, dict) or not all(isinstance(table, dict) for table in data.values()):
            self.wrong(place, f"{dotted(place)} is not a table for each name; expected [{dotted(place)}.NAME]")
            return dict(base)
        made = dict(base)
        for name, value in data.items():
            if allowed := check(name):
                self.wrong((*place, name), f"{_shorten(name)} in {dotted(place)} is not a name; {allowed}")
            else:
                made[name] = self.table(kind, value, (*place, name), base.get(name))
        return made

    def unknown(self, place: Place, known: list[str]) -> None:
        """Note an unknown key, with the most similar one that is known."""
        near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
        self.wrong(place, f"unknown key {dotted(place)!r}; {hint}")

    def read(self, values: dict[str, Any], known: dataclasses.Field[Any], hint: Any, value: Any, place: Place) -> None:
        """Put one setting's value into *values*, or note what is wrong with it."""
        try:
            values[known.name] = convert(hint, known.metadata, value)
        except _InvalidValue as error:
            if error.item is None:
                self.wrong(place, f"{dotted(place)} = {_shorten(value)} is not allowed; {error}")
            else:
                item = f"{_shorten(value[error.item])} in {dotted(place)}"
                self.wrong((*place, error.item), f"{item} is not allowed; {error}")


def convert(hint: Any, meta: Any, value: Any) -> Any:
    """Turn a TOML value into the setting's type. Raises _InvalidValue."""
    if isinstance(value, bool) and value in meta["formerly"]:
        value = meta["formerly"][value]
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if not isinstance(value, str) or value not in choices:
            raise _InvalidValue(f"expected one of {', '.join(toml_value(choice) for choice in choices)}")
        return value
    if typing.get_origin(hint) is tuple:
        return _strings(value, meta["check"])
    if hint is bool or hint is str:
        if not isinstance(value, hint):
            raise _InvalidValue("expected true or false" if hint is bool else "expected a string")
        if hint is str and meta["check"] is not None and (allowed := meta["check"](value)):
            raise _InvalidValue(allowed)
        return value
    return _number(hint, meta, value)


def _strings(value: Any, check: Check | None) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _InvalidValue("expected a list of strings")
    for index, item in enumerate(value):
        if not item or not item.isprintable():
            raise _InvalidValue("expected one or more printable characters", index)
        if check is not None and (allowed := check(item)):
            raise _InvalidValue(allowed, index)
    return tuple(value)


def _number(hint: Any, meta: Any, value: Any) -> int | float:
    if meta["size"] and isinstance(value, str):
        try:
            value = parse_size(value)
        except BadValue:
            raise _InvalidValue('expected a size such as "64mb", or a number of bytes') from None
    if isinstance(value, bool) or not isinstance(value, int if hint is int else int | float):
        raise _InvalidValue({int: "expected a whole number", float: "expected a number"}[hint])
    least, most = meta["least"], meta["most"]
    endless = isinstance(value, float) and not math.isfinite(value)
    if endless or (least is not None and value < least) or (most is not None and value > most):
        bounds = [f"{word} {bound}" for word, bound in (("at least", least), ("at most", most)) if bound is not None]
        raise _InvalidValue(f"expected {' and '.join(bounds)}")
    return float(value) if hint is float else int(value)


def table_type(hint: Any) -> type | None:
    """The dataclass in a type hint (``X`` or ``X | None``), None if it has none."""
    candidates = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next(
        (candidate for candidate in candidates if dataclasses.is_dataclass(candidate) and isinstance(candidate, type)),
        None,
    )


def named_type(hint: Any) -> type | None:
    """The dataclass in ``dict[str, X]`` or ``dict[str, X] | None``, None if the hint is another."""
    candidates = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next(
        (typing.get_args(candidate)[1] for candidate in candidates if typing.get_origin(candidate) is dict), None
    )


def dotted(place: Place) -> str:
    """A place as a person writes it: list positions left out."""
    return ".".join(part for part in place if isinstance(part, str))


def toml_value(value: Any) -> str:
    """Write a value as TOML does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _shorten(value: Any) -> str:
    text = toml_value(value)
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= _SHOWN else f"{printable[:_SHOWN]}…"
