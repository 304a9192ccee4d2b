"""Pulls in turn, and from mirrors, on the real engine: with real registries, slow ones, and some that lie."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from pbsdock.config.tables import RegistryConfig
from pbsdock.core.errors import HookError
from pbsdock.engine.docker.api import Engine
from pbsdock.engine.images import Asker, Images, PullSettings
from tests.conftest import IMAGE, Instance, wait_until
from tests.support.asking_registry import asking_registry
from tests.support.lying_registry import lying_registry
from tests.support.ports import free_port
from tests.support.registry import registry, silent_registry

pytestmark = pytest.mark.engine


class Node:
    """Images on the real engine, with what the site says of pulls and the events they cause."""

    def __init__(self, at_once: int = 0, registries: Mapping[str, RegistryConfig] | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        engine = Engine("/var/run/docker.sock", 20.0)
        settings = PullSettings(at_once=at_once, registries=registries or {})
        self.engine = engine
        self.images = Images(engine.client, engine.inspect_image, self._emit, settings=lambda: settings)

    def _emit(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def ensure(self, reference: str, **options: Any) -> Any:
        chosen = {"pull": "missing", "platform": None, "inactivity_s": 10.0, "total_s": 60.0, **options}
        return self.images.ensure(reference, **chosen)

    def told(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line["event"] == event]


class Asking:
    """A job that waits for an image in a thread of its own."""

    def __init__(self, node: Node, reference: str, **options: Any) -> None:
        self.answer: Any = None
        self.told: list[str] = []
        self.took = 0.0
        self._thread = threading.Thread(target=self._ask, args=(node, reference, options), daemon=True)
        self._thread.start()

    def _ask(self, node: Node, reference: str, options: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            self.answer = node.ensure(reference, progress=self.told.append, **options)
        except HookError as error:
            self.answer = error
        self.took = time.monotonic() - began

    def end(self) -> Any:
        self._thread.join(90)
        return self.answer


def _fails(act: Callable[[], object]) -> HookError:
    with pytest.raises(HookError) as caught:
        act()
    return caught.value


def _rmi(*names: str) -> None:
    for name in names:
        subprocess.run(["docker", "rmi", "-f", name], check=False, capture_output=True)


def _push(address: str, *names: str) -> None:
    for name in names:
        text = f"FROM {IMAGE}\nLABEL own={name}\n"
        subprocess.run(["docker", "build", "-q", "-t", f"{address}/{name}", "-"], input=text.encode(), check=True)
        subprocess.run(["docker", "push", "-q", f"{address}/{name}"], check=True, capture_output=True)
        _rmi(f"{address}/{name}")


@pytest.fixture(scope="module")
def origin(images: None) -> Iterator[str]:
    """A registry with ``team/tool:1`` and ``team/other:1``, which are not here."""
    with registry() as address:
        _push(address, "team/tool:1", "team/other:1")
        yield address
        _rmi(f"{address}/team/tool:1", f"{address}/team/other:1")


@pytest.fixture
def mirror(origin: str) -> Iterator[str]:
    """One that has the same ``team/tool:1`` below ``cache/``."""
    names = ["cache/team/tool:1"]
    with registry() as address:
        subprocess.run(["docker", "pull", "-q", f"{origin}/team/tool:1"], check=True, capture_output=True)
        for name in names:
            subprocess.run(["docker", "tag", f"{origin}/team/tool:1", f"{address}/{name}"], check=True)
            subprocess.run(["docker", "push", "-q", f"{address}/{name}"], check=True, capture_output=True)
            _rmi(f"{address}/{name}")
        _rmi(f"{origin}/team/tool:1")
        yield address
        listed = subprocess.run(["docker", "images", "--digests", "-q", "--no-trunc"], capture_output=True, text=True)
        for image in set(listed.stdout.split()):
            shown = subprocess.run(
                ["docker", "inspect", "-f", "{{.RepoDigests}}{{.RepoTags}}", image], capture_output=True, text=True
            )
            if address in shown.stdout or f"{origin}/team/tool" in shown.stdout:
                _rmi(image)


# -- in turn ----------------------------------------------------------------------------------------------------------


def test_others_wait_for_their_turn(origin: str) -> None:
    """Two slow pulls of a user's leave the third turn; with all turns taken a job waits, is told so, and then has it."""
    node = Node(at_once=2)
    with lying_registry("crawl") as slow, lying_registry("crawl") as other:
        # One that is not to have the last turn, and another user that takes it.
        first = Asking(node, f"{slow.address}/lie:1", total_s=6, inactivity_s=30, asker=Asker(uid=1))
        wait_until("it is pulled", lambda: bool(node.told("image.pulling")))
        second = Asking(node, f"{other.address}/lie:1", total_s=3, inactivity_s=30, asker=Asker(uid=1))
        wait_until("it waits", lambda: bool(node.told("image.queued")))
        assert node.images.turns.counts() == (1, 1)
        third = Asking(node, f"{origin}/team/tool:1", asker=Asker(uid=2))
        assert third.end().id
        refused = second.end()
        assert first.end().code == "pull-too-slow"

    assert third.took < 3
    assert refused.code == "pulls-busy"
    assert refused.sentence == (
        f"image '{other.address}/lie:1' could not be pulled in 3 s: others were pulled first, 2 at once"
        " (images.max_pulls); the job is queued again"
    )
    assert second.told == [f"waiting for image {other.address}/lie:1 to be pulled, after others"] * len(second.told)
    assert other.at == []  # it was never asked
    (queued,) = node.told("image.queued")
    assert (queued["why"], queued["ahead"]) == ("turn", 0)
    assert {line["code"] for line in node.told("image.failed")} == {"pulls-busy", "pull-too-slow"}
    wait_until("nothing is left of them", lambda: node.images.turns.counts() == (0, 0))
    _rmi(f"{origin}/team/tool:1")


