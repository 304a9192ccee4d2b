"""Known vulnerabilities of packages and of the engine, and the versions that have them.

The tables are ``advisories-packages.toml`` and ``advisories-engine.toml`` beside this file, as old as the release.
"""

from __future__ import annotations

import datetime
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from packaging.version import Version

PACKAGES = "advisories-packages.toml"
ENGINE = "advisories-engine.toml"


@dataclass(frozen=True, slots=True)
class Advisory:
    """A vulnerability of a component, and the first version without it in each series that was mended.

    A series is the first two numbers of a version. ``fixed`` ascends; a series after the last one is without it.
    """

    component: str
    cves: tuple[str, ...]
    what: str
    fixed: tuple[Version, ...]
    added: datetime.date
    sources: tuple[str, ...]  # URLs

    @property
    def name(self) -> str:
        """Its CVE numbers."""
        return ", ".join(self.cves)

    def affects(self, version: Version) -> bool:
        """Whether this upstream version has it; a pre-release comes before its release (PEP 440)."""
        for fixed in self.fixed:
            if _series(fixed) == _series(version):
                return version < fixed
        return _series(version) < _series(self.fixed[-1])


def _series(version: Version) -> tuple[int, int]:
    return version.major, version.minor


@cache
def load(table: str) -> tuple[Advisory, ...]:
    """The rows of ``PACKAGES`` or ``ENGINE``."""
    return parse(resources.files(__package__).joinpath(table).read_text(encoding="utf-8"))


def parse(text: str) -> tuple[Advisory, ...]:
    """The rows of a table's text. Raises ValueError (also TOML's and packaging's), KeyError."""
    return tuple(_advisory(row) for row in tomllib.loads(text).get("advisory", []))


def _advisory(row: dict[str, Any]) -> Advisory:
    fixed = tuple(Version(text) for text in row["fixed"])
    if not fixed or list(fixed) != sorted(fixed):
        raise ValueError(f"{row['component']} {row['cves']}: expected one or more versions in ascending order")
    return Advisory(
        component=row["component"],
        cves=tuple(row["cves"]),
        what=row["what"],
        fixed=fixed,
        added=row["added"],
        sources=tuple(row["sources"]),
    )
