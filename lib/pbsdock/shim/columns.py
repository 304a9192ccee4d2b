"""Rows of cells as aligned columns, and texts shortened for them, as Docker's client does. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from pbsdock.shim.template_budget import OUTPUT_LIMIT
from pbsdock.shim.template_tokens import bad

_LEAST, _GAP = 10, 3  # columns' width, and blanks between them


def aligned(text: str) -> str:
    """Lines whose cells end with tabs, each column as wide as its widest cell; as Go's tabwriter aligns them.

    A column is of lines that follow one another and have the cell, so that a line without tabs begins anew. Raises
    BadTemplate where the blanks would make the text too long.
    """
    if text.count("\t") * _LEAST > OUTPUT_LIMIT:
        raise bad(f"the table has more than {OUTPUT_LIMIT} characters; choose fewer columns")
    rows = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[] for _ in rows]
    open_rows = [at for at, row in enumerate(rows) if len(row) > 1]
    column = 0
    while open_rows:
        for block in _blocks(open_rows):
            width = max(_LEAST, *(_width(rows[at][column]) + _GAP for at in block))
            for at in block:
                widths[at].append(width)
        column += 1
        open_rows = [at for at in open_rows if len(rows[at]) > column + 1]
    if sum(map(sum, widths)) > OUTPUT_LIMIT:
        raise bad(f"the table has more than {OUTPUT_LIMIT} characters; leave out its widest column")
    return "\n".join(map(_line, rows, widths))


def _blocks(numbers: Sequence[int]) -> list[list[int]]:
    """Runs of numbers that follow one another."""
    blocks: list[list[int]] = []
    for number in numbers:
        if blocks and blocks[-1][-1] == number - 1:
            blocks[-1].append(number)
        else:
            blocks.append([number])
    return blocks


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=False)]
    return "".join((*padded, cells[-1]))


def _width(text: str) -> int:
    """Columns on a terminal."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def ellipsis(text: str, width: int) -> str:
    """A text of at most *width* columns on a terminal, with … for what is left out."""
    if len(text) <= width // 2 or (text.isascii() and len(text) <= width):
        return text
    if text.isascii():
        return text[: width - 1] + "…"
    taken = 0
    for at, letter in enumerate(text):
        taken += _columns(letter)
        if taken > width:
            return _cut(text[: at + 1], width - 1) + "…"
    return text


def _cut(text: str, width: int) -> str:
    taken = 0
    for at, letter in enumerate(text):
        taken += _columns(letter)
        if taken > width:
            return text[:at]
    return text
