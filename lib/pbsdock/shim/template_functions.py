"""The functions of a template: Go's own and those Docker's client adds. Pure, and bounded by a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pbsdock.shim.go_text import json_text
from pbsdock.shim.template_budget import PAD_LIMIT, Budget
from pbsdock.shim.template_printf import printf
from pbsdock.shim.template_tokens import bad
from pbsdock.shim.template_values import MISSING, Method, inner_text, is_true

NOT_OFFERED = ("html", "js", "urlquery", "call")


Function = Callable[[Budget, list[Any], bool], Any]


def _count(name: str, arguments: list[Any], least: int, most: int | None = None) -> None:
    if len(arguments) < least or len(arguments) > (least if most is None else most):
        raise bad(f"wrong number of args for {name}: want {least} got {len(arguments)}")


def _text_of(name: str, value: Any) -> str:
    if value is MISSING or value is None:
        return ""
    if not isinstance(value, str):
        raise bad(f"wrong type for value of {name}; expected a string, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    if value is None or value is MISSING:
        return "nothing"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    return {str: "a string", list: "a list", tuple: "a list", Method: "a method"}.get(type(value), "an object")


def _json(budget: Budget, arguments: list[Any], for_header: bool) -> Any:
    _count("json", arguments, 1)
    if for_header:
        return arguments[0]
    return budget.make(json_text(arguments[0]))


def _letters(name: str, change: Callable[[str], str]) -> Function:
    def function(budget: Budget, arguments: list[Any], for_header: bool) -> str:
        _count(name, arguments, 1)
        text = _text_of(name, arguments[0])
        return text if for_header else budget.make(change(text))

    return function


def _title(text: str) -> str:
    """Every letter behind what is no letter, digit or underscore in upper case, as Go's strings.Title."""
    parts, follows = [], False
    for letter in text:
        parts.append(letter if follows else letter.title())
        follows = letter.isalnum() or letter == "_" or not (letter.isascii() or letter.isspace())
    return "".join(parts)


def _join(budget: Budget, arguments: list[Any], for_header: bool) -> str:
    _count("join", arguments, 2)
    items, separator = arguments[0], _text_of("join", arguments[1])
    if for_header and isinstance(items, str):
        return items
    if items is None or items is MISSING:
        return ""
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise bad(f"wrong type for value of join; expected a list of strings, got {_kind(items)}")
    budget.step(len(items))
    budget.made -= sum(map(len, items)) + len(separator) * len(items)
    return budget.make("") + separator.join(items)


def _split(budget: Budget, arguments: list[Any], for_header: bool) -> Any:
    _count("split", arguments, 2)
    text, separator = _text_of("split", arguments[0]), _text_of("split", arguments[1])
    if for_header:
        return text
    budget.make(text)
    budget.step(text.count(separator) if separator else len(text))
    return text.split(separator) if separator else list(text)


def _pad(budget: Budget, arguments: list[Any], for_header: bool) -> str:
    _count("pad", arguments, 3)
    text = _text_of("pad", arguments[0])
    before, after = (_whole("pad", each, PAD_LIMIT) for each in arguments[1:])
    return text if for_header or not text else budget.make(" " * before + text + " " * after)


def _truncate(budget: Budget, arguments: list[Any], for_header: bool) -> str:
    _count("truncate", arguments, 2)
    text, length = _text_of("truncate", arguments[0]), _whole("truncate", arguments[1])
    return text if for_header else budget.make(text[:length])


def _whole(name: str, value: Any, most: int = 2**31) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise bad(f"wrong type for value of {name}; expected a whole number from 0 to {most}")
    return value


def _index(budget: Budget, arguments: list[Any], _: bool) -> Any:
    if not arguments:
        raise bad("wrong number of args for index: want at least 1 got 0")
    value = arguments[0]
    for key in arguments[1:]:
        budget.step()
        if isinstance(value, Mapping):
            value = _of_map(budget, value, key)
        elif isinstance(value, list | tuple | str):
            at = _whole("index", key)
            items = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
            if isinstance(value, str):
                budget.make(value)
            if at >= len(items):
                raise bad(f"error calling index: index out of range: {at}")
            value = items[at]
        else:
            raise bad(f"error calling index: can't index {_kind(value)}")
    return value


