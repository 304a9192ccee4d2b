"""``--env-file``: lines of ``NAME=VALUE`` by the rules of Docker's client. Pure.

Nothing is expanded, quoted or trimmed at a line's end: a value is all behind the first equals sign.
"""

from __future__ import annotations

from pbsdock.core.errors import BadValue
from pbsdock.directive.tokens import shown

SIZE_LIMIT = 1024 * 1024  # bytes
_LINE_LIMIT = 64 * 1024  # bytes, as Docker's reader has it
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANKS = " \t"


def parse_env_file(data: bytes, filename: str) -> tuple[tuple[str, str | None], ...]:
    """The pairs of a file, in its order; a name alone has None, for the client's own value of that variable.

    Raises BadValue with the file's name and the line.
    """
    if len(data) > SIZE_LIMIT:
        raise BadValue(f"env file {shown(filename)} has {len(data)} bytes; at most {SIZE_LIMIT} are taken")
    pairs: list[tuple[str, str | None]] = []
    for number, line in enumerate(data.removeprefix(_BYTE_ORDER_MARK).split(b"\n"), 1):
        if found := _pair(line.removesuffix(b"\r"), f"env file {shown(filename)}, line {number}"):
            pairs.append(found)
    return tuple(pairs)


def _pair(line: bytes, place: str) -> tuple[str, str | None] | None:
    if len(line) >= _LINE_LIMIT:
        raise BadValue(f"{place}: the line has {len(line)} bytes; less than {_LINE_LIMIT} are taken")
    try:
        text = line.decode("utf-8").lstrip(_BLANKS)
    except UnicodeDecodeError:
        raise BadValue(f"{place}: the line is not UTF-8 text") from None
    if not text or text.startswith("#"):
        return None
    name, equals, value = text.partition("=")
    if not name:
        raise BadValue(f"{place}: no variable name on line {shown(text)}; write NAME=VALUE")
    if any(blank in name for blank in _BLANKS):
        raise BadValue(
            f"{place}: variable {shown(name)} contains whitespaces; write NAME=VALUE without blanks around ="
        )
    if "\0" in text:
        raise BadValue(f"{place}: variable {shown(name)} holds a NUL, which no environment can")
    return name, value if equals else None
