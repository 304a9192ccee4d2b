"""The functions of a template: Go's own and those Docker's client adds. Pure, and bounded by a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pbsdock.shim.template_tokens import bad
from pbsdock.shim.template_values import MISSING, Method, inner_text, is_true, number_text

STEPS = 200_000
OUTPUT_LIMIT = 4 * 1024 * 1024  # characters of all that is printed
MADE_LIMIT = 4 * 1024 * 1024  # characters of all texts made on the way
_PAD_LIMIT = 1024
NOT_OFFERED = ("html", "js", "urlquery", "call")


class Budget:
    """What is left of steps, of output and of texts made. Raises BadTemplate when one is used up."""

    __slots__ = ("made", "output", "steps")

    def __init__(self) -> None:
        self.steps, self.output, self.made = STEPS, OUTPUT_LIMIT, MADE_LIMIT

    def step(self, count: int = 1) -> None:
        """Take steps."""
        self.steps -= count
        if self.steps < 0:
            raise bad(f"the template takes more than {STEPS} steps; write a simpler one")

    def print(self, text: str) -> None:
        """Print a text."""
        self.output -= len(text)
        if self.output < 0:
            raise bad(f"the output has more than {OUTPUT_LIMIT} characters; choose less with --filter or the template")

    def make(self, text: str) -> str:
        """Make a text on the way."""
        self.made -= len(text)
        if self.made < 0:
            raise bad("the template makes too long texts; write a simpler one")
        return text


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


class Row(dict[str, Any]):
    """The fields of a table's row; as JSON, it has no letter that is one of HTML's."""


def json_text(value: Any) -> str:
    """A value as Docker's client writes it as JSON, in one line."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, Row):
        for letter in "<>&":
            text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    if value is MISSING:
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not isinstance(item, Method)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


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
    before, after = (_whole("pad", each, _PAD_LIMIT) for each in arguments[1:])
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


def _printf(budget: Budget, arguments: list[Any], _: bool) -> str:
    if not arguments:
        raise bad("wrong number of args for printf: want at least 1 got 0")
    text, values = _text_of("printf", arguments[0]), arguments[1:]
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
    if at - start > 4 or int(text[start:at] or "0") > _PAD_LIMIT:
        raise bad(f"error calling printf: a width of at most {_PAD_LIMIT} is taken")
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


_QUOTED = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def go_quoted(text: str) -> str:
    """A text in double quotes as Go's strconv.Quote writes it."""
    return '"' + "".join(map(_go_letter, text)) + '"'


def _go_letter(letter: str) -> str:
    if letter in _QUOTED:
        return _QUOTED[letter]
    if letter.isprintable():
        return letter
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x20 or number == 0x7F:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


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
    "printf": _printf,
    "println": _println,
    "slice": _slice,
    "split": _split,
    "title": _letters("title", _title),
    "truncate": _truncate,
    "upper": _letters("upper", str.upper),
}
