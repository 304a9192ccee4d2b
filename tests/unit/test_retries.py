"""A registry that is busy for now, against a fake engine: tried again, within the time, and nobody's fault after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import docker.errors
import pytest
import requests

from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.engine import registry
from pbsdock.engine.base import ImageFacts
from pbsdock.engine.images import Asker, Images
from pbsdock.engine.private import PrivateImages
from pbsdock.engine.pull_errors import RetryPolicy, failure
from tests.support.lying_registry import lying_registry
from tests.support.registry import silent_registry

_BUSY = "toomanyrequests: slow down"
_LOGIN = {"username": "u", "password": "of-the-user"}
ANYBODY = ""


class FakeEngine:
    """Answers each pull, and each question for a manifest, with the next of the words given; "" is success."""

    def __init__(self, *words: str, asked_s: float | None = None, first_s: float = 0.05) -> None:
        self.words = list(words)
        self.asked: list[str] = []  # by whose password
        self.at: list[float] = []
        self.digest = ""
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.hooks: dict[str, list[Any]] = {"response": []}
        self.private = PrivateImages(None)
        self.images = Images(
            lambda _: self,
            lambda _: self._found(),
            lambda name, **fields: self.events.append((name, fields)),
            private=self.private,
            policy=RetryPolicy(first_s=first_s, most_s=first_s * 2),
            retry_after=lambda _: asked_s,
        )

    def _found(self) -> ImageFacts | None:
        if not self.digest:
            return None
        digests = (f"reg.test/a@{self.digest}",)
        return ImageFacts(id="sha256:1", digests=digests, architecture="amd64", size_bytes=5)

    def _next(self, auth_config: dict[str, str]) -> str:
        self.asked.append(auth_config["password"])
        self.at.append(time.monotonic())
        return self.words.pop(0)

    def pull(self, _repository: str, *, auth_config: dict[str, str], **_options: Any) -> Iterator[dict[str, Any]]:
        if words := self._next(auth_config):
            yield {"error": words}
        else:
            self.digest = "sha256:" + "1" * 64
            yield {"status": "Pull complete", "id": "x"}

    def inspect_distribution(self, reference: str, auth_config: dict[str, str]) -> None:
        self.reference = reference
        if words := self._next(auth_config):
            raise docker.errors.APIError("", requests.Response(), words)

    def info(self) -> dict[str, str]:
        return {"Architecture": "x86_64"}

    def close(self) -> None:
        """A client is one of many."""

    def ensure(self, **options: Any) -> str:
        chosen = {"pull": "missing", "platform": None, "inactivity_s": 2.0, "total_s": 5.0, **options}
        return self.images.ensure("reg.test/a:1", **chosen).id

    def names(self) -> list[str]:
        return [name for name, _ in self.events]


def _refused(engine: FakeEngine, **options: Any) -> HookError:
    with pytest.raises(HookError) as caught:
        engine.ensure(**options)
    return caught.value


OWN = Asker(uid=1001, own=lambda _: _LOGIN)


@pytest.mark.parametrize(
    ("text", "code", "kind", "is_passing"),
    [
        (_BUSY, "registry-busy", NodeFault, True),
        ('error parsing HTTP 429 response body: invalid character: "slow"', "registry-busy", NodeFault, True),
        ("received unexpected HTTP status: 503 Service Unavailable", "registry-busy", NodeFault, True),
        ("unexpected status from HEAD request to https://r/v2/: 502 Bad Gateway", "registry-busy", NodeFault, True),
        ("Get https://r/v2/: dial tcp 10.0.0.1:443: i/o timeout", "registry-unreachable", Refusal, True),
        ("Get https://r/v2/: net/http: TLS handshake timeout", "registry-unreachable", Refusal, True),
        ("read tcp 1->2: connection reset by peer", "registry-unreachable", Refusal, True),
        ("dial tcp 127.0.0.1:1: connect: connection refused", "registry-unreachable", Refusal, False),
        ("dial tcp: lookup r.test: no such host", "registry-unreachable", Refusal, False),
        ("denied", "image-access-denied", Refusal, False),
        ("pull access denied for a/b, repository does not exist or may require 'docker login': denied: requested"
         " access to the resource is denied", "image-not-found", Refusal, False),
    ],
)  # fmt: skip
def test_the_engines_words(text: str, code: str, kind: type[HookError], is_passing: bool) -> None:
    """Most of these were seen of Docker 20.10 with a registry that answers so."""
    found = failure("a/b:1", text)

    assert (found.error.code, type(found.error), found.is_passing) == (code, kind, is_passing)


def test_a_busy_registry_is_asked_again_by_a_fake_engine() -> None:
    """Until it gives the image; each try is in the event stream."""
    engine = FakeEngine(_BUSY, "received unexpected HTTP status: 503 Service Unavailable", ANYBODY)

    assert engine.ensure() == "sha256:1"
    assert engine.names() == ["image.pulling", "image.retry", "image.retry", "image.pulled"]
    assert engine.events[1][1]["code"] == "registry-busy"


def test_retry_after_with_a_fake_engine() -> None:
    """What the registry asks for is kept to."""
    engine = FakeEngine(_BUSY, ANYBODY, asked_s=0.7)
    engine.ensure()

    assert engine.at[1] - engine.at[0] >= 0.7


def test_a_retry_after_beyond_the_time_with_a_fake_engine() -> None:
    """Is not waited for: the job is queued again at once, and the pull does not go on without anybody."""
    engine = FakeEngine(_BUSY, ANYBODY, asked_s=100.0)
    began = time.monotonic()
    error = _refused(engine)

    assert (type(error), error.code) == (NodeFault, "registry-busy")
    assert "is busy for now, the job is queued again: toomanyrequests" in str(error)
    assert time.monotonic() - began < 2
    time.sleep(0.3)
    assert not [one for one in threading.enumerate() if one.name == "pull"]
    assert len(engine.asked) == 1


def test_a_registry_busy_for_good_with_a_fake_engine() -> None:
    """The time granted is used, and the sentence says how often it was tried."""
    engine = FakeEngine(*[_BUSY] * 100)
    error = _refused(engine, total_s=1.0)

    assert error.code == "registry-busy"
    assert str(error).endswith(f"({len(engine.asked)} tries)") or str(error).endswith(
        f"({len(engine.asked) - 1} tries)"
    )
    assert len(engine.asked) > 3


def test_what_is_for_good_with_a_fake_engine() -> None:
    """A wrong name is told at once."""
    engine = FakeEngine("dial tcp: lookup reg.test: no such host", ANYBODY)

    assert _refused(engine).code == "registry-unreachable"
    assert len(engine.asked) == 1


@pytest.mark.parametrize("words", ["unauthorized", "denied", "manifest unknown", _BUSY])
def test_the_users_own_login_with_a_fake_engine(words: str) -> None:
    """Used where everybody's right does not do, and what comes by it is marked."""
    engine = FakeEngine(words, ANYBODY, first_s=1.0)

    assert engine.ensure(asker=OWN) == "sha256:1"
    assert engine.asked == ["", "of-the-user"]
    assert engine.private.holds("reg.test/a", "sha256:1")
    assert [fields["private"] for name, fields in engine.events if name == "image.pulled"] == [True]


