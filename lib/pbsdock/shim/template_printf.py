"""``printf`` of Go's templates: flags, width, precision and the verbs that make sense of plain values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pbsdock.shim.go_text import go_quoted
from pbsdock.shim.template_budget import PAD_LIMIT, Budget
from pbsdock.shim.template_tokens import bad
from pbsdock.shim.template_values import inner_text, number_text


def printf(budget: Budget, arguments: list[Any]) -> str:
    """The text of a format and its values. Raises BadTemplate."""
    if not arguments:
        raise bad("wrong number of args for printf: want at least 1 got 0")
    text, values = arguments[0], arguments[1:]
    if not isinstance(text, str):
        raise bad("wrong type for value of printf; expected a string")
    parts: list[str] = []
    at, used = 0, 0
    while (percent := text.find("%", at)) >= 0:
        budget.step()
        parts.append(text[at:percent])
        flags, width, precision, verb, at = _directive(text, percent + 1)
        if verb == "%":
            parts.append("%")
            continue
        if used == len(values):
            parts.append(f"%!{verb}(MISSING)" if verb else "%!(NOVERB)")
            continue
        parts.append(budget.make(_formatted(values[used], flags, width, precision, verb)))
        used += 1
    parts.append(text[at:])
    if used < len(values):
        raise bad(f"error calling printf: it has {len(values)} values for {used} places")
    return budget.make("".join(parts))


def _directive(text: str, at: int) -> tuple[str, int, int | None, str, int]:
    """(flags, width, precision, verb, where the text goes on) behind a percent sign."""
    start = at
    while text[at : at + 1] in ("-", "+", "0", "#", " "):
        at += 1
    flags = text[start:at]
    width, at = _digits(text, at)
    precision = None
    if text[at : at + 1] == ".":
        precision, at = _digits(text, at + 1)
    return flags, width, precision, text[at : at + 1], at + 1


def _digits(text: str, at: int) -> tuple[int, int]:
    start = at
    while text[at : at + 1] in tuple("0123456789"):
        at += 1
    if at - start > 4 or int(text[start:at] or "0") > PAD_LIMIT:
        raise bad(f"error calling printf: a width of at most {PAD_LIMIT} is taken")
    return int(text[start:at] or "0"), at


def _formatted(value: Any, flags: str, width: int, precision: int | None, verb: str) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    if verb in ("v", "s"):
        if verb == "s" and not isinstance(value, str | list | tuple | Mapping) and value is not None:
            text = (
                f"%!s({ {bool: 'bool', int: 'int', float: 'float64'}.get(type(value), 'object') }={inner_text(value)})"
            )
        else:
            text = inner_text(value)
        text = text if precision is None else text[:precision]
    elif verb == "q" and isinstance(value, str):
        text = go_quoted(value)
    elif verb == "d" and number:
        text = f"{value:+d}" if "+" in flags else str(value)
    elif verb in ("x", "X") and (number or isinstance(value, str)):
        text = f"{value:x}" if number else value.encode("utf-8", "surrogateescape").hex()
        text = text.upper() if verb == "X" else text
    elif verb == "t" and isinstance(value, bool):
        text = inner_text(value)
    elif verb in ("f", "g", "e") and isinstance(value, float):
        text = (
            number_text(value)
            if verb == "g" and precision is None
            else f"{value:.{6 if precision is None else precision}{verb}}"
        )
    else:
        text = f"%!{verb}({inner_text(value)})"
    if "-" in flags:
        return text.ljust(width)
    return text.zfill(width) if "0" in flags and (number or isinstance(value, float)) else text.rjust(width)