def test_a_turn_comes_when_another_is_over(origin: str) -> None:
    """The time in line is told."""
    node = Node(at_once=1)
    with lying_registry("crawl") as slow:
        first = Asking(node, f"{slow.address}/lie:1", total_s=2, inactivity_s=30)
        wait_until("it is pulled", lambda: bool(node.told("image.pulling")))
        second = Asking(node, f"{origin}/team/tool:1")
        assert first.end().code == "pull-too-slow"
        assert second.end().id
    pulling = {line["image"]: line["waited_ms"] for line in node.told("image.pulling")}

    assert pulling[f"{slow.address}/lie:1"] < 200
    assert pulling[f"{origin}/team/tool:1"] > 1000
    _rmi(f"{origin}/team/tool:1")


def test_a_rate_of_a_registry(origin: str) -> None:
    """The second image of a minute is not asked for; a job that cannot wait so long is told why."""
    node = Node(registries={origin: RegistryConfig(max_per_minute=1)})
    assert node.ensure(f"{origin}/team/tool:1").id
    error = _fails(lambda: node.ensure(f"{origin}/team/other:1", total_s=1.0))

    assert error.code == "pulls-busy"
    assert f"no more pulls a minute at {origin} (registry.{origin}.max_per_minute)" in error.sentence
    _rmi(f"{origin}/team/tool:1")


def test_a_registry_that_is_busy_is_left_in_peace_by_all() -> None:
    """What it asks of one pull counts for the next, which is refused without a question to it where it cannot wait."""
    node = Node()
    with lying_registry("429", turned_away=1000, retry_after_s=600) as lie:
        assert _fails(lambda: node.ensure(f"{lie.address}/lie:1")).code == "registry-busy"
        asked = len(lie.at)
        error = _fails(lambda: node.ensure(f"{lie.address}/lie:2"))
        assert len(lie.at) == asked

    assert error.code == "registry-busy"
    assert "its registry has told this node to wait" in error.sentence


