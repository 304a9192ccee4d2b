"""Names of nodes as an admin writes them: ``n1,n[08-12],login``, or a file with a node a line. Pure but for that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

MOST = 10_000
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_RANGE = re.compile(r"([^\[\]]*)\[([^\[\]]*)\](.*)")
_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


class BadNodes(ValueError):
    """``str()`` says what is wrong."""


def nodes(text: str) -> list[str]:
    """The nodes, each once, in their order. Raises BadNodes.

    Brackets as in clush and pdsh: ``n[1-3,7]`` is n1, n2, n3 and n7, and ``n[08-10]`` keeps the zeros. ``@FILE`` has
    the first word of each line, as Torque's ``server_priv/nodes``.
    """
    words = list(_of_file(text[1:]) if text.startswith("@") else _split(text))
    found: dict[str, None] = {}
    for word in words:
        for name in _expanded(word):
            if not _NAME.fullmatch(name):
                raise BadNodes(f"{name!r} is no name of a node; expected names such as n1,n[2-9], or @FILE")
            found[name] = None
            if len(found) > MOST:
                raise BadNodes(f"these are more than {MOST} nodes")
    if not found:
        raise BadNodes(f"{text!r} names no node; expected names such as n1,n[2-9], or @FILE")
    return list(found)


def _of_file(path: str) -> Iterator[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadNodes(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    for line in lines:
        if words := line.partition("#")[0].split():
            yield words[0]


def _split(text: str) -> Iterator[str]:
    """At commas that are not in brackets."""
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\]|[\[\]])+", text):
        if part.strip():
            yield part.strip()


def _expanded(word: str) -> Iterator[str]:
    found = _RANGE.fullmatch(word)
    if found is None:
        yield word
        return
    head, inner, tail = found.groups()
    for part in inner.split(","):
        numbers = _PART.fullmatch(part.strip())
        if numbers is None:
            raise BadNodes(f"[{inner}] in {word!r} is no range; expected numbers such as [1-3,7]")
        first, last = numbers[1], numbers[2] or numbers[1]
        if int(last) < int(first) or int(last) - int(first) >= MOST:
            raise BadNodes(f"[{inner}] in {word!r} is no range of at most {MOST} nodes that ends after it begins")
        width = len(first) if first.startswith("0") else 0
        for number in range(int(first), int(last) + 1):
            for rest in _expanded(tail):
                yield f"{head}{number:0{width}d}{rest}"
