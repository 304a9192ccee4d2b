"""Texts as Go writes them: JSON in one line, and quoted strings. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pbsdock.shim.template_values import MISSING, Method


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
