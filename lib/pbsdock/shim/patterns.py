"""Patterns of image names, as Go's path.Match has them: ``*`` and ``?`` stay within a component. Pure.

A pattern is read once; to compare takes at most the square of the text's length, since of the stars of a component only
the last is ever tried again.
"""

from __future__ import annotations

from collections.abc import Sequence

_Piece = str | tuple[bool, str]  # a letter, "*", "?", or (whether none of them, letters of a class)


class PathPattern:
    """A pattern; one that is not well-formed fits nothing."""

    def __init__(self, text: str) -> None:
        self._parts = [_pieces(part) for part in text.split("/")]

    def fits(self, text: str) -> bool:
        """Whether the pattern fits the whole text."""
        names = text.split("/")
        if len(self._parts) != len(names):
            return False
        return all(part is not None and _fits(part, name) for part, name in zip(self._parts, names, strict=True))


def _pieces(pattern: str) -> list[_Piece] | None:
    """The pattern's pieces; a letter that stands for itself is kept with a backslash before it."""
    found: list[_Piece] = []
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter in "*?":
            found.append(letter)
        elif letter == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                return None
            found.append((pattern[at] == "^", _members(pattern[at:end].removeprefix("^"))))
            at = end + 1
        else:
            if letter == "\\":
                if at == len(pattern):
                    return None
                letter = pattern[at]
                at += 1
            found.append(f"\\{letter}")
    return found


def _members(text: str) -> str:
    """The letters of a class, ranges of ASCII letters written out."""
    letters: list[str] = []
    at = 0
    while at < len(text):
        if text[at + 1 : at + 2] == "-" and at + 2 < len(text) and text[at].isascii() and text[at + 2].isascii():
            letters += [chr(code) for code in range(ord(text[at]), ord(text[at + 2]) + 1)]
            at += 3
        else:
            letters.append(text[at])
            at += 1
    return "".join(letters)


def _fits(pieces: Sequence[_Piece], text: str) -> bool:
    piece_at = text_at = 0
    star, resume = -1, 0
    while text_at < len(text):
        if piece_at < len(pieces) and pieces[piece_at] == "*":
            star, resume = piece_at, text_at
            piece_at += 1
        elif piece_at < len(pieces) and _fits_letter(pieces[piece_at], text[text_at]):
            piece_at += 1
            text_at += 1
        elif star >= 0:
            resume += 1
            piece_at, text_at = star + 1, resume
        else:
            return False
    return all(piece == "*" for piece in pieces[piece_at:])


def _fits_letter(piece: _Piece, letter: str) -> bool:
    if isinstance(piece, tuple):
        return (letter in piece[1]) != piece[0]
    return piece == "?" or piece == f"\\{letter}"