def test_public_images_need_no_login_of_a_fake_engine() -> None:
    """A user who has one does not make an image private by it, and the registry does not see the password."""
    engine = FakeEngine(ANYBODY)
    engine.ensure(asker=OWN)

    assert engine.asked == [""]
    assert not engine.private.holds("reg.test/a", "sha256:1")


def test_a_private_image_in_the_cache_of_a_fake_engine() -> None:
    """Asked for with the right of each who wants it, by its digest; a yes counts for a while, for that user."""
    engine = FakeEngine("denied", ANYBODY)
    engine.ensure(asker=OWN)
    engine.words = ["denied"]
    error = _refused(engine)
    assert (type(error), error.code) == (Refusal, "image-access-denied")
    assert str(error) == "image 'reg.test/a:1' is private and its registry denies access"
    assert engine.reference == f"reg.test/a@{engine.digest}"

    engine.words = [ANYBODY]
    for _ in range(2):
        assert engine.ensure(asker=OWN) == "sha256:1"
    engine.words = ["denied", "denied"]  # another's login, and none
    other = Asker(uid=1002, own=lambda _: {"username": "o", "password": "of-another"})
    assert _refused(engine, asker=other).code == "image-access-denied"
    assert engine.asked == ["", "of-the-user", "", "of-the-user", "of-another", ""]


