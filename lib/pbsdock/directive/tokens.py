"""Words of a ``#DOCKER`` line, each character with its column. Pure.

Quoting is the POSIX shell's: nothing is special in single quotes; in double quotes a backslash protects ``$``, a
backquote, ``"`` and itself only; outside quotes it protects any character. Nothing is ever run or globbed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_CURLY = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f"
_PROTECTED_IN_DOUBLE = '$`"\\'
_SHOWN = 80

Complain = Callable[[int, str], None]


def shown(text: str) -> str:
    """A user's text for a sentence: quoted, escaped and shortened."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


@dataclass(slots=True)
class Token:
    """One word: ``text`` as meant, ``stored`` the same with plain dollar signs doubled for a later expansion."""

    line: int
    column: int
    text: str = ""
    stored: str = ""
    columns: list[int] = field(default_factory=list)
    variables: list[tuple[str, int]] = field(default_factory=list)  # (name, column)
    plain_start: bool = True  # does not begin with a quotation mark or a backslash

    @property
    def is_option(self) -> bool:
        """Whether the word is an option."""
        return self.plain_start and len(self.text) > 1 and self.text[0] == "-"

    def place(self, index: int) -> int:
        """The column of a character of ``text``, or the one behind the last."""
        if index < len(self.columns):
            return self.columns[index]
        return self.columns[-1] + 1 if self.columns else self.column

    def rest(self, index: int) -> Token:
        """The word from a character of ``text`` on; none of those before it may be a dollar sign."""
        return Token(
            self.line,
            self.place(index),
            self.text[index:],
            self.stored[index:],
            self.columns[index:],
            self.variables,
            self.plain_start,
        )

    def add(self, letter: str, column: int) -> None:
        """Append a character that stands for itself."""
        self.text += letter
        self.stored += "$$" if letter == "$" else letter
        self.columns.append(column)


def tokenize(text: str, start: int, line: int, complain: Complain) -> list[Token] | None:
    """Split ``text`` from index *start* into words; None, after a call of *complain*, if it cannot be split."""
    words = _Words(text, start, line)
    try:
        return words.read()
    except _SyntaxError as error:
        complain(error.column, error.sentence)
        return None


class _SyntaxError(Exception):
    def __init__(self, column: int, sentence: str) -> None:
        super().__init__(sentence)
        self.column = column
        self.sentence = sentence


class _Words:
    """The state of splitting a line."""

    def __init__(self, text: str, start: int, line: int) -> None:
        self.text, self.index, self.line = text, start, line
        self.tokens: list[Token] = []
        self.current: Token | None = None
        self.quote, self.quoted_at = "", 0

    def read(self) -> list[Token]:
        while self.index < len(self.text):
            letter = self.text[self.index]
            if not self.quote and letter in " \t":
                self.current = None
                self.index += 1
            elif not self.quote and letter == "#" and self.current is None:
                break
            else:
                self._check(letter)
                self._letter(letter)
        if self.quote:
            raise _SyntaxError(self.quoted_at, f"the quotation mark {self.quote} is not closed")
        return self.tokens

    def _check(self, letter: str) -> None:
        category = unicodedata.category(letter)
        if category == "Cf" or (category == "Zs" and letter != " "):
            name = unicodedata.name(letter, "nameless")
            raise _SyntaxError(
                self.index + 1, f"invisible character U+{ord(letter):04X} ({name}) is not allowed here; retype the line"
            )
        begins = self.current is None or self.current.text.endswith("=")
        if letter in _CURLY and not self.quote and begins:
            raise _SyntaxError(self.index + 1, f"{letter!r} is not a quotation mark; write \" or '")

    def _letter(self, letter: str) -> None:
        if self.current is None:
            self.current = Token(self.line, self.index + 1, plain_start=letter not in "'\"\\")
            self.tokens.append(self.current)
        if self.quote and letter == self.quote:
            self.quote = ""
        elif not self.quote and letter in "'\"":
            self.quote, self.quoted_at = letter, self.index + 1
        elif letter == "\\" and self.quote != "'":
            self._protected(self.current)
        elif letter == "$" and self.quote != "'":
            self._variable(self.current)
        elif letter == "`" and self.quote != "'":
            raise _SyntaxError(self.index + 1, "'`' would run a command, and nothing is run here; write the value out")
        else:
            self.current.add(letter, self.index + 1)
        self.index += 1

    def _protected(self, token: Token) -> None:
        follows = self.text[self.index + 1 : self.index + 2]
        if not follows and not self.quote:
            raise _SyntaxError(
                self.index + 1, "a backslash does not continue the line; begin the next one with #DOCKER as well"
            )
        if self.quote and follows not in _PROTECTED_IN_DOUBLE:
            token.add("\\", self.index + 1)
        elif follows:
            self.index += 1
            self._check(follows)
            token.add(follows, self.index + 1)

    def _variable(self, token: Token) -> None:
        column = self.index + 1
        match = VARIABLE.match(self.text, self.index)
        if match is None:
            raise _SyntaxError(column, "'$' begins a variable's name; write '\\$' for a plain dollar sign")
        name = match.group(2) if match.group(1) is None else match.group(1)
        written = match.group()
        token.variables.append((name, column))
        token.text += written
        token.columns += [column] * len(written)
        # "$HOME"x is not $HOMEx
        glued = match.group(1) is None and self.text[match.end() : match.end() + 1] in ("'", '"', "\\")
        token.stored += f"${{{name}}}" if glued else written
        self.index = match.end() - 1
