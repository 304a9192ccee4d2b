"""A Go template's text as pieces: plain text, and the tokens of each ``{{action}}``. Pure, in linear time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pbsdock.core.errors import BadValue
from pbsdock.directive.tokens import shown

TEXT_LIMIT = 64 * 1024  # characters of a template
_BLANKS = " \t\r\n"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_DIGITS = frozenset("0123456789")
_WORD = _LETTERS | _DIGITS
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


class BadTemplate(BadValue):
    """A template that cannot be read or carried out; ``str()`` is a whole sentence."""


def bad(what: str) -> BadTemplate:
    """The error with Docker's own beginning."""
    return BadTemplate(f"template parsing error: {what}")


@dataclass(frozen=True, slots=True)
class Token:
    """``kind`` is ``word``, ``field`` (one name behind a dot), ``variable`` (its name, "" for ``$``), ``text``,
    ``number``, ``dot`` or ``sign``; ``spaced``: a blank stands before it."""

    kind: str
    text: str
    spaced: bool = False
    value: str | int | float = ""


@dataclass(frozen=True, slots=True)
class Action:
    """The tokens between ``{{`` and ``}}``; none for a comment."""

    tokens: tuple[Token, ...]


Piece = str | Action


def pieces(text: str) -> list[Piece]:
    """Plain text and actions in order, blanks trimmed where ``{{-`` and ``-}}`` say so. Raises BadTemplate."""
    if len(text) > TEXT_LIMIT:
        raise bad(f"the template has {len(text)} characters; at most {TEXT_LIMIT} are taken")
    found: list[Piece] = []
    at, trims = 0, False
    while at < len(text):
        start = text.find("{{", at)
        plain = text[at : start if start >= 0 else len(text)]
        if trims:
            plain = plain.lstrip(_BLANKS)
        if start < 0:
            at = len(text)
        else:
            at = start + 2
            if text[at : at + 1] == "-" and text[at + 1 : at + 2] in _BLANKS and at + 1 < len(text):
                plain = plain.rstrip(_BLANKS)
                at += 1
        if plain:
            found.append(plain)
        if start < 0:
            break
        scanner = _Scanner(text, at)
        tokens = tuple(scanner.action())
        at, trims = scanner.at, scanner.trims
        if tokens or not scanner.is_comment:
            found.append(Action(tokens))
    return found


class _Scanner:
    """Reads one action's tokens, from behind ``{{`` to behind ``}}``."""

    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at
        self.trims = self.is_comment = False

    def action(self) -> Iterator[Token]:
        while True:
            start = self.at
            while self.at < len(self.text) and self.text[self.at] in _BLANKS:
                self.at += 1
            spaced = self.at > start
            if self.text.startswith("}}", self.at):
                self.at += 2
                return
            if spaced and self.text.startswith("-}}", self.at):
                self.at += 3
                self.trims = True
                return
            if self.at >= len(self.text):
                raise bad("unclosed action; each {{ needs its }}")
            if self.text.startswith("/*", self.at):
                self._comment()
            else:
                yield self._token(spaced)

    def _comment(self) -> None:
        end = self.text.find("*/", self.at + 2)
        if end < 0:
            raise bad("unclosed comment; each /* needs its */")
        self.at, self.is_comment = end + 2, True

    def _token(self, spaced: bool) -> Token:
        letter, following = self.text[self.at], self.text[self.at + 1 : self.at + 2]
        if letter in _LETTERS:
            return Token("word", self._run(self.at), spaced)
        if letter == ".":
            if following in _LETTERS and following:
                self.at += 1
                return Token("field", self._run(self.at), spaced)
            self.at += 1
            return Token("dot", ".", spaced)
        if letter == "$":
            self.at += 1
            return Token("variable", self._run(self.at), spaced)
        if letter in _DIGITS or (letter in "+-" and following and following in _DIGITS):
            return self._number(spaced)
        if letter == '"':
            return self._quoted(spaced)
        if letter == "`":
            end = self.text.find("`", self.at + 1)
            if end < 0:
                raise bad("unterminated raw quoted string")
            raw, self.at = self.text[self.at + 1 : end], end + 1
            return Token("text", "`", spaced, raw)
        for sign in (":=", "=", "|", "(", ")", ","):
            if self.text.startswith(sign, self.at):
                self.at += len(sign)
                return Token("sign", sign, spaced)
        raise bad(f"unexpected {shown(letter)} in an action")

    def _run(self, start: int) -> str:
        end = start
        while end < len(self.text) and self.text[end] in _WORD:
            end += 1
        self.at = end
        return self.text[start:end]

    def _number(self, spaced: bool) -> Token:
        start = self.at
        self.at += 1
        while self.at < len(self.text) and (self.text[self.at] in _DIGITS or self.text[self.at] == "."):
            self.at += 1
        text = self.text[start : self.at]
        if len(text) > 18 or text.count(".") > 1 or (self.text[self.at : self.at + 1] or " ") in _WORD:
            raise bad(f"bad number syntax: {shown(text)}")
        return Token("number", text, spaced, float(text) if "." in text else int(text))

    def _quoted(self, spaced: bool) -> Token:
        parts: list[str] = []
        self.at += 1
        while True:
            letter = self.text[self.at : self.at + 1]
            if letter in ("", "\n"):
                raise bad("unterminated quoted string")
            self.at += 1
            if letter == '"':
                return Token("text", '"', spaced, "".join(parts))
            parts.append(self._escaped() if letter == "\\" else letter)

    def _escaped(self) -> str:
        letter = self.text[self.at : self.at + 1]
        self.at += 1
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter in _HEXADECIMAL:
            digits = self.text[self.at : self.at + _HEXADECIMAL[letter]]
            if len(digits) == _HEXADECIMAL[letter] and all(each in "0123456789abcdefABCDEF" for each in digits):
                number = int(digits, 16)
                if number < 0xD800 or 0xDFFF < number <= 0x10FFFF:
                    self.at += len(digits)
                    return chr(number)
        raise bad(f"unknown escape in a quoted string: {shown(chr(92) + letter)}")
