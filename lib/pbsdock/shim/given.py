"""The options given to a command, their values read one by one. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pbsdock.core.errors import BadValue
from pbsdock.shim.flags import Parsed, quoted
from pbsdock.shim.refusal import ShimRefusal
from pbsdock.shim.syntax import Syntax
from pbsdock.shim.values import NotOffered

Value = TypeVar("Value")


class Given:
    """The options and arguments of one command line. All methods raise ShimRefusal for a value that is wrong."""

    def __init__(self, syntax: Syntax, parsed: Parsed) -> None:
        self.arguments = tuple(parsed.arguments)
        self._parsed = parsed
        self._spelled = {option.name: option.spelled for option in syntax.options}
        self._values: dict[str, list[str]] = {}
        for name, value in parsed.given:
            self._values.setdefault(name, []).append(value)

    @property
    def names(self) -> tuple[str, ...]:
        """The long names of all options given, in order and each once."""
        return tuple(self._values)

    def flag(self, name: str, default: bool = False) -> bool:
        """Whether a flag is set."""
        return self._values[name][-1] == "true" if name in self._values else default

    def text(self, name: str) -> str | None:
        """The value that counts, as written; None without."""
        return self._values[name][-1] if name in self._values else None

    def one(self, name: str, reader: Callable[[str], Value]) -> Value | None:
        """The value that counts, the last; None without, and for an empty one, which says nothing."""
        text = self.text(name)
        return self._read(name, text, reader) if text else None

    def every(self, name: str, reader: Callable[[str], Value], most: int) -> tuple[Value, ...]:
        """All values in order, at most *most*."""
        texts = self._values.get(name, [])
        if len(texts) > most:
            raise ShimRefusal(f"--{name} is given more than {most} times; no container may have more")
        return tuple(self._read(name, text, reader) for text in texts)

    def _read(self, name: str, text: str, reader: Callable[[str], Value]) -> Value:
        try:
            return reader(text)
        except BadValue as error:
            code = "docker-not-offered" if isinstance(error, NotOffered) else "docker-usage"
            said = f"invalid argument {quoted(text)} for {quoted(self._spelled[name])} flag: it {error}"
            raise ShimRefusal(said, code=code) from None
