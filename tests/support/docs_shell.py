"""The shell blocks of the docs, each with the comment before it that says what a test does with it.

``<!-- run: job -->``: a job script that ``pbsdock try`` runs. ``<!-- check: job -->``: one that ``pbsdock check`` reads, as its
image or its programs are not here. ``<!-- run: commands -->``: every line is run; ``exit 0 to 2`` behind a comma says which
exit codes are well. ``<!-- not run: REASON -->``: none of these, and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(
    r"(?P<kind>run: job|check: job|run: commands|not run)(?:, exit 0 to (?P<most>\d))?(?:: (?P<why>.+))?"
)
_TESTS = re.compile(r"tests/[\w/]+(?:\.py)?")  # where a reason says that something else tries it
_LIKE_SHELL = re.compile(r"(?:#!/bin/|#PBS |#DOCKER \w|(?:pbsdock|qsub|sudo|systemctl) [a-z-])")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of shell: where it is, what is done with it, and the largest exit code that is well."""

    where: str
    text: str
    kind: str  # "" where nothing is done with it, which ``wrong`` has a sentence on
    most: int = 0
    wrong: str = ""


def blocks() -> list[Block]:
    """All of README.md and docs/."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [block for page in pages for block in blocks_of(str(page.relative_to(ROOT)), page.read_text())]


def blocks_of(name: str, text: str) -> Iterator[Block]:
    """Those of one page."""
    for found in _FENCE.finditer(text):
        where = f"{name}:{text.count(chr(10), 0, found.start('text'))}"
        if found["language"] == "sh":
            yield _block(where, found["text"], found["mark"] or "")
        elif not found["language"] and _LIKE_SHELL.match(found["text"]):
            yield Block(where, found["text"], "", wrong="it looks like shell: write ```sh")


def _block(where: str, text: str, written: str) -> Block:
    mark = _MARK.fullmatch(written)
    if mark is None:
        return Block(
            where,
            text,
            "",
            wrong="the line before it has to say what a test does with it (tests/support/docs_shell.py)",
        )
    if bool(mark["why"]) != (mark["kind"] == "not run"):
        return Block(where, text, "", wrong="what is not run says why, and nothing else does")
    lost = [path for path in _TESTS.findall(mark["why"] or "") if not (ROOT / path).exists()]
    if lost:
        return Block(where, text, "", wrong=f"there is no {lost[0]}")
    return Block(where, text, mark["kind"], int(mark["most"] or 0))
