"""The line of every key of a TOML text, which tomllib does not tell. Pure.

The text has already been accepted by tomllib, so nothing is validated here; the grammar is TOML 1.0's (toml.io).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Place = tuple[str | int, ...]  # ("override", 0, "images", "allow", 2): keys, and positions in lists from 0

_KEY = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|[A-Za-z0-9_-]+')
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'',
    re.DOTALL,
)
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]*")


def positions(text: str) -> dict[Place, int]:
    """Map every table, key and list item of a valid TOML *text* to its line, counted from 1."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


def line_of(lines: Mapping[Place, int], place: Place) -> int:
    """The line of *place*, or of the nearest thing around it that has one."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Place, int] = {}
        self.lists: dict[Place, int] = {}  # array of tables -> index of its latest table

    def document(self) -> None:
        table: Place = ()
        while self.blank() < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def blank(self) -> int:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def note(self, place: Place) -> None:
        self.found.setdefault(place, self.text.count("\n", 0, self.at) + 1)

    def header(self) -> Place:
        is_list = self.text.startswith("[[", self.at)
        start = self.at
        self.at += 2 if is_list else 1
        keys = self.keys()
        after = self.at + (2 if is_list else 1)
        self.at = start
        place: Place = ()
        for key in keys[:-1]:
            place = (*place, key)
            if place in self.lists:
                place = (*place, self.lists[place])
        place = (*place, keys[-1])
        self.note(place)
        if is_list:
            self.lists[place] = self.lists.get(place, -1) + 1
            place = (*place, self.lists[place])
            self.note(place)
        self.at = after
        return place

    def keys(self) -> list[str]:
        found = []
        while True:
            self.blank()
            match = _KEY.match(self.text, self.at)
            assert match is not None, "tomllib accepted the text"
            raw = match.group()
            found.append(str(tomllib.loads(f"x = {raw}")["x"]) if raw[0] in "\"'" else raw)
            self.at = match.end()
            self.blank()
            if self.text[self.at] != ".":
                return found
            self.at += 1

    def pair(self, table: Place) -> None:
        start = self.at
        keys = self.keys()
        after = self.at + 1  # the equals sign
        self.at = start
        for count in range(1, len(keys) + 1):
            self.note((*table, *keys[:count]))
        self.at = after
        self.value((*table, *keys))

    def value(self, place: Place) -> None:
        self.blank()
        self.note(place)
        if self.text[self.at] in "[{":
            self.nested(place)
            return
        match = _STRING.match(self.text, self.at) or _SCALAR.match(self.text, self.at)
        assert match is not None, "a scalar may be empty"
        self.at = match.end()

    def nested(self, place: Place) -> None:
        is_list = self.text[self.at] == "["
        closing, index = "]" if is_list else "}", 0
        self.at += 1
        while self.text[self.blank()] != closing:
            if is_list:
                self.value((*place, index))
            else:
                self.pair(place)
            index += 1
            if self.text[self.blank()] == ",":
                self.at += 1
        self.at += 1
