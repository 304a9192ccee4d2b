"""One pull for several jobs, each with bounds of its own; the engine is a fake whose pull says what the test says."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pbsdock.core.errors import HookError
from pbsdock.engine.base import ImageFacts
from pbsdock.engine.images import Asker, Images

_FACTS = ImageFacts(id="sha256:1", digests=(), architecture="amd64", size_bytes=5)


class FakeEngine:
    """Pulls for as long as it is given lines; None is the end, and then the image is there."""

    def __init__(self) -> None:
        self.lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.pulls: list[dict[str, str]] = []
        self.ended = 0
        self.is_there = False
        self.hooks: dict[str, list[Any]] = {"response": []}
        self.images = Images(lambda _: self, lambda _: _FACTS if self.is_there else None, lambda *_, **__: None)

    def pull(self, _repository: str, *, auth_config: dict[str, str], **_options: Any) -> Iterator[dict[str, Any]]:
        self.pulls.append(auth_config)
        try:
            while (line := self.lines.get(timeout=10)) is not None:
                yield line
            self.is_there = True
        finally:
            self.ended += 1

    def info(self) -> dict[str, str]:
        return {"Architecture": "x86_64"}

    def close(self) -> None:
        """A client is one of many."""

    def downloaded(self, size: int) -> None:
        self.lines.put({"id": "layer", "status": "Downloading", "progressDetail": {"current": size, "total": 1000}})

    def wait(self, **bounds: Any) -> Waiting:
        waiting = Waiting(self.images, bounds)
        time.sleep(0.05)  # the first is the first
        return waiting


class Waiting:
    """One job that waits for the image."""

    def __init__(self, images: Images, bounds: dict[str, Any]) -> None:
        self.images = images
        self.bounds = {"pull": "missing", "platform": None, "inactivity_s": 20.0, "total_s": 20.0, **bounds}
        self.said = ""
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def _wait(self) -> None:
        try:
            self.said = self.images.ensure("reg:1/a:1", **self.bounds).id
        except HookError as error:
            self.said = error.code

    def answer(self) -> str:
        self.thread.join(5)
        return self.said


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        ({"max_bytes": 100}, "image-too-large"),
        ({"total_s": 0.4}, "pull-too-slow"),
        ({"inactivity_s": 0.4}, "pull-too-slow"),
    ],
    ids=["bytes", "time", "silence"],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "second"])
def test_a_stricter_job_goes_alone_with_a_fake_engine(
    engine: FakeEngine, bounds: dict[str, Any], code: str, is_first: bool
) -> None:
    """What one job's bounds refuse is no end for the others', whichever asked first."""
    first = engine.wait(**(bounds if is_first else {}))
    second = engine.wait(**({} if is_first else bounds))
    strict, other = (first, second) if is_first else (second, first)
    engine.downloaded(500)
    assert strict.answer() == code
    assert other.said == ""
    engine.downloaded(600)
    engine.lines.put(None)

    assert other.answer() == "sha256:1"
    assert len(engine.pulls) == 1


def test_a_pull_nobody_waits_for_ends_with_a_fake_engine(engine: FakeEngine) -> None:
    """It ends at its next word, and who comes after it has a new one."""
    assert engine.wait(total_s=0.3).answer() == "pull-too-slow"
    engine.downloaded(1)
    time.sleep(0.1)
    late = engine.wait()
    engine.downloaded(1)
    engine.lines.put(None)

    assert late.answer() == "sha256:1"
    assert (len(engine.pulls), engine.ended) == (2, 2)


def test_a_fake_engine_that_has_not_begun_to_answer_is_asked_once(engine: FakeEngine) -> None:
    """Nothing can end such a pull: jobs that come and go must not pile them up."""
    for _ in range(3):
        assert engine.wait(total_s=0.3).answer() == "pull-too-slow"
    late = engine.wait()
    engine.lines.put(None)

    assert late.answer() == "sha256:1"
    assert len(engine.pulls) == 1


def test_other_credentials_are_another_pull_of_a_fake_engine(engine: FakeEngine) -> None:
    """The site may have exchanged them while the first still waits."""
    old, new = ({"username": "u", "password": one} for one in ("old", "new"))
    waiting = [engine.wait(asker=Asker(site=lambda _, one=one: one)) for one in (old, new, new)]
    for _ in range(2):
        engine.lines.put(None)

    assert [one.answer() for one in waiting] == ["sha256:1"] * 3
    assert [one["password"] for one in engine.pulls] == ["old", "new"]
