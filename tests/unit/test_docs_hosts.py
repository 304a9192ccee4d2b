"""docs/hosts.md against the tests it names."""

from __future__ import annotations

import re

from tests.conftest import ROOT


def test_every_trap_has_a_test_that_exists() -> None:
    """Or a sentence: no cell of the table is empty, and no test of it has been renamed or removed."""
    text = (ROOT / "docs/hosts.md").read_text()
    traps = [
        line.split("|")[2].strip() for line in text[text.index("## Traps") :].splitlines() if line.startswith("| ")
    ][1:]
    named = {one for line in traps for one in re.findall(r"`(test_\w+)(?:\.py)?`", line)}
    source = [*(ROOT / "tests").rglob("test_*.py")]
    known = {name for file in source for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}

    assert len(traps) > 20
    assert [one for one in traps if len(one) < 20] == []
    assert named - known - {file.stem for file in source} == set()
