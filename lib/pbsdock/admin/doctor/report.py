"""What every part of ``pbsdock doctor`` prints. Needs no package: they are what one of the parts looks at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, TextIO


class Reportable(Protocol):
    """A dataclass whose text is one line."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def well(self) -> bool:
        """Whether it is as it should be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    part: str
    step: str
    well: bool
    seen: str

    def __str__(self) -> str:
        return f"{self.part} {self.step}: {self.seen}"


def report(findings: Iterator[Reportable], out: TextIO, *, as_json: bool) -> int:
    """Print what was found; 0 if all is well, 1 if not."""
    seen: list[Reportable] = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            print(f"{'ok ' if finding.well else 'NOT'} {finding}", file=out)
    if as_json:
        print(json.dumps([asdict(finding) for finding in seen], indent=1), file=out)
    return 0 if all(finding.well for finding in seen) else 1
