"""The verdicts of ``pbsdock doctor packages``: versions, lists and advisories; the files are tested on a copy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.version import Version

from pbsdock.admin.doctor.advisories import ENGINE, PACKAGES, Advisory, load, parse
from pbsdock.admin.doctor.packages import judge_advisories, judge_lock, pins

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = """\
# made by make lock
Py_YAML.x==6.0.1 \\
    --hash=sha256:00
    # via something==1
six==1.17.0 ; python_version < "4" \\
    --hash=sha256:01
"""


def test_pins() -> None:
    """Names as an index compares them, versions as they are; comments and hashes are no packages."""
    assert pins(LOCK) == {"py-yaml-x": "6.0.1", "six": "1.17.0"}


ROW = """
[[advisory]]
component = "six"
cves = ["CVE-1"]
what = "w"
fixed = [{}]
added = 2026-01-02
sources = ["https://x"]
"""


@pytest.mark.parametrize(
    ("version", "fixed", "affected"),
    [
        ("2.9.0", '"2.10.0"', True),
        ("2.31.0", '"2.31.0"', False),
        ("2.31", '"2.31.0"', False),
        ("2.31.0.post1", '"2.31.0"', False),
        ("2.31.0rc1", '"2.31.0"', True),
        ("2024.7.4", '"2023.11.17"', False),
        ("3.20", '"3.14"', False),
        ("1.9", '"2.0"', True),
        ("4", '"4.0"', False),
        ("1.26.18", '"1.26.19", "2.2.2"', True),
        ("1.26.19", '"1.26.19", "2.2.2"', False),
        ("2.1.5", '"1.26.19", "2.2.2"', True),
        ("2.3.0", '"1.26.19", "2.2.2"', False),
    ],
)
def test_affected(version: str, fixed: str, affected: bool) -> None:
    """Versions compare as PEP 440 says; a series that was mended by itself counts by itself."""
    (row,) = parse(ROW.format(fixed))

    assert row.affects(Version(version)) is affected


@pytest.mark.parametrize("fixed", ["", '"2.0", "1.0"', '"nonsense"'])
def test_tables_that_mean_nothing_are_refused(fixed: str) -> None:
    """No version, versions in no order, or what is no version."""
    with pytest.raises(ValueError, match=r"expected one or more versions in ascending order$|nonsense"):
        parse(ROW.format(fixed))


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        ({"a": "1", "b": "2"}, ["ok  packages lock: the 2 packages of the lock, and no others"]),
        ({"a": "1", "b": "2", "pbsdock": "0.1.0"}, ["ok  packages lock: the 2 packages of the lock, and no others"]),
        ({"a": "1"}, ["NOT packages lock: b 2 is missing; run install.sh again"]),
        ({"a": "1", "b": "3"}, ["NOT packages lock: b is 3 and the lock has 2; run install.sh again"]),
        ({"a": "1", "b": "2", "c": "9"}, ["NOT packages lock: c 9 is not in the lock; run install.sh again"]),
        (
            {},
            [
                "NOT packages lock: a 1 is missing; run install.sh again",
                "NOT packages lock: b 2 is missing; run install.sh again",
            ],
        ),
    ],
)
def test_lock(installed: dict[str, str], says: list[str]) -> None:
    """A sentence for each package that is not as locked."""
    assert [
        f"{'ok ' if finding.well else 'NOT'} {finding}" for finding in judge_lock({"a": "1", "b": "2"}, installed)
    ] == says


@pytest.mark.parametrize("row", load(PACKAGES), ids=lambda row: f"{row.component} {row.fixed[-1]}")
def test_advisories(row: Advisory) -> None:
    """The version that mends it is not affected, the one before is; the sentence says what it is and what mends it."""
    package, fixed = row.component, str(row.fixed[-1])
    *head, last = fixed.split(".")
    older = ".".join([*head, str(int(last) - 1)]) if int(last) else ".".join([*head[:-1], str(int(head[-1]) - 1), "99"])

    said = [finding.seen for finding in judge_advisories({package: older}) if not finding.well]

    assert f"{package} {older} has {row.name} ({row.what}); {fixed} has not: install a newer pbsdock" in said
    assert not any(row.name in finding.seen for finding in judge_advisories({package: fixed}) if not finding.well)


def test_what_is_no_version_is_told() -> None:
    """It cannot be compared, and so is not called well."""
    assert [(finding.well, finding.seen) for finding in judge_advisories({"idna": "odd"})] == [
        (False, "idna 'odd' is not a version; run install.sh again")
    ]


@pytest.mark.parametrize("table", [PACKAGES, ENGINE])
def test_rows_have_dates_and_sources(table: str) -> None:
    """Every CVE is in one row, and every row says when it was added and where it is described."""
    cves = [cve for row in load(table) for cve in row.cves]

    assert len(cves) == len(set(cves))
    for row in load(table):
        assert row.added.year >= 2026
        assert row.sources
        assert all(source.startswith("https://") for source in row.sources)


_ROW = re.compile(r"^\| ([A-Za-z0-9 -]+) \| ((?:CVE-[0-9-]+(?:, )?)+) \| ([0-9., ]+) \|$", re.M)


def test_tables_of_the_manual_are_the_programs() -> None:
    """docs/security.md lists what is compared, no more and no less."""
    listed = {
        (component.removeprefix("Docker "), cve, versions.replace("19.03.", "19.3."))
        for component, cves, versions in _ROW.findall((REPOSITORY / "docs/security.md").read_text())
        for cve in cves.split(", ")
    }

    assert listed == {
        (row.component, cve, ", ".join(map(str, row.fixed)))
        for table in (PACKAGES, ENGINE)
        for row in load(table)
        for cve in row.cves
    }
