"""The job scripts that the docs show are right; what is run of the docs is in tests/engine/test_docs_shell.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbsdock.admin.cli import main
from tests.support.docs_shell import Block, blocks, blocks_of

_JOBS = [block for block in blocks() if block.kind.endswith("job")]


@pytest.mark.parametrize("block", _JOBS, ids=[block.where for block in _JOBS])
def test_check_takes_it(block: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With an image, and no line that is none."""
    script = tmp_path / "job.sh"
    script.write_text(block.text)

    assert main(["check", str(script)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "no #DOCKER line" not in said.out


def test_every_block_says_what_is_done_with_it() -> None:
    """Every kind is there as well: one that is never met would be a test that never runs."""
    assert [f"{block.where}: {block.wrong}" for block in blocks() if block.wrong] == []
    assert {block.kind for block in blocks()} == {"run: job", "check: job", "run: commands", "not run"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<!-- run: commands, exit 0 to 2 -->\n```sh\na\n```\n", ("run: commands", 2, False)),
        ("<!-- not run: it takes a day -->\n```sh\na\n```\n", ("not run", 0, False)),
        ("<!-- not run -->\n```sh\na\n```\n", ("", 0, True)),
        ("<!-- not run: tests/unit/test_none.py does -->\n```sh\na\n```\n", ("", 0, True)),
        ("<!-- run: job: why not -->\n```sh\na\n```\n", ("", 0, True)),
        ("words\n```sh\na\n```\n", ("", 0, True)),
        ("```\npbsdock ps\n```\n", ("", 0, True)),
    ],
)
def test_marks(text: str, found: tuple[str, int, bool]) -> None:
    """What is not understood is told, and not passed over."""
    (block,) = blocks_of("page.md", text)

    assert (block.kind, block.most, bool(block.wrong)) == found
