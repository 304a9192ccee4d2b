"""A stage-in's worker that waits for the job's umask; the worker is a fake that notes what it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pbsdock.agent.work import Work
from pbsdock.agent.workers import Worker


class FakeWorker:
    """Answers the umask by its modes; silent on demand, until it is killed."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell_umask(self, umask: int) -> None:
        self.told.append(f"umask {umask:04o}")

    def kill(self) -> None:
        self.told.append("kill")

    def obey(self) -> Iterator[dict[str, Any]]:
        yield {"done": {}}
        self.told.append("asked for modes")
        yield {"modes": True}


@pytest.mark.parametrize(("umask", "told"), [(0o077, ["kill"]), (0o022, ["umask 0022", "asked for modes", "kill"])])
def test_a_fake_worker_is_told_the_umask_once_and_ended(umask: int, told: list[str]) -> None:
    """At 0077, which it has worked with, there is nothing to tell."""
    worker = FakeWorker()
    work = Work(worker=cast(Worker, worker), held=worker.obey())
    assert work.held is not None
    next(work.held)
    work.follow(umask, 5.0)
    work.follow(0o002, 5.0)

    assert worker.told == told


def test_a_fake_worker_that_says_nothing_any_more_is_ended() -> None:
    """A user can stop a process that is theirs."""
    worker, killed = FakeWorker(), threading.Event()

    def silent() -> Iterator[dict[str, Any]]:
        killed.wait(10)
        yield from ()

    worker.kill = killed.set  # type: ignore[method-assign]
    Work(worker=cast(Worker, worker), held=silent()).follow(0o022, 0.05)

    assert killed.is_set()
