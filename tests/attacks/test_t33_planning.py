"""T33: a directive of tens of thousands of options: the job that brings it waits, nobody else does."""

from __future__ import annotations

import threading
import time

import pytest

from tests.conftest import IMAGE, Instance
from tests.support.attack import ATTACKER, is_healthy, works

pytestmark = [pytest.mark.engine, pytest.mark.threat(6)]


def _script(count: int, option: str = "-e A%d=") -> str:
    lines, line = [], "#DOCKER"
    for number in range(count):
        word = option % number
        if len(line) + len(word) > 4000:
            lines.append(line)
            line = "#DOCKER"
        line += f" {word}"
    return "\n".join(["#!/bin/sh", *lines, line, f"#DOCKER {IMAGE}", "echo ran", ""])


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (40_000, ":2:9: --env is given more than 1024 times; no job may have more"),
        (1025, "--env is given more than 1024 times; no job may have more"),
    ],
)
def test_too_many_options(instance: Instance, count: int, says: str) -> None:
    """At the job, at once."""
    began = time.monotonic()
    done = instance.run(_script(count, "-e A%d"), user=ATTACKER)

    assert time.monotonic() - began < 10
    assert (done.prologue_status, done.exit_status, done.stdout) == (0, 125, b"")
    assert says.partition("--")[2] in done.stderr.decode()
    assert is_healthy(instance)


def test_as_many_as_are_allowed(instance: Instance) -> None:
    """The largest directive there can be is planned, and runs."""
    done = instance.run(_script(1024, "-e A%d=" + "x" * 40), user=ATTACKER)

    assert (done.exit_status, done.stdout) == (0, b"ran\n"), done.stderr


def test_nobody_else_waits(instance: Instance) -> None:
    """While eight of the attacker's prologues read the longest script there is, other users' jobs come and go."""
    assert works(instance)
    script = "#!/bin/sh\n" + "#docker is not what this is about\n" * 200_000 + _script(40_000)
    ended: list[int] = []
    threads = [
        threading.Thread(target=lambda: ended.append(instance.run(script, user=ATTACKER).exit_status)) for _ in range(8)
    ]
    for one in threads:
        one.start()
    took = []
    while any(one.is_alive() for one in threads) or not took:
        began = time.monotonic()
        assert works(instance)
        took.append(time.monotonic() - began)
    for one in threads:
        one.join()

    assert set(ended) == {125}
    assert max(took) < 10
    assert is_healthy(instance)
