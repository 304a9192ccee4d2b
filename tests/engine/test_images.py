"""Images from a real registry: one pull for many, and errors told apart by who can mend them."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.engine.credentials import load_site
from pbsdock.engine.docker.api import Engine
from pbsdock.engine.images import Images
from pbsdock.engine.pull_errors import classify
from tests.conftest import IMAGE, Instance
from tests.support.ports import free_port
from tests.support.registry import registry, silent_registry

pytestmark = pytest.mark.engine

# tester:secret-pass, bcrypt
HTPASSWD = "tester:$2y$05$yJMtFDmXkC8Yu0m5Wj0lNeWQpZ4sYxXvQ7DbT0r3n0f1r9l1y3Z6W"


class Collected:
    """Images on the real engine with the events it emits."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        engine = Engine("/var/run/docker.sock", 20.0)
        self.images = Images(
            engine.client, engine.inspect_image, lambda name, **fields: self.events.append((name, fields))
        )

    def ensure(self, reference: str, **options: Any) -> Any:
        chosen = {"pull": "missing", "platform": None, "inactivity_s": 5.0, "total_s": 20.0, **options}
        return self.images.ensure(reference, **chosen)

    def names(self) -> list[str]:
        return [name for name, _ in self.events if name != "image.progress"]


@pytest.fixture
def images_on_engine(images: None) -> Collected:
    return Collected()


@pytest.fixture(scope="module")
def site(images: None) -> Iterator[str]:
    """A registry that has one image; yields its address."""
    with registry() as address:
        name = f"{address}/team/tool:1"
        subprocess.run(["docker", "tag", IMAGE, name], check=True)
        subprocess.run(["docker", "push", name], check=True, capture_output=True)
        subprocess.run(["docker", "rmi", name], check=True, capture_output=True)
        yield address
        subprocess.run(["docker", "rmi", "-f", name], check=False, capture_output=True)


def _fails(act: Callable[[], object]) -> HookError:
    with pytest.raises(HookError) as caught:
        act()
    return caught.value


def test_one_pull_for_many(images_on_engine: Collected, site: str) -> None:
    """Eight jobs that want one absent image cause one pull and get the same id and digest."""
    name = f"{site}/team/tool:1"
    subprocess.run(["docker", "rmi", "-f", name], check=False, capture_output=True)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(images_on_engine.ensure(name))) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)

    assert len(found) == 8
    assert len({one.id for one in found}) == 1
    assert all(one.digest.startswith("sha256:") for one in found)
    assert images_on_engine.names().count("image.pulling") == 1
    assert images_on_engine.names().count("image.pulled") == 1


def test_by_digest_and_when_present(images_on_engine: Collected, site: str) -> None:
    """A digest resolves to the same image; a present image needs no registry."""
    image = images_on_engine.ensure(f"{site}/team/tool:1")
    again = images_on_engine.ensure(f"{site}/team/tool@{image.digest}")

    assert again.id == image.id
    assert images_on_engine.ensure(f"{site}/team/tool:1", pull="always").id == image.id


def test_errors_of_a_real_registry(images_on_engine: Collected, site: str) -> None:
    """No such image, no such tag, no such digest: the user's; each by its own code."""
    codes = {
        reference: _fails(lambda reference=reference: images_on_engine.ensure(f"{site}/{reference}")).code
        for reference in ("team/none:1", "team/tool:2", "team/tool@sha256:" + "0" * 64)
    }

    assert codes == {
        "team/none:1": "image-tag-not-found",  # a registry answers the same for both
        "team/tool:2": "image-tag-not-found",
        "team/tool@sha256:" + "0" * 64: "image-tag-not-found",
    }


def test_registry_that_is_down(images_on_engine: Collected) -> None:
    """Nobody listens: told to the user, whose image it is; jobs with other images run on."""
    error = _fails(lambda: images_on_engine.ensure(f"127.0.0.1:{free_port()}/a/b:1"))

    assert (type(error), error.code) == (Refusal, "registry-unreachable")


def test_always_means_always(images_on_engine: Collected, site: str) -> None:
    """--pull always with a dead registry is an error although the image is here."""
    port = free_port()
    name = f"127.0.0.1:{port}/team/tool:1"
    subprocess.run(["docker", "tag", IMAGE, name], check=True)
    try:
        assert images_on_engine.ensure(name).id
        assert _fails(lambda: images_on_engine.ensure(name, pull="always")).code == "registry-unreachable"
    finally:
        subprocess.run(["docker", "rmi", name], check=True, capture_output=True)


def test_registry_that_never_answers(images_on_engine: Collected) -> None:
    """Silence ends at the inactivity deadline, and the user is told once that the job waits."""
    told: list[str] = []
    with silent_registry() as address:
        error = _fails(lambda: images_on_engine.ensure(f"{address}/a/b:1", inactivity_s=1.5, progress=told.append))

    assert error.code in ("pull-too-slow", "registry-unreachable")
    assert told[0] == f"waiting for image {address}/a/b:1 to be pulled"


def test_access_denied(images_on_engine: Collected) -> None:
    """A registry that wants a password: denied without one."""
    with registry(HTPASSWD) as address:
        error = _fails(lambda: images_on_engine.ensure(f"{address}/a/b:1"))

    assert (type(error), error.code) == (Refusal, "image-access-denied")


@pytest.mark.threat(29)
def test_credentials_file(tmp_path: Path) -> None:
    """Only a root-only docker config.json is taken; a password never shows in an error."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"reg:5000": {"auth": base64.b64encode(b"user:pass:word").decode()}}}))
    path.chmod(0o600)
    assert load_site(path).of("reg:5000") == {"username": "user", "password": "pass:word"}
    path.chmod(0o640)

    assert str(_fails(lambda: load_site(path))) == f"{path} can be read by others than root; use chmod 600"


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("write /var/lib/docker/tmp/x: no space left on device", "disk-full", NodeFault),
        ("no matching manifest for linux/amd64 in the manifest list entries", "image-wrong-architecture", Refusal),
        ("unauthorized: authentication required", "image-access-denied", Refusal),
        ("something nobody has seen", "pull-failed", Refusal),
    ],
)
def test_words_of_the_engine_fake_errors(text: str, code: str, kind: type[HookError]) -> None:
    """What cannot be provoked here is told by the engine's words."""
    error = classify("a/b:1", text)

    assert (type(error), error.code) == (kind, code)


def test_a_job_pulls(instance: Instance, site: str) -> None:
    """From the directive to the container: the image is fetched in the prologue and its digest is on record."""
    subprocess.run(["docker", "rmi", "-f", f"{site}/team/tool:1"], check=False, capture_output=True)
    done = instance.run(f"#!/bin/sh\n#DOCKER {site}/team/tool:1\necho $FROM_IMAGE\n")
    events = {one["event"]: one for one in instance.trail(done.job_id)}

    assert done.stdout == b"yes\n"
    assert events["job.finished"]["image_digest"].startswith("sha256:")


def test_a_registry_down_is_the_jobs_end_alone(instance: Instance) -> None:
    """The job's owner is told, and the node stays in service: any user can name a registry that does not answer."""
    address = f"127.0.0.1:{free_port()}"
    done = instance.run(f"#!/bin/sh\n#DOCKER {address}/a/b:1\ntrue\n")

    assert (done.exit_status, done.node_down) == (125, None)
    assert done.stderr.decode().startswith(
        f"pbsdock: the registry of image '{address}/a/b:1' cannot be reached; nothing was started: "
    )
    assert instance.left() == []
