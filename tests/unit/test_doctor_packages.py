"""The verdicts of ``pbsdock doctor packages``: versions, lists and the table of holes; the files are tested on a copy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pbsdock.admin.doctor.packages import HOLES, before, judge_holes, judge_lock, pins

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


@pytest.mark.parametrize(
    ("version", "fixed", "older"),
    [
        ("2.9.0", "2.10.0", True),
        ("2.31.0", "2.31.0", False),
        ("2.31", "2.31.0", True),
        ("2.31.0.post1", "2.31.0", False),
        ("2024.7.4", "2023.11.17", False),
        ("3.20", "3.14", False),
        ("1.9", "2.0", True),
        ("nonsense", "0.1", True),
    ],
)
def test_before(version: str, fixed: str, older: bool) -> None:
    """By number, not by letter; what is no version is older than anything."""
    assert before(version, fixed) is older


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
    assert [f"{'ok ' if one.well else 'NOT'} {one}" for one in judge_lock({"a": "1", "b": "2"}, installed)] == says


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: f"{hole.package} {hole.fixed}")
def test_holes(hole: object) -> None:
    """The version that mends it has it no more, the one before has; the sentence says what it is and what mends it."""
    one = next(each for each in HOLES if each is hole)
    *head, last = one.fixed.split(".")
    older = ".".join([*head, str(int(last) - 1)]) if int(last) else ".".join([*head[:-1], str(int(head[-1]) - 1), "99"])

    said = [each.seen for each in judge_holes({one.package: older}) if not each.well]

    assert f"{one.package} {older} has {one.name} ({one.what}); {one.fixed} has not: install a newer pbsdock" in said
    assert not any(one.name in each.seen for each in judge_holes({one.package: one.fixed}) if not each.well)


def test_the_table_of_the_manual_is_the_programs() -> None:
    """docs/security.md lists what is compared, no more and no less."""
    rows = re.findall(
        r"^\| ([a-z0-9-]+) \| ((?:CVE-[0-9-]+(?:, )?)+) \| ([0-9.]+) \|$",
        (REPOSITORY / "docs/security.md").read_text(),
        re.M,
    )

    assert [row for row in rows if row[0] not in ("runc", "containerd")] == [
        (one.package, one.name, one.fixed) for one in HOLES
    ]
