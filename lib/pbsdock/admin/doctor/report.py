"""How ``pbsdock doctor`` prints its findings. Standard library only: the packages may be damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, TextIO


class Reportable(Protocol):
    """A dataclass whose ``str()`` is a line."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. ``part`` and ``step`` name it, ``seen`` is a sentence."""

    part: str
    step: str
    well: bool
    seen: str

    def __str__(self) -> str:
        return f"{self.part} {self.step}: {self.seen}"


def report(findings: Iterator[Reportable], out: TextIO, *, as_json: bool) -> int:
    """Print the findings; returns the exit code: 0 if all are well, 1 if not."""
    seen: list[Reportable] = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            print(f"{'ok ' if finding.well else 'NOT'} {finding}", file=out)
    if as_json:
        print(json.dumps([asdict(finding) for finding in seen], indent=1), file=out)
    return 0 if all(finding.well for finding in seen) else 1
