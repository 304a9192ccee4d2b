"""What ``make lock`` adds to the table of advisories; the answers have the form that OSV documents."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from lock import advisories
from pbsdock.admin.doctor.advisories import parse

TODAY = datetime.date(2026, 5, 4)


def _vulnerability(name: str, *aliases: str, fixed: tuple[str, ...] = ("2.0",), **more: Any) -> dict[str, Any]:
    extents = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": version}]} for version in fixed]
    commits = {"type": "GIT", "events": [{"introduced": "0"}, {"fixed": "deadbeef"}]}
    affected = [{"package": {"name": "six", "ecosystem": "PyPI"}, "ranges": [commits, *extents]}]
    return {"id": name, "aliases": list(aliases), "summary": 'a "sum"\nmary', "affected": affected, **more}


def _rows(*found: dict[str, Any], known: set[str] | None = None) -> str:
    return "".join(advisories.rows("six", {"vulns": list(found)}, known or set(), TODAY))


def test_a_new_row() -> None:
    """All of it, in the table's form, with the versions in order."""
    (row,) = parse(_rows(_vulnerability("GHSA-1", "CVE-2", "CVE-1", fixed=("2.10.0", "1.26.19", "2.10.0"))))

    assert (row.component, row.cves, row.what) == ("six", ("CVE-1", "CVE-2"), 'a "sum"\nmary')
    assert row.fixed == (Version("1.26.19"), Version("2.10.0"))
    assert (row.added, row.sources) == (TODAY, ("https://osv.dev/vulnerability/GHSA-1",))


def test_what_adds_no_row() -> None:
    """What the table has by any of its names, what was withdrawn, what nothing mends; the same from another database."""
    assert _rows(_vulnerability("GHSA-1", "CVE-1"), known={"CVE-1"}) == ""
    assert _rows(_vulnerability("GHSA-1", "CVE-1", withdrawn="2026-01-01T00:00:00Z")) == ""
    assert _rows(_vulnerability("GHSA-1", "CVE-1", fixed=())) == ""
    assert len(parse(_rows(_vulnerability("GHSA-1", "CVE-1"), _vulnerability("PYSEC-1", "CVE-1")))) == 1
    assert _rows() == ""


def test_a_name_of_its_own_where_there_is_no_cve() -> None:
    """PyPI's own numbers are names too."""
    assert parse(_rows(_vulnerability("PYSEC-1")))[0].cves == ("PYSEC-1",)


def test_without_a_network_the_table_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody listens on port 1; one sentence, and no error."""
    table = shutil.copy(advisories.TABLE, tmp_path / "table.toml")

    assert advisories.main("127.0.0.1:1", table) == 0
    assert table.read_bytes() == advisories.TABLE.read_bytes()
    assert "127.0.0.1:1 cannot be asked ([Errno 111] Connection refused); table.toml stays" in capsys.readouterr().err


def test_new_rows_go_behind_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for each locked package; the text that was there is kept. OSV's answer is a fake."""
    asked: list[str] = []

    def ask(package: str, _host: str) -> dict[str, Any]:
        asked.append(package)
        return {"vulns": [_vulnerability("GHSA-1", "CVE-1")]} if package == "six" else {}

    monkeypatch.setattr(advisories, "ask", ask)
    table = shutil.copy(advisories.TABLE, tmp_path / "table.toml")

    assert advisories.main("nowhere", table) == 0
    assert table.read_text().startswith(advisories.TABLE.read_text())
    assert len(parse(table.read_text())) == len(parse(advisories.TABLE.read_text())) + 1
    assert {"boto3", "packaging", "six"} <= set(asked)
