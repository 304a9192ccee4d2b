"""The lock files agree with what is declared, name each file they allow by its hash, and are what is tested here."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lock import lock as generator
from pbsdock.admin.doctor.packages import judge_advisories, pins

REPOSITORY = Path(__file__).resolve().parents[2]
LOCKS = tuple(generator.wanted())
PYTHONS = ("3.11", "3.12", "3.13", "3.14")  # of setup.cfg's range, those that are released


def _text(name: str) -> str:
    return (REPOSITORY / f"lock/{name}.txt").read_text()


def _declared(name: str) -> list[Requirement]:
    return [Requirement(line) for line in generator.wanted()[name] if line.strip()]


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_pins_one_version_and_its_hashes(name: str) -> None:
    """Wheels only but for what is named, exact versions, sha256 hashes, comments: no address, and no other option."""
    size = len(generator.head(name))
    head, text = _text(name)[:size], re.sub(r"\s*\\\n\s*", " ", _text(name)[size:])
    lines = [one for one in text.splitlines() if one.strip() and not one.lstrip().startswith("#")]

    assert head == generator.head(name)
    assert lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*( --hash=sha256:[0-9a-f]{64})+", line), line[:120]
    assert not re.search(r"://|--(index|extra|find|trusted)", text)
    assert len(lines) == len(pins(text))


@pytest.mark.parametrize("name", LOCKS)
def test_what_is_declared_is_locked(name: str) -> None:
    """Every requirement of setup.cfg and pyproject.toml is satisfied by the version in the lock."""
    locked = pins(_text(name))

    wrong = [
        str(one)
        for one in _declared(name)
        if canonicalize_name(one.name) not in locked or not one.specifier.contains(locked[canonicalize_name(one.name)])
    ]

    assert wrong == []


def test_declarations_are_read_as_pip_reads_them() -> None:
    """What the generator takes for declared is what the installed package says of itself."""
    said = [Requirement(one) for one in metadata.requires("pbsdock") or []]
    extra = {
        (one.name, one.specifier) for one in said if one.marker is not None and one.marker.evaluate({"extra": "test"})
    }

    assert {(one.name, one.specifier) for one in _declared("run")} == {
        (one.name, one.specifier) for one in said if one.marker is None
    }
    assert extra <= {(one.name, one.specifier) for one in _declared("test")}
    assert extra


@pytest.mark.parametrize("name", ["run", "build", "vm"])
def test_parts_are_of_the_whole(name: str) -> None:
    """What is installed on a node, and in the tests' machine, is what the tests run with."""
    whole = pins(_text("test"))

    assert {one: version for one, version in pins(_text(name)).items() if whole.get(one) != version} == {}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["run", "vm"])
def test_closed_for_every_python(name: str, python: str) -> None:
    """No locked package needs one that is not, or another version, on any Python of the declared range."""
    locked = pins(_text(name))
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0", "extra": ""}

    lacking = [
        f"{package} needs {one}"
        for package in locked
        for one in map(Requirement, metadata.requires(package) or [])
        if one.marker is None or one.marker.evaluate(environment)
        if canonicalize_name(one.name) not in locked or not one.specifier.contains(locked[canonicalize_name(one.name)])
    ]

    assert lacking == []


def test_tested_with_what_is_locked() -> None:
    """The environment these tests run in is the lock's, so that no new release of anything changes their outcome."""
    here = {canonicalize_name(one.metadata["Name"]): one.version for one in metadata.distributions()}
    assert {one: here.get(one) for one in pins(_text("test"))} == pins(_text("test"))
    assert set(here) - set(pins(_text("test"))) <= {"pbsdock", "pip"}


def test_no_known_vulnerability_is_locked() -> None:
    """A lock that is renewed too seldom fails here, as it would at each node's doctor."""
    assert [one.seen for one in judge_advisories(pins(_text("run"))) if not one.well] == []
