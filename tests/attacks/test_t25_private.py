"""T25, T29: a private image is for those whom its registry gives it, and a user's login for its own registry alone."""

from __future__ import annotations

import base64
import json
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.asking_registry import asking_registry
from tests.support.attack import is_healthy
from tests.support.registry import htpasswd, registry

pytestmark = pytest.mark.engine
_PASSWORD = "CANARY-of-the-owner"
_OWNER, _OTHER = USERS[0], USERS[1]


def _auth(password: str = _PASSWORD) -> dict[str, str]:
    return {"auth": base64.b64encode(f"owner:{password}".encode()).decode()}


@contextmanager
def logged_in(user: str, text: str) -> Iterator[Path]:
    """*text* as the user's ~/.docker/config.json."""
    entry = pwd.getpwnam(user)
    directory = Path(entry.pw_dir) / ".docker"
    subprocess.run(["rm", "-rf", str(directory)], check=True)  # another test, or run, may have logged in
    directory.mkdir()
    path = directory / "config.json"
    path.write_text(text)
    path.chmod(0o600)
    for one in (directory, path):
        os.chown(one, entry.pw_uid, entry.pw_gid)
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", str(directory)], check=True)


@pytest.fixture(scope="module")
def closed(images: None) -> Iterator[str]:
    """A registry that gives its one image to its owner alone; yields the image's name."""
    with registry(htpasswd("owner", _PASSWORD)) as address:
        name = f"{address}/team/secret"
        client = docker.APIClient(version="auto")
        client.tag(IMAGE, name, "1")
        login = {"username": "owner", "password": _PASSWORD}
        for line in client.push(name, tag="1", auth_config=login, stream=True, decode=True):
            assert "error" not in line, line
        subprocess.run(["docker", "rmi", f"{name}:1"], check=True, capture_output=True)
        yield f"{name}:1"
        subprocess.run(["docker", "rmi", "-f", f"{name}:1"], check=False, capture_output=True)


@pytest.fixture
def cached(instance: Instance, closed: str) -> str:
    """The image is on the node, by its owner's login."""
    address = closed.split("/")[0]
    with logged_in(_OWNER, json.dumps({"auths": {f"http://{address}/v1/": _auth()}})):
        done = instance.run(f"#!/bin/sh\n#DOCKER {closed}\necho ran\n", user=_OWNER)
        assert (done.stdout, done.stderr) == (b"ran\n", b"")
    return closed


def _denied(instance: Instance, name: str, user: str) -> str:
    done = instance.run(f"#!/bin/sh\n#DOCKER {name}\necho started\n", user=user)
    assert (done.exit_status, done.stdout) == (125, b"")
    assert is_healthy(instance)
    return done.stderr.decode()


def test_nobody_else_has_it_from_the_cache(instance: Instance, cached: str) -> None:
    """Without a login, with one that is wrong, by its tag or its digest: and no login is to be seen anywhere."""
    address = cached.split("/")[0]
    found = docker.APIClient(version="auto").inspect_image(cached)
    by_digest = next(one for one in found["RepoDigests"] if one.startswith(address))
    for name in (cached, by_digest):
        said = _denied(instance, name, _OTHER)
        assert "is private and its registry denies access; there is no " in said
        with logged_in(_OTHER, json.dumps({"auths": {address: _auth("guessed")}})):
            assert "is private and its registry denies access" in _denied(instance, name, _OTHER)
    # The owner's right ends with the owner's login.
    said = _denied(instance, f"--pull always {cached}", _OWNER)

    assert "cannot be pulled: its registry denies access; there is no " in said
    packed = _auth()["auth"]
    kept = [one.read_bytes() for one in (*instance.state_dir.rglob("*"), instance.events_file) if one.is_file()]
    shown = b"".join(kept) + json.dumps(found).encode()
    assert _PASSWORD.encode() not in shown
    assert packed.encode() not in shown


def test_whoever_may_pull_it_may_use_it(instance: Instance, cached: str) -> None:
    """Another user with a login of their own gets it from the cache."""
    with logged_in(_OTHER, json.dumps({"auths": {cached.split("/")[0]: _auth()}})):
        done = instance.run(f"#!/bin/sh\n#DOCKER {cached}\necho ran\n", user=_OTHER)
    trail = {one["event"]: one for one in instance.events() if one.get("image") == cached}

    assert done.stdout == b"ran\n", done.stderr
    assert trail["image.present"]["private"] is True


def test_an_agent_started_anew_knows_it(instance: Instance, cached: str) -> None:
    """What is private is written down."""
    instance.configure(instance.config.read_text())  # ends the agent once nothing is being released

    assert "is private and its registry denies access" in _denied(instance, cached, _OTHER)


def test_a_site_that_does_not_want_it(instance: Instance, closed: str) -> None:
    """With user_logins off, nobody's file is read: a private image is not to be had, from the cache neither."""
    subprocess.run(["docker", "rmi", "-f", closed], check=False, capture_output=True)
    good = instance.config.read_text()
    instance.configure("[images]\nuser_logins = false\n")
    try:
        with logged_in(_OWNER, json.dumps({"auths": {closed.split("/")[0]: _auth()}})):
            said = _denied(instance, closed, _OWNER)
    finally:
        instance.configure(good)

    assert said.endswith("cannot be pulled: its registry denies access\n")


@pytest.mark.threat(29)
def test_files_a_user_may_not_read(instance: Instance, closed: str, scratch: Path) -> None:
    """The file is opened with the user's rights: a link to root's own login does not lend it to the user."""
    address = closed.split("/")[0]
    roots = scratch / "roots.json"
    roots.touch(mode=0o600)
    roots.write_text(json.dumps({"auths": {address: _auth()}}))
    subprocess.run(["docker", "rmi", "-f", closed], check=False, capture_output=True)
    with logged_in(_OTHER, "{}") as path:
        for make, says in (
            (lambda: path.symlink_to(roots), "cannot be read: Permission denied"),
            (lambda: path.symlink_to("/proc/self/environ"), "cannot be read: "),
            (lambda: path.symlink_to("/dev/zero"), "cannot be read: it is not a plain file"),
            (lambda: os.mkfifo(path, 0o666), "cannot be read: it is not a plain file"),
            (lambda: path.write_bytes(b" " * 65537), "cannot be read: it has more than 65536 bytes"),
            (lambda: path.write_text("[" * 60000), "cannot be used: it is not JSON"),
            (lambda: path.write_text('{"auths": {"x": {"auth": "CANARY"}}}'), "cannot be used: auths, 'x': expected"),
        ):
            path.unlink()
            make()
            said = _denied(instance, closed, _OTHER)
            assert says in said
            assert "CANARY" not in said


@pytest.mark.threat(29)
def test_a_login_is_shown_to_its_own_registry_alone(instance: Instance, closed: str) -> None:
    """Not to another that asks for one, nor to where the right one sends the engine on."""
    with asking_registry() as other, asking_registry(sends_to=other.address) as right:
        logins = {right.address: _auth(), closed.split("/")[0]: _auth()}
        with logged_in(_OWNER, json.dumps({"auths": logins})):
            _denied(instance, f"{other.address}/x/y:1", _OWNER)
            assert other.asked
            assert other.shown() == []
            _denied(instance, f"{right.address}/x/y:1", _OWNER)

    assert f"owner:{_PASSWORD}" in right.shown()
    assert other.asked_for("/v2/moved/")
    assert other.shown() == []


def test_the_engine_is_left_as_it_was(instance: Instance) -> None:
    """Nothing of these jobs stays."""
    wait_until("nothing is left", lambda: instance.left() == [], 20)
