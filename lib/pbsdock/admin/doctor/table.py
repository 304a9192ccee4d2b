"""The rows of ``pbsdock doctor``: each a verdict, what was seen, and what mends it."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pbsdock.admin.doctor.report import Reportable

_LEAST_WIDTH = 60


class Verdict(Enum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"  # jobs run, but something is to be seen to
    WRONG = "wrong"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True, slots=True)
class Mend:
    """Something safe that ``--fix`` does; *what* is a sentence's end: "remove FILE"."""

    what: str
    act: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Row:
    """A check's result. *fix* is what an admin is to do, "" if nothing."""

    part: str
    step: str
    verdict: Verdict
    seen: str
    fix: str = ""
    mend: Mend | None = field(default=None, compare=False)


def ok(part: str, step: str, seen: str) -> Row:
    """All is well."""
    return Row(part, step, Verdict.OK, seen)


def warn(part: str, step: str, seen: str, fix: str, mend: Mend | None = None) -> Row:
    """Something is to be seen to."""
    return Row(part, step, Verdict.WARN, seen, fix, mend)


def wrong(part: str, step: str, seen: str, fix: str, mend: Mend | None = None) -> Row:
    """Jobs cannot run, or are not safe."""
    return Row(part, step, Verdict.WRONG, seen, fix, mend)


def unknown(part: str, step: str, seen: str, fix: str = "") -> Row:
    """It cannot be found out."""
    return Row(part, step, Verdict.UNKNOWN, seen, fix)


def from_findings(part: str, findings: Iterable[Reportable], *, ill: Verdict = Verdict.WRONG) -> Iterator[Row]:
    """The rows of an older check, whose sentences end in what helps; *ill* is what is not well."""
    for finding in findings:
        name, _, sentence = str(finding).partition(": ")
        first, _, rest = name.partition(" ")
        step = rest if first.lower() == part else name
        if finding.well:
            yield ok(part, step, sentence)
        else:
            seen, _, fix = sentence.rpartition("; ") if "; " in sentence else (sentence, "", "")
            yield Row(part, step, ill, seen, fix)


def exit_code(rows: Iterable[Row]) -> int:
    """0: all is well, as far as it can be told; 1: something is to be seen to; 2: something is wrong."""
    verdicts = {row.verdict for row in rows}
    return 2 if Verdict.WRONG in verdicts else 1 if Verdict.WARN in verdicts else 0


def lines(rows: Sequence[Row], width: int | None = None) -> Iterator[str]:
    """The table for a person. Pure, but for the terminal's width."""
    width = max(_LEAST_WIDTH, width or shutil.get_terminal_size((100, 24)).columns)
    name = max((len(f"{row.part} {row.step}") for row in rows), default=0)
    margin = 13 + name + 2
    for row in rows:
        head = f"{row.verdict.value:<11}  {f'{row.part} {row.step}':<{name}}  "
        texts = [row.seen] + ([f"-> {row.fix}"] if row.fix and row.verdict is not Verdict.OK else [])
        for index, text in enumerate(texts):
            plain = "".join(letter if letter.isprintable() else "?" for letter in text)
            for number, part in enumerate(
                textwrap.wrap(plain, max(30, width - margin), break_on_hyphens=False) or [""]
            ):
                yield f"{head if not index and not number else ' ' * margin}{part}".rstrip()
    counts = {verdict: sum(row.verdict is verdict for row in rows) for verdict in Verdict}
    yield ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count)


def as_json(rows: Iterable[Row]) -> str:
    """The documented list (docs/doctor.md)."""
    told = [
        {
            "part": row.part,
            "step": row.step,
            "verdict": row.verdict.value,
            "seen": row.seen,
            "fix": row.fix,
            "fixable": row.mend is not None,
        }
        for row in rows
    ]
    return json.dumps(told, indent=1)