def _of_map(budget: Budget, value: Mapping[str, Any], key: Any) -> Any:
    if not isinstance(key, str):
        raise bad(f"error calling index: value has type {_kind(key)}; should be string")
    if key in value:
        return value[key]
    budget.step(len(value))
    return "" if all(isinstance(item, str) for item in value.values()) else None  # Go's empty value of its type


def _slice(budget: Budget, arguments: list[Any], _: bool) -> Any:
    if not 1 <= len(arguments) <= 3:
        raise bad(f"wrong number of args for slice: want 1 to 3 got {len(arguments)}")
    value, *ends = arguments
    if not isinstance(value, str | list | tuple):
        raise bad(f"error calling slice: can't slice {_kind(value)}")
    items = budget.make(value).encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    bounds = [_whole("slice", each) for each in ends] + [0, len(items)][len(ends) :]
    if not bounds[0] <= bounds[1] <= len(items):
        raise bad(f"error calling slice: index out of range: {bounds[1]}")
    cut = items[bounds[0] : bounds[1]]
    return cut.decode("utf-8", "replace") if isinstance(cut, bytes) else cut


def _len(budget: Budget, arguments: list[Any], _: bool) -> int:
    _count("len", arguments, 1)
    value = arguments[0]
    if isinstance(value, str):
        return len(budget.make(value).encode("utf-8", "surrogateescape"))
    if isinstance(value, Mapping | list | tuple):
        return len(value)
    raise bad(f"error calling len: {_kind(value)} has no length")


def _not(_budget: Budget, arguments: list[Any], _: bool) -> bool:
    _count("not", arguments, 1)
    return not is_true(arguments[0])


def _comparable(name: str, left: Any, right: Any, *, ordered: bool = False) -> None:
    left, right = (None if each is MISSING else each for each in (left, right))
    both = (left, right)
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in both)
    texts = all(isinstance(each, str) for each in both)
    truths = all(isinstance(each, bool) for each in both)
    nothing = None in both
    if not (numbers or texts or (not ordered and (truths or nothing))):
        raise bad(f"error calling {name}: incompatible types for comparison: {_kind(left)} and {_kind(right)}")


def _same(budget: Budget, name: str, left: Any, right: Any) -> bool:
    _comparable(name, left, right)
    budget.step(1 + (len(left) // 1024 if isinstance(left, str) else 0))
    left, right = (None if each is MISSING else each for each in (left, right))
    return bool(left == right)


def _eq(budget: Budget, arguments: list[Any], _: bool) -> bool:
    if len(arguments) < 2:
        raise bad(f"wrong number of args for eq: want at least 2 got {len(arguments)}")
    return any(_same(budget, "eq", arguments[0], each) for each in arguments[1:])


def _ne(budget: Budget, arguments: list[Any], _: bool) -> bool:
    _count("ne", arguments, 2)
    return not _same(budget, "ne", arguments[0], arguments[1])


def _order(name: str, holds: Callable[[Any, Any], bool]) -> Function:
    def function(_budget: Budget, arguments: list[Any], _: bool) -> bool:
        _count(name, arguments, 2)
        _comparable(name, arguments[0], arguments[1], ordered=True)
        return holds(arguments[0], arguments[1])

    return function


def _print(budget: Budget, arguments: list[Any], _: bool) -> str:
    """As Go's Sprint: a blank between two that are both no text."""
    parts: list[str] = []
    for at, value in enumerate(arguments):
        if at and not isinstance(value, str) and not isinstance(arguments[at - 1], str):
            parts.append(" ")
        parts.append(budget.make(inner_text(value)))
    return "".join(parts)


def _println(budget: Budget, arguments: list[Any], _: bool) -> str:
    return " ".join(budget.make(inner_text(value)) for value in arguments) + "\n"


FUNCTIONS: dict[str, Function] = {
    "eq": _eq,
    "ge": _order("ge", lambda left, right: left >= right),
    "gt": _order("gt", lambda left, right: left > right),
    "index": _index,
    "join": _join,
    "json": _json,
    "le": _order("le", lambda left, right: left <= right),
    "len": _len,
    "lower": _letters("lower", str.lower),
    "lt": _order("lt", lambda left, right: left < right),
    "ne": _ne,
    "not": _not,
    "pad": _pad,
    "print": _print,
    "printf": lambda budget, arguments, _: printf(budget, arguments),
    "println": _println,
    "slice": _slice,
    "split": _split,
    "title": _letters("title", _title),
    "truncate": _truncate,
    "upper": _letters("upper", str.upper),
}
