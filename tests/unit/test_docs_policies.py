"""docs/policies.md: every policy is read by the real reader, and every row is what the real policy answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pbsdock.config.tables import Config, parse
from pbsdock.core.errors import Refusal
from pbsdock.core.plan import Plan
from pbsdock.core.sizes import human
from pbsdock.policy.decide import HostFacts, decide, effective
from pbsdock.rm.base import Job
from tests.conftest import ROOT
from tests.support.torque import job, parse_options

PAGE = (ROOT / "docs/policies.md").read_text()
NODE = HostFacts(node="n1", memory_bytes=64 << 30, cpus=16)
_SECTION = re.compile(r"^## (\d+)\. .*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)
_ROW = re.compile(r"^\| `#DOCKER ([^`]*)`(.*?) \| (.*) \|$", re.MULTILINE)
_QUALIFIER = re.compile(r" (by|of group|in queue|with) `([^`]+)`")
_ITEM = re.compile(r"(?:^|, )(\w[\w.]*) `([^`]+)`")


def _rows() -> Iterator[Any]:
    for section in _SECTION.finditer(PAGE):
        (policy,) = _TOML.findall(section[0])
        rows = _ROW.findall(section[0])
        table = [line for line in section[0].splitlines() if line.startswith("| `")]
        assert len(rows) == len(table) > 1, f"a row of policy {section[1]} cannot be read"
        for number, row in enumerate(rows, 1):
            yield pytest.param(policy, *row, id=f"{section[1]}-{number}")


def _job(qualifiers: str) -> Job:
    said = dict(_QUALIFIER.findall(qualifiers))
    assert _QUALIFIER.sub("", qualifiers) == ""
    resources = said.get("with", "").removeprefix("-l ")
    if "nodes=" not in resources:
        resources = ",".join(filter(None, ["nodes=1:ppn=2", resources]))
    gpus = re.search(r"gpus=(\d+)", resources)
    return job(
        resources,
        slots_here=2,
        gpu_ids=tuple(map(str, range(int(gpus[1])))) if gpus else (),
        user=said.get("by", "alice"),
        group=said.get("of group", "users"),
        queue=said.get("in queue", "batch"),
    )


def _gets(plan: Plan, config: Config, name: str) -> set[str]:
    """All that a job gets under a name of the page's; more than one of mounts and stores."""
    limits = plan.limits
    if "." in name:
        table, key = name.split(".")
        value = getattr(getattr(config, table), key)
        return {str(value).lower() if isinstance(value, bool) else str(value)}
    if name == "mount":
        return {
            f"{one.source}{'' if one.source == one.target else f' as {one.target}'} {'ro' if one.read_only else 'rw'}"
            for one in plan.mounts
        }
    if name == "store":
        grants = (grant for store in plan.stores for grant in store.container)
        return {f"{grant.bucket} {'ro' if grant.read_only else 'rw'}" for grant in grants}
    told: Mapping[str, str] = {
        "image": plan.image,
        "pull": plan.pull,
        "network": plan.network,
        "pids": str(limits.pids),
        "memory": human(limits.memory_bytes or 0),
        "shm": human(limits.shm_bytes),
        "gpus": str(len(plan.gpus)),
    }
    return {told[name]}


@pytest.mark.parametrize(("policy", "options", "qualifiers", "answer"), list(_rows()))
def test_what_a_request_gets(policy: str, options: str, qualifiers: str, answer: str) -> None:
    """The code of the refusal, or every item of the answer."""
    config, owner = parse(policy), _job(qualifiers)
    items = _ITEM.findall(answer)
    assert items
    assert _ITEM.sub("", answer) == "", "a part of the answer is not understood"
    directive = parse_options(options)

    if items[0][0] == "refused":
        with pytest.raises(Refusal) as caught:
            decide(owner, directive, config, NODE)
        assert [("refused", caught.value.code)] == items
        return
    plan = decide(owner, directive, config, NODE)

    for name, value in items:
        assert value in _gets(plan, effective(config, owner), name), name


def test_there_are_ten() -> None:
    """As the title says, in order, each with an answer and a refusal."""
    assert [found[1] for found in _SECTION.finditer(PAGE)] == [str(number) for number in range(1, 11)]
    for found in _SECTION.finditer(PAGE):
        assert "| refused `" in found[0]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_every_configuration_shown_is_one(page: Path) -> None:
    """Nothing that the docs show as TOML is refused by the reader."""
    for text in _TOML.findall(page.read_text()):
        parse(text)
