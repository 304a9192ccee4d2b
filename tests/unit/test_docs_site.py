"""The site of the docs (mkdocs.yml): what it is made of. ``make docs`` builds it, and is part of ``make test``."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


def _module(name: str) -> ModuleType:
    path = ROOT / f"docs/site/{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_site_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["architecture.svg", "life-of-a-job.svg", "states.svg"])
def test_pictures_are_as_they_are_drawn(name: str) -> None:
    """Also the one of a job's states, which is drawn from the table that the agent goes by."""
    pictures = _module("pictures")

    assert set(pictures.ALL) == {path.name for path in pictures.PICTURES.iterdir()}
    assert (pictures.PICTURES / name).read_text() == pictures.ALL[name](), "draw it anew: python docs/site/pictures.py"


def test_links_out_of_the_docs_lead_to_pages_of_the_site() -> None:
    """Those of README.md and CONTRIBUTING.md into the docs as well."""
    pages = _module("pages")

    assert pages._target(Path("docs"), "../examples") == "examples.md"
    assert pages._target(Path("docs"), "../CONTRIBUTING.md") == "contributing.md"
    assert pages._target(Path("."), "docs/why.md") == "why.md"
    assert pages._target(Path("."), "init/") == "first-process.md"
    assert pages._target(Path("docs"), "nodes.md") == "nodes.md"
    assert pages._target(Path("docs"), "../nothing.md") == "../nothing.md"  # which mkdocs complains of


def test_what_github_takes_for_a_table_or_a_list_is_one() -> None:
    """Python-Markdown wants a blank line before it; not inside of a fence, nor in a list that goes on."""
    spaced = _module("pages")._spaced

    assert list(spaced(["words", "| a |", "|---|", "words", "- x", "  more", "- y"])) == [
        "words", "", "| a |", "|---|", "words", "", "- x", "  more", "- y"
    ]  # fmt: skip
    assert list(spaced(["see:", "```", "- no list", "| no table", "```", "| t |"])) == [
        "see:", "", "```", "- no list", "| no table", "```", "", "| t |"
    ]  # fmt: skip


def test_what_ends_the_build(tmp_path: Path) -> None:
    """By the Makefile's own command: mkdocs' option --quiet would hide warnings, and build all the same."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs/start.md").open("a") as page:
        page.write("\n[gone](gone.md) [no place](why.md#gone) ![far](https://example.org/a.png)\n")
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT}/mkdocs.yml\nhooks: [{ROOT}/docs/site/pages.py]\n")
    recipe = re.search(r"\$\(PYTHON\) (-m mkdocs build.*)", (ROOT / "Makefile").read_text())
    assert recipe is not None

    command = [sys.executable, *shlex.split(recipe[1]), "-f", str(tmp_path / "mkdocs.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("WARNING")] == [
        "WARNING -  Doc file 'start.md' contains a link 'gone.md', but the target is not found among documentation files.",
        'WARNING -  start.md: not from here: <img alt="far" src="https://example.org/a.png" />',
        "WARNING -  Doc file 'start.md' contains a link 'why.md#gone', but the doc 'why.md' does not contain an anchor '#gone'.",
    ]
