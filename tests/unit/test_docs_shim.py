"""docs/shim.md says of the command line what is so."""

from __future__ import annotations

import re
import shlex

import pytest

from pbsdock.shim import template_budget, template_functions
from pbsdock.shim.filters import KEYS
from pbsdock.shim.parse import ShimRefusal, parse
from pbsdock.shim.template_tokens import TEXT_LIMIT
from pbsdock.shim.template_tree import DEPTH
from tests.support.shim_manual import PAGE, written
from tests.support.torque import WORDS

TEXT = PAGE.read_text()


def test_the_tables_are_the_shims_own() -> None:
    """``python -m tests.support.shim_manual`` mends them."""
    assert written(TEXT) == TEXT


@pytest.mark.parametrize("command", KEYS)
def test_filters(command: str) -> None:
    """All keys, and no other."""
    (row,) = re.findall(rf"^\| `docker {command}` \| (.*) \|$", TEXT, re.MULTILINE)
    assert re.findall(r"`([a-z-]+)`", row) == sorted(KEYS[command])


def test_functions_of_templates() -> None:
    """Offered and not, and the bounds."""
    _, _, rest = TEXT.partition("and the functions\n")
    offered, _, rest = rest.partition(". ")
    refused, _, bounds = rest.partition(". A template")
    assert set(re.findall(r"`(\w+)`", offered)) == {*template_functions.FUNCTIONS, "and", "or"}
    assert set(re.findall(r"`(\w+)`", refused)) == {*template_functions.NOT_OFFERED, "define", "template", "block"}
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", bounds.partition("\n\n")[0])]
    assert numbers == [TEXT_LIMIT, DEPTH, template_budget.STEPS, template_budget.OUTPUT_LIMIT >> 20]


def test_examples() -> None:
    """The lines of other programs are answered as shown."""
    examples = re.findall(r"^\$ (\w+) (.*)\ndocker: (.*)$", TEXT, re.MULTILINE)
    assert examples
    for program, line, answer in examples:
        with pytest.raises(ShimRefusal) as caught:
            parse(shlex.split(line), WORDS, program)
        assert caught.value.sentence == answer


def test_the_lines_of_its_scripts_are_read() -> None:
    """They show what works."""
    scripts = "".join(re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^docker (.*?)(?: >/dev/null)?$", scripts, re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        assert parse(shlex.split(line.replace("$TMPDIR", "/tmp")), WORDS)
