"""Which rule of the site's file counted, and its line."""

from __future__ import annotations

from typing import Any

import pytest

from pbsdock.config.lines import positions
from pbsdock.config.tables import parse
from pbsdock.core.errors import Refusal
from pbsdock.core.trail import Decision
from pbsdock.directive.parse import directive_text, parse_options
from pbsdock.policy.decide import HostFacts, decide
from pbsdock.policy.explain import _BEHIND, Rules
from pbsdock.rm.base import Job
from pbsdock.rm.torque.words import WORDS
from tests.conftest import ROOT
from tests.support.torque import job

HOST = HostFacts(node="n1", memory_bytes=8 << 30, cpus=4)
SITE = """\
[images]
allow = [
  "docker.io/team/*",
  "docker.io/library/*",
]
deny = ["docker.io/library/evil"]
[limits]
pids = 64
default_memory = "1gb"
[network]
default = "none"

[[override]]
queues = ["long"]
[override.limits]
pids = 128
"""


def _decided(options: str = "busybox:1", config: str = SITE, whose: Job | None = None) -> dict[str, Decision]:
    owner = whose or job("nodes=1:ppn=2,mem=200mb", slots_here=2)
    rules = Rules(parse(config), positions(config))
    directive = parse_options(options, WORDS)
    plan = decide(owner, directive, rules.config, HOST)
    return {made.what: made for made in rules.decided(owner, directive, plan)}


def test_the_line_of_each_rule() -> None:
    """That of the very pattern in a list; none where the default counts."""
    made = _decided()

    assert made["image"] == Decision(what="image", value="docker.io/library/busybox:1", rule="images.allow", line=4)
    assert made["pids"] == Decision(what="pids", value="64", rule="limits.pids", line=8)
    assert made["network"] == Decision(what="network", value="none", rule="network.default", line=11)
    assert made["pull"] == Decision(what="pull", value="missing", rule="images.pull", line=0)
    assert made["memory"] == Decision(what="memory", value="200 MiB", rule="qsub -l mem")
    assert made["cpu"] == Decision(what="cpu", value="2 of the node's", rule="limits.cpu", line=0)
    assert "override" not in made


def test_what_the_directive_asked_for() -> None:
    """Then its option is the reason, where the site allows it."""
    made = _decided("--network host --shm-size 1mb --pull always -v /home/alice/x:/data busybox:1")

    assert (made["network"].value, made["network"].rule) == ("host", "--network")
    assert (made["shm"].value, made["shm"].rule) == ("1 MiB", "--shm-size")
    assert (made["pull"].value, made["pull"].rule) == ("always", "--pull")
    assert made["mounts"].rule == "mounts.allow"
    assert "/data" in made["mounts"].value


def test_memory_of_a_job_that_asks_for_none() -> None:
    """The site's default, with its line."""
    assert _decided(whose=job("nodes=1"))["memory"] == Decision(
        what="memory", value="1 GiB", rule="limits.default_memory", line=9
    )


def test_an_override() -> None:
    """It is named, and its keys have its lines; what it leaves out has the site's."""
    made = _decided(whose=job("nodes=1", queue="long"))

    assert made["override"] == Decision(what="override", value="number 1", rule="override", line=13)
    assert (made["pids"].value, made["pids"].line) == ("128", 16)
    assert made["network"].line == 11


def _refused(options: str, config: str = SITE, **changes: Any) -> tuple[Decision, ...]:
    owner = job(changes.pop("resources", "nodes=1"), **changes)
    rules = Rules(parse(config), positions(config))
    with pytest.raises(Refusal) as found:
        decide(owner, parse_options(options, WORDS), rules.config, HOST)
    return rules.refused(owner, found.value)


@pytest.mark.parametrize(
    ("options", "config", "changes", "rule", "line"),
    [
        ("evil", SITE, {}, "images.deny", 6),
        ("quay.io/x/y", SITE, {}, "images.allow", 2),
        ("busybox", "[users]\nmin_uid = 5000\n", {}, "users.min_uid", 2),
        ("busybox", '[users]\ndeny = ["alice"]\n', {}, "users.deny", 2),
        ("busybox", '[users]\nallow_groups = ["x"]\n', {}, "users.allow_groups", 2),
        ("busybox", "[images]\nrequire_digest = true\n", {}, "images.require_digest", 2),
        ("--network bridge busybox", "", {}, "network.allow", 0),
        ("busybox", '[limits]\nmax_memory = "1gb"\n', {"resources": "nodes=1,mem=2gb"}, "limits.max_memory", 2),
        ("-v /etc:/x busybox", '[mounts]\nallow = ["/scratch"]\n', {}, "mounts.allow", 2),
    ],
)
def test_the_rule_behind_a_refusal(options: str, config: str, changes: dict[str, Any], rule: str, line: int) -> None:
    """With its line, 0 where the default refuses."""
    (made,) = _refused(options, config, **changes)

    assert (made.what, made.rule, made.line) == ("refused by", rule, line)


def test_a_refusal_that_is_no_rules() -> None:
    """The node has no more memory, and the directive is no directive."""
    assert _refused("busybox", "", resources="nodes=1,mem=90gb") == ()
    assert Rules().refused(job("nodes=1"), Refusal("bad-directive", "x")) == ()
    assert Rules().refused(job("nodes=1"), Refusal("no-such-directory", "x")) == ()


def test_an_override_behind_a_refusal() -> None:
    """It is named as well."""
    config = '[[override]]\nqueues = ["long"]\n[override.images]\nallow = ["docker.io/team/*"]\n'
    made = _refused("busybox", config, queue="long")

    assert [(each.what, each.line) for each in made] == [("override", 1), ("refused by", 4)]


def test_every_rule_is_a_key_of_the_file() -> None:
    """And every code one that the library gives."""
    documented = (ROOT / "docs/configuration.md").read_text()
    library = "".join(path.read_text() for path in (ROOT / "lib/pbsdock").rglob("*.py") if path.name != "explain.py")
    for code, keys in _BEHIND.items():
        assert f'"{code}"' in library
        for key in keys:
            section, name = key.split(".")
            assert f"### [{section}" in documented
            assert f"| `{name}` |" in documented


def test_the_directive_as_written() -> None:
    """Its lines at the head alone, right or wrong, and no more than a person reads."""
    script = b"#!/bin/sh\n#PBS -l x\n#DOCKER --volum a\r\n#docker x\necho\n#DOCKER late\n"
    assert directive_text(script) == "#DOCKER --volum a\n#docker x"
    assert directive_text(b"echo\n") == ""
    assert directive_text(b"#DOCKER \xff\n") == "#DOCKER �"
    assert len(directive_text(b"#DOCKER x\n" * 5000).split("\n")) == 17
    assert len(directive_text(b"#DOCKER " + b"x" * 9000)) == 2000