def test_jobs_wait_for_their_turn(instance: Instance, origin: str) -> None:
    """A real job behind an admin's slow pull is told what it waits for, and runs."""
    instance.configure("[images]\nmax_pulls = 1\nwait_notice_s = 0.5\n")
    instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
    with lying_registry("crawl") as slow:
        program = [str(instance.root / "opt/pbsdock/bin/pbsdock"), "images", "pull", f"{slow.address}/lie:1"]
        admin = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until("it is pulled", lambda: slow.sent > 0, 20)
        job = threading.Thread(
            target=lambda: done.append(instance.run(f"#!/bin/sh\n#DOCKER {origin}/team/tool:1\necho ran\n"))
        )
        done: list[Any] = []
        job.start()
        wait_until("it waits", lambda: any(line["event"] == "image.queued" for line in instance.events()), 20)
        time.sleep(1)
        admin.kill()
        admin.wait()
    job.join(60)
    (ran,) = done

    assert ran.stdout == b"ran\n"
    assert f"waiting for image {origin}/team/tool:1 to be pulled, after others".encode() in ran.stderr
    _rmi(f"{origin}/team/tool:1")


# -- mirrors ----------------------------------------------------------------------------------------------------------


def _mirrored(origin: str, *mirrors: str, tags: str = "origin") -> Node:
    return Node(registries={origin: RegistryConfig(mirrors=mirrors, tags=tags)})  # type: ignore[arg-type]


def test_a_mirror_gives_the_image_under_the_users_name(origin: str, mirror: str) -> None:
    """The same digest as the registry's own, the tag that the user wrote, and found again by tag and by digest."""
    node = _mirrored(origin, f"{mirror}/cache")
    name = f"{origin}/team/tool:1"
    image = node.ensure(name)
    (pulled,) = node.told("image.pulled")
    facts = node.engine.inspect_image(name)

    assert pulled["mirror"] == f"{mirror}/cache/team/tool"
    assert (pulled["image"], pulled["digest"]) == (name, image.digest)
    assert facts is not None
    assert facts.digests == (f"{mirror}/cache/team/tool@{image.digest}",)
    assert not node.ensure(name).is_fetched
    _rmi(name)
    assert not node.ensure(f"{origin}/team/tool@{image.digest}").is_fetched
    assert Node().ensure(f"{origin}/team/tool:1").digest == image.digest  # from the registry itself


def test_by_digest_the_registry_itself_is_not_asked(origin: str, mirror: str) -> None:
    """It may be out of reach."""
    digest = Node().ensure(f"{origin}/team/tool:1").digest
    _rmi(f"{origin}/team/tool:1")
    away = f"127.0.0.1:{free_port()}"
    node = _mirrored(away, f"{mirror}/cache")

    assert node.ensure(f"{away}/team/tool@{digest}").digest == digest
    # The digest of a tag is the registry's to say, unless the site has it otherwise.
    assert _fails(lambda: node.ensure(f"{away}/team/tool:1")).code == "registry-unreachable"
    trusting = _mirrored(away, f"{mirror}/cache", tags="mirror")
    assert trusting.ensure(f"{away}/team/tool:1").digest == digest
    _rmi(f"{away}/team/tool:1")


@pytest.mark.threat(28)
@pytest.mark.parametrize("way", ["digest", "stall", "429", "silent", "down", "lacking"])
def test_mirrors_that_do_not_do_their_part(origin: str, mirror: str, way: str) -> None:
    """One that lies, hangs, is busy, away or has another image: the next is asked, then the registry itself."""
    with ExitStack() as stack:
        bad = {
            "silent": lambda: stack.enter_context(silent_registry()),
            "down": lambda: f"127.0.0.1:{free_port()}",
            "lacking": lambda: f"{mirror}/nothing",
        }.get(way, lambda: stack.enter_context(lying_registry(way, turned_away=99, retry_after_s=9)).address)()
        for others in ((f"{mirror}/cache",), ()):
            node = _mirrored(origin, bad, *others)
            # A mirror that lies has an image of its own by that name; its word counts here.
            if way in ("digest", "stall"):
                node = _mirrored(origin, bad, *others, tags="mirror")
            began = time.monotonic()
            # The engine waits 15 s for a registry that says nothing, and cannot be told to wait less.
            image = node.ensure(f"{origin}/team/tool:1", inactivity_s=40.0 if way == "silent" else 6.0)
            took = time.monotonic() - began
            (failed,) = node.told("image.mirror_failed")
            (pulled,) = node.told("image.pulled")
            assert failed["mirror"] == bad
            assert pulled["mirror"] == (f"{mirror}/cache/team/tool" if others else None)
            assert took < 30
            _rmi(f"{origin}/team/tool:1", image.id)