def test_a_private_image_whose_registry_is_away_with_a_fake_engine() -> None:
    """Nobody can say, so nobody uses it; busy is tried again."""
    engine = FakeEngine("denied", ANYBODY)
    engine.ensure(asker=OWN)
    engine.words = [_BUSY, "dial tcp 10.0.0.1:443: connect: connection refused"]
    assert _refused(engine).code == "registry-unreachable"
    engine.words = [_BUSY] * 50

    assert _refused(engine, total_s=0.5).code == "registry-busy"


def test_a_private_image_that_became_public_with_a_fake_engine() -> None:
    """Is everybody's from then on, without any question."""
    engine = FakeEngine("denied", ANYBODY)
    engine.ensure(asker=OWN)
    engine.words = [ANYBODY]

    assert engine.ensure() == engine.ensure(asker=Asker(uid=7)) == "sha256:1"


def test_a_private_image_gone_from_its_registry_with_a_fake_engine() -> None:
    """What it has now under the name is fetched instead, by the same rights."""
    engine = FakeEngine("denied", ANYBODY)
    engine.ensure(asker=OWN)
    engine.words = ["manifest unknown", "denied", "denied", "denied"]
    assert _refused(engine, asker=OWN).code == "image-access-denied"
    engine.words = ["manifest unknown", "denied"]

    assert _refused(engine, asker=OWN, pull="never").code == "image-not-present"


def test_a_public_image_is_not_made_private_with_a_fake_engine() -> None:
    """Nobody's --pull always takes it from the others: what was here for all stays so."""
    engine = FakeEngine(ANYBODY, "denied", ANYBODY)
    engine.ensure()
    engine.ensure(asker=OWN, pull="always")

    assert not engine.private.holds("reg.test/a", "sha256:1")


def test_a_hint_for_who_is_denied_by_a_fake_engine() -> None:
    """Why there was no login of their own."""
    engine = FakeEngine("unauthorized")
    error = _refused(engine, asker=Asker(hint=lambda host: f"nothing for {host}"))

    assert str(error) == "image 'reg.test/a:1' cannot be pulled: its registry denies access; nothing for reg.test"


def test_when_to_come_back() -> None:
    """As a registry that is busy says; one that is not, or is not there, says nothing."""
    with lying_registry("429", turned_away=1, retry_after_s=7) as lie:
        assert registry.retry_after(f"{lie.address}/lie:1") == 7.0
        assert registry.retry_after(f"{lie.address}/lie:1") is None

    assert registry.retry_after(f"{lie.address}/lie:1") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("9" * 30, None),
    ],
)
def test_the_header(text: str, seconds: float | None) -> None:
    """Seconds or a date (RFC 9110, 10.2.3); anything else is nothing said."""
    assert registry._seconds(text) == seconds


def test_a_registry_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole question has its time, however the answer comes."""
    monkeypatch.setattr(registry, "_HEAD_S", 0.4)
    with silent_registry() as address:
        began = time.monotonic()

        assert registry.retry_after(f"{address}/a:1") is None
    assert time.monotonic() - began < 2
