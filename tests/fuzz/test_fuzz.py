"""Ordinary users, four at a time, with programs of their own that do to the agent whatever its socket lets them."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from pbsdock.directive.parse import DirectiveError
from tests.conftest import Instance
from tests.fuzz import actions, invariants
from tests.fuzz.directives import directive
from tests.fuzz.invariants import Sample
from tests.fuzz.jobs import told
from tests.fuzz.run import Fuzz, new_seed
from tests.support.torque import parse_options

SECONDS = float(os.environ.get("PBSDOCK_FUZZ_S") or 35)


@pytest.mark.engine
@pytest.mark.threat(2, 4, 21, 23, 32, 33)
@pytest.mark.timeout(SECONDS + 280)
def test_nothing_falls(instance: Instance, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever they do, every invariant holds."""
    root = Path(tempfile.mkdtemp(prefix="pbsdock-fuzz.", dir="/var/tmp"))
    root.chmod(0o755)
    seed = new_seed()
    with capfd.disabled():  # known whatever becomes of the run
        print(f"\nfuzz: seed {seed}, {SECONDS:g} s (again with PBSDOCK_FUZZ_SEED={seed})", flush=True)
    fuzz = Fuzz(instance, root, SECONDS, seed)
    try:
        fuzz.make()
        report = fuzz.run()
        with capfd.disabled():
            print(report.text, flush=True)
    finally:
        fuzz.unmake()
        shutil.rmtree(root, ignore_errors=True)

    assert report.broken == [], "see the table above"


# -- the harness itself ------------------------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_play() -> None:
    for temper in actions.TEMPERS:
        first, again, other = (actions.steps(seed, temper, "busybox") for seed in ("1", "1", "2"))
        play = [first() for _ in range(60)]

        assert play == [again() for _ in range(60)]
        assert play != [other() for _ in range(60)]


def test_every_shape_and_request_is_played() -> None:
    found = [(temper, actions.steps("7", temper, "busybox")) for temper in actions.TEMPERS]
    played = [step for _, take in found for step in (take() for _ in range(400))]
    ops = {one.op for step in played for one in step.requests}

    assert {one.shape for one in played} == {name for shapes in actions.TEMPERS.values() for name in shapes}
    assert ops >= {*actions.ROOT_OPS, *actions.USER_OPS, "END"}
    assert {one.target for step in played for one in step.requests} == set(actions.TARGETS)


def test_directives_are_both_good_and_bad() -> None:
    rng = random.Random(1)
    verdicts = []
    for _ in range(200):
        try:
            parse_options(directive(rng, "busybox:1"))
            verdicts.append(True)
        except DirectiveError:
            verdicts.append(False)

    assert 20 < sum(verdicts) < 180


def test_what_breaks_an_invariant_is_seen() -> None:
    def sample(at: float, log: int) -> Sample:
        return Sample(at=at, memory=0, threads=0, agent_fds=0, engine_fds=0, mounts=0, log=log)

    fast = [sample(float(second), second * 40_000) for second in range(90)]
    slow = [sample(float(second), second * 10_000) for second in range(90)]
    burst = [sample(float(second), min(second, 30) * 40_000) for second in range(300)]
    assert invariants.growth(fast).wrong
    assert invariants.growth(burst).wrong
    assert not invariants.growth(slow).wrong

    assert not invariants.honest([0.4, 3.2, 0.5], [(3.2, 0.5, 9.0)], []).wrong
    assert invariants.honest([0.4, 3.2, 0.5], [(3.2, 3.1, 9.0)], []).wrong
    assert invariants.honest([3.2, 3.2, 0.5], [(3.2, 0.5, 9.0), (3.2, 0.5, 9.0)], []).wrong
    assert invariants.honest([], [], []).wrong
    assert invariants.honest([0.4], [], ["status 1"]).wrong

    assert told(5, b"1\n2\nwhole\n", b"") == []
    assert told(5, b"1\ngot TERM\n2\nwhole\n", b"") == ["it got signals: got TERM"]
    assert len(told(137, b"1\n3\n", b"pbsdock: x")) == 3

    assert invariants.most("x", 5, [1, 6]).wrong
    assert not invariants.back("x", 5, 9, 6, 1).wrong
    assert invariants.back("x", 5, 9, 7, 1).wrong
    lines = "x\nTraceback (most recent call last):\n  File\nOSError: gone\nTraceback (most recent call last):\nOSError: gone\n"
    assert invariants.tracebacks([{"event": "agent.error", "where": "tick", "reason": "KeyError('x')"}], lines) == [
        "agent.error tick: KeyError('x')",
        "2 times on stderr: OSError: gone",
    ]