@pytest.mark.threat(28)
def test_a_mirror_with_another_image_by_that_tag(origin: str, mirror: str) -> None:
    """The registry's digest is what is asked of a mirror, whatever the mirror calls so: it has none, or the same."""
    subprocess.run(["docker", "tag", IMAGE, f"{mirror}/evil/team/tool:1"], check=True)
    subprocess.run(["docker", "push", "-q", f"{mirror}/evil/team/tool:1"], check=True, capture_output=True)
    _rmi(f"{mirror}/evil/team/tool:1")
    node = _mirrored(origin, f"{mirror}/evil")
    image = node.ensure(f"{origin}/team/tool:1")

    assert image.id == Node().ensure(f"{origin}/team/tool:1", pull="always").id
    assert [line["mirror"] for line in node.told("image.mirror_failed")] == [f"{mirror}/evil"]
    assert node.told("image.pulled")[0]["mirror"] is None


@pytest.mark.threat(25)
def test_a_mirror_is_shown_no_login_but_its_own(origin: str) -> None:
    """Neither the registry's nor a user's, who is asked for at the registry alone."""
    logins = {origin: {"username": "site", "password": "for-the-origin"}}
    with asking_registry() as asking:
        node = _mirrored(origin, asking.address)
        own = {"username": "user", "password": "own"}
        asker = Asker(uid=1, site=lambda host: logins.get(host, {}), own=lambda _host: own)
        assert node.ensure(f"{origin}/team/tool:1", asker=asker).id
        assert asking.asked
        assert asking.shown() == []
        _rmi(f"{origin}/team/tool:1")

        logins[asking.address] = {"username": "site", "password": "for-the-mirror"}
        assert node.ensure(f"{origin}/team/tool:1", asker=asker).id
        assert set(asking.shown()) == {"site:for-the-mirror"}
    _rmi(f"{origin}/team/tool:1")


def test_jobs_by_a_mirror(instance: Instance, origin: str, mirror: str) -> None:
    """Policy judges the name that the user wrote; what a mirror gave is listed, and removed whole."""
    rule = f'[registry."{origin}"]\nmirrors = ["{mirror}/cache"]\n'
    instance.configure(f'[images]\nhigh_water = 100\nguard_free = 0\nallow = ["{origin}/team/*"]\n{rule}')
    done = instance.run(f"#!/bin/sh\n#DOCKER {origin}/team/tool:1\necho ran\n")
    denied = instance.run(f"#!/bin/sh\n#DOCKER {mirror}/cache/team/tool:1\necho ran\n")

    assert done.stdout == b"ran\n"
    assert f"image '{mirror}/cache/team/tool:1' is not allowed at this site".encode() in denied.stderr
    pulled = [line for line in instance.events() if line["event"] == "image.pulled"][-1]
    assert pulled["mirror"] == f"{mirror}/cache/team/tool"
    cache = instance.command("images", "--json").stdout
    assert f'"{origin}/team/tool:1"' in cache
    data = json.loads((instance.state_dir / "images.json").read_text())
    (use,) = [use for use in data["images"].values() if f"{origin}/team/tool:1" in use["names"]]
    assert use["names"] == [f"{origin}/team/tool:1", f"{mirror}/cache/team/tool@{pulled['digest']}"]
    instance.kill_agent()
    for use in data["images"].values():
        use["used_at"] = use["pulled_at"] = 1.0
    (instance.state_dir / "images.json").write_text(json.dumps(data))
    instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
    wait_until("the job is over", lambda: not instance.left())
    assert f"removed {origin}/team/tool:1" in instance.command("images", "prune").stdout
    assert Engine("/var/run/docker.sock", 20.0).inspect_image(pulled["image_id"]) is None
