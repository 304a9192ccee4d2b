"""What a decision costs: as much as its directive is long, and a directive has an end."""

from __future__ import annotations

import time

import pytest

from pbsdock.config.tables import parse
from pbsdock.core.errors import Refusal
from pbsdock.directive import draft as directive_draft
from pbsdock.directive import parse as directive
from pbsdock.directive.parse import Directive, DirectiveError
from pbsdock.policy import stores as policy_store
from pbsdock.policy.decide import HostFacts, decide
from pbsdock.rm.base import Job
from tests.support.torque import job, parse_script

HOST = HostFacts(node="n1", memory_bytes=8 << 30, cpus=4)
SITE = parse(
    "[mounts]\nallow=['/scratch']\n[s3.ceph]\nendpoint='https://s3.example.org'\nidentity='/etc/x'\nallow=['*']\n"
)
KINDS = {
    "env": "-e A{0}=x",
    "env of the host": "-e A{0}",
    "env with variables": "-e A{0}=$HOME",
    "volume": "-v /scratch/{0}:/x{0}",
    "tmpfs": "--tmpfs /t{0}",
    "tmpfs with a size": "--tmpfs /t{0}:size=1m",
    "s3": "--s3 b:ro",
    "stage-in": "--stage-in s3://b/k{0} $HOME/{0}",
    "stage-out": "--stage-out $HOME/{0} s3://b/k{0}",
}


def _job(**changes: object) -> Job:
    return job("nodes=1,mem=1gb", **changes)


def _script(option: str, count: int, last: str = "busybox") -> bytes:
    lines, line = [], "#DOCKER"
    for number in range(count):
        word = option.format(number)
        if len(line) + len(word) > 4000:
            lines.append(line)
            line = "#DOCKER"
        line += f" {word}"
    return "\n".join(["#!/bin/sh", *lines, line, f"#DOCKER {last}", "true\n"]).encode()


def _cost(script: bytes) -> float:
    """CPU seconds of the quickest of three: others may use the processor meanwhile."""
    took = []
    for _ in range(3):
        began = time.thread_time()
        found = parse_script(script, filename="job.sh")
        assert isinstance(found, Directive)
        decide(_job(), found, SITE, HOST)
        took.append(time.thread_time() - began)
    return min(took)


@pytest.mark.parametrize("kind", KINDS)
def test_twice_as_much_takes_twice_as_long(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Not four times: without the bounds, so that there is something to measure."""
    monkeypatch.setattr(directive, "DIRECTIVE_LIMIT", 1 << 30, raising=False)
    monkeypatch.setattr(directive, "EXPANDED_LIMIT", 1 << 30, raising=False)
    monkeypatch.setattr(directive, "DIRECTIVE_LINES", 1 << 30)
    monkeypatch.setattr(directive_draft, "MOST", {}, raising=False)
    monkeypatch.setattr(policy_store, "LIMIT", 1 << 30)
    count = 1000
    for _ in range(5):  # a busy machine disturbs one measurement or another; what is quadratic is so each time
        once, twice = _cost(_script(KINDS[kind], count)), _cost(_script(KINDS[kind], 2 * count))
        if twice < 3 * once:
            return

    raise AssertionError(f"{count}: {once:.3f} s, {2 * count}: {twice:.3f} s")


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("env", 1024),
        ("volume", 128),
        ("tmpfs", 64),
        ("s3", 64),
        ("stage-in", 256),
        ("stage-out", 256),
    ],
)
def test_so_many_of_a_kind(kind: str, most: int) -> None:
    """One more is told once, with its line and what is allowed; its values are no second image."""
    found = parse_script(_script(KINDS[kind], most), filename="job.sh")
    with pytest.raises(DirectiveError) as caught:
        parse_script(_script(KINDS[kind], most + 5), filename="job.sh")

    assert found is not None
    (problem,) = caught.value.problems
    assert problem.message == f"--{kind} is given more than {most} times; no job may have more"
    assert problem.line > 1


def test_so_much_text() -> None:
    """All lines together have a bound, told with the line where it is passed."""
    line = b"#DOCKER -e A%d=" + b"x" * 985 + b"\n"
    lines = [line % number for number in range(10, 75)]
    assert parse_script(b"".join(lines) + b"#DOCKER busybox\n") is not None
    with pytest.raises(DirectiveError) as caught:
        parse_script(b"".join([*lines, line % 98, line % 99]) + b"#DOCKER busybox\n", filename="job.sh")

    assert (
        str(caught.value) == "job.sh:66:1: the #DOCKER lines up to this one have 66000 bytes; at most 65536 are taken"
    )


def test_a_short_name_of_a_long_text() -> None:
    """What variables become has a bound too: the value is the user's, by qsub -v."""
    found = parse_script(_script("-e A{0}=$PBS_O_WORKDIR", 400), filename="job.sh")
    assert found is not None
    with pytest.raises(Refusal) as caught:
        decide(_job(work_dir="/" + "x" * 100_000), found, SITE, HOST)

    assert (caught.value.code, caught.value.sentence) == (
        "values-too-long",
        "job.sh:2:9: with the variables filled in, the options have more than 262144 characters; $PBS_O_WORKDIR alone has"
        " 100001",
    )


def test_comments_that_look_like_directives() -> None:
    """A script made of nothing else costs a glance at each."""
    script = b"#docker is a program\n" * 500_000
    began = time.thread_time()

    assert parse_script(script) is None
    assert time.thread_time() - began < 2
