"""The rules by which Docker's client reads options (those of Go's pflag): values joined, apart or glued. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pbsdock.directive.tokens import shown
from pbsdock.shim.refusal import ShimRefusal

_TRUE = ("1", "t", "T", "TRUE", "true", "True")  # as Go's strconv.ParseBool
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
HELP = "help"


@dataclass(frozen=True, slots=True)
class Option:
    """``--name``, ``-short``; ``value`` is what its value is called, "" for a flag. ``says`` is for a reader; "" for a
    spelling that is taken and not shown, whose values are those of ``stands_for``."""

    name: str
    short: str = ""
    value: str = ""
    says: str = ""
    stands_for: str = ""

    @property
    def spelled(self) -> str:
        """As Docker's errors name it."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


@dataclass(slots=True)
class Parsed:
    """The options given, in order, as (long name, value), a flag's value being "true" or "false"; and the arguments."""

    given: list[tuple[str, str]] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def every(self, name: str) -> list[str]:
        """All values of an option."""
        return [value for known, value in self.given if known == name]

    def last(self, name: str) -> str | None:
        """The value that counts of an option given any number of times; None without."""
        return next((value for known, value in reversed(self.given) if known == name), None)

    def flag(self, name: str, default: bool = False) -> bool:
        """Whether a flag is set."""
        value = self.last(name)
        return default if value is None else value == "true"


Strange = Callable[[str, str | None], None]


def parse_bool(text: str) -> bool | None:
    """A truth value as Go reads it; None for anything else."""
    return True if text in _TRUE else False if text in _FALSE else None


def read(argv: Sequence[str], options: Sequence[Option], strange: Strange, *, interspersed: bool) -> Parsed:
    """Read the words of one command. Raises ShimRefusal.

    *strange* is called with an option that is not in *options*, as ``--name`` or ``-n``, and its joined value or None;
    where it returns, the option is passed over, as one without a value of its own. Not *interspersed*: options end at
    the first argument. ``--help`` is always known, and ``-h`` stands for it where it is nothing else.
    """
    reader = _Reader(argv, {option.name: option for option in options}, strange)
    reader.read(interspersed=interspersed)
    return reader.parsed


class _Reader:
    """The state of reading a command's words."""

    def __init__(self, argv: Sequence[str], named: Mapping[str, Option], strange: Strange) -> None:
        self.argv, self.at, self.named, self.strange = argv, 0, named, strange
        self.short = {option.short: option for option in named.values() if option.short}
        self.parsed = Parsed()

    def read(self, *, interspersed: bool) -> None:
        while self.at < len(self.argv):
            word = self.argv[self.at]
            self.at += 1
            if word == "--":
                break
            if word.startswith("--"):
                self._long(word)
            elif len(word) > 1 and word[0] == "-":
                self._letters(word)
            else:
                self.parsed.arguments.append(word)
                if not interspersed:
                    break
        self.parsed.arguments.extend(self.argv[self.at :])

    def _long(self, word: str) -> None:
        name, equals, value = word[2:].partition("=")
        if not name or name[0] == "-":
            raise ShimRefusal(f"bad flag syntax: {_plain(word)}")
        option = self.named.get(name)
        if option is None:
            if name == HELP:
                self._take(Option(HELP), value if equals else "true")
            else:
                self.strange(f"--{name}", value if equals else None)
        elif equals:
            self._take(option, value)
        elif not option.value:
            self._take(option, "true")
        else:
            self._take(option, self._next(f"--{name}"))

    def _letters(self, word: str) -> None:
        """``-abc``: flags joined, of which the last may have its value glued or behind an equals sign."""
        index = 1
        while index < len(word):
            letter = word[index]
            option = self.short.get(letter)
            index += 1
            if option is None:
                if letter == "h":
                    self._take(Option(HELP), "true")
                    return
                self._unknown_letter(letter, word)
            elif word[index : index + 1] == "=" and len(word) > index + 1:  # at the end it is a letter, or a value
                self._take(option, word[index + 1 :])
                return
            elif not option.value:
                self._take(option, "true")
            else:
                self._take(option, word[index:] or self._next(f"{shown(letter)} in {_plain(word)}"))
                return

    def _unknown_letter(self, letter: str, word: str) -> None:
        self.strange(f"-{letter}", None)
        raise ShimRefusal(f"unknown shorthand flag: {shown(letter)} in {_plain(word)}")

    def _next(self, what: str) -> str:
        if self.at == len(self.argv):
            raise ShimRefusal(f"flag needs an argument: {what}")
        self.at += 1
        return self.argv[self.at - 1]

    def _take(self, option: Option, value: str) -> None:
        if not option.value:
            truth = parse_bool(value)
            if truth is None:
                said = f"invalid argument {quoted(value)} for {quoted(option.spelled)} flag; use true or false"
                raise ShimRefusal(said)
            value = "true" if truth else "false"
        self.parsed.given.append((option.stands_for or option.name, value))


def quoted(text: str) -> str:
    """A user's text as Docker's errors quote it, escaped and shortened."""
    return '"' + shown(text)[1:-1].replace('"', '\\"') + '"'


def _plain(word: str) -> str:
    return word if word.isprintable() and len(word) <= 80 else shown(word)
