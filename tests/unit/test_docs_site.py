"""The site of the docs (mkdocs.yml): what it is made of. ``make docs`` builds it, and is part of ``make test``."""

from __future__ import annotations

import importlib.util
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
