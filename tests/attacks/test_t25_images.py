"""T25, T26: which image runs is the site's to say, by name and by content, and it is the one that was checked."""

from __future__ import annotations

import subprocess
import time

import pytest

from pbsdock.trial import Trial
from tests.conftest import HOST_IMAGE, IMAGE, USERS, Instance
from tests.support.attack import Entry, image, is_healthy

pytestmark = pytest.mark.engine


@pytest.fixture
def strict(instance: Instance) -> Instance:
    """A site that allows two namespaces, forbids one image of them, and never pulls."""
    own = IMAGE.split("/")[0]
    instance.configure(
        f'[images]\nallow = ["docker.io/{own}/*", "registry.example.org/team/*"]\ndeny = ["docker.io/{own}/host*"]\npull = "never"\n'
    )
    return instance


@pytest.mark.parametrize(
    "name",
    [
        "OWNx/busybox:1",
        "xOWN/busybox:1",
        "evil.test/OWN/busybox:1",
        "docker.io.evil.test/OWN/busybox:1",
        "OWN/sub/../../x",
        "registry.example.org.evil.test/team/x",
        "registry.example.org:5000/team/x",
        "registry.example.org/teams/x",
        "evil.test/registry.example.org/team/x",
        "OWN/host:1",
        "OWN/host",
        "docker.io/OWN/hostile",
        "library/OWN",
        "OWN",
        "localhost/OWN/busybox:1",
    ],
)
def test_names_that_look_allowed(strict: Instance, name: str) -> None:
    """Typosquats, other registries and denied names are refused although some are on the node already."""
    done = strict.run(f"#!/bin/sh\n#DOCKER {name.replace('OWN', IMAGE.split('/')[0])}\necho started\n")

    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"pbsdock: STDIN:2:9: ")


def test_the_allowed_one_runs(strict: Instance) -> None:
    """And no directive can have it pulled."""
    assert strict.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ran\n").stdout == b"ran\n"
    assert b"this site runs only images" in strict.run(f"#!/bin/sh\n#DOCKER --pull always {IMAGE}\n").stderr


def test_a_site_that_wants_digests(instance: Instance) -> None:
    """A tag is a word that moves: where the site wants a digest, nothing else will do."""
    good = instance.config.read_text()
    instance.configure("[images]\nrequire_digest = true\n")
    try:
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho started\n")
    finally:
        instance.configure(good)
    assert (done.exit_status, done.stdout) == (125, b"")
    assert b"names no digest" in done.stderr


def _prepared(instance: Instance, options: str) -> Trial:
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {options}\ncat /which\n"))
    trial.prepare_files()
    assert trial.prologue() == 0
    return trial


@pytest.mark.threat(26)
def test_a_tag_that_moves_between_check_and_start(instance: Instance) -> None:
    """The container is made of the image that was checked, by its id."""
    with (
        image("moves", [Entry("which", b"the checked one\n")]) as name,
        image("evil", [Entry("which", b"another\n")]) as evil,
    ):
        trial = _prepared(instance, name)
        subprocess.run(["docker", "tag", evil, name], check=True)
        trial.start()
        done = trial.finish(trial.wait())

    assert done.stdout == b"the checked one\n", done.stderr


@pytest.mark.threat(26)
def test_an_image_that_is_gone_at_the_start(instance: Instance) -> None:
    """Nothing of the same name is taken in its place: either the container stood ready before, or it is told."""
    with image("goes", [Entry("which", b"the checked one\n")]) as name:
        trial = _prepared(instance, name)
        subprocess.run(["docker", "rmi", "-f", name], check=False, capture_output=True)
        subprocess.run(["docker", "tag", HOST_IMAGE, name], check=True)
        trial.start()
        done = trial.finish(trial.wait())

    is_told = done.exit_status == 125 and b"was removed from" in done.stderr and not done.stdout
    assert is_told or (done.exit_status, done.stdout) == (0, b"the checked one\n"), done
    assert is_healthy(instance)


@pytest.mark.threat(26)
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.5])
def test_a_mount_that_is_exchanged_between_check_and_start(instance: Instance, pause: float) -> None:
    """Another directory of the same name is not what was looked at: the job has that one, or is refused."""
    user = USERS[0]
    home = f"/home/{user}"
    subprocess.run(["sh", "-c", f"mkdir -p {home}/swap; touch {home}/swap/mine"], user=user, check=True)
    try:
        trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER -v $HOME/swap:/x {IMAGE}\nls /x\n"))
        trial.prepare_files()
        assert trial.prologue() == 0
        time.sleep(pause)
        subprocess.run(["sh", "-c", f"mv {home}/swap {home}/gone; ln -s /etc {home}/swap"], user=user, check=True)
        trial.start()
        done = trial.finish(trial.wait())
    finally:
        subprocess.run(["rm", "-rf", f"{home}/swap", f"{home}/gone"], check=True)

    told = f"pbsdock: {home}/swap was exchanged after it had been checked; nothing was started\n".encode()
    assert (done.exit_status, done.stdout, done.stderr) in ((0, b"mine\n", b""), (125, b"", told))
