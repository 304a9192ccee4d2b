"""T28, T29: a registry of the attacker's, and the credentials of others that it would like to see."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import USERS, Instance
from tests.support.attack import is_healthy, works

pytestmark = pytest.mark.engine
_KIND = "application/vnd.docker.distribution.manifest.v2+json"
_ZERO = "sha256:" + "0" * 64


def _manifest(**changes: object) -> bytes:
    layer = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": 10, "digest": _ZERO}
    whole = {"schemaVersion": 2, "mediaType": _KIND, "config": {"size": 2, "digest": _ZERO}, "layers": [layer]}
    return json.dumps({**whole, **changes}).encode()


MANIFESTS = {
    "no JSON": b"\xff\xfe not JSON",
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "deep": b"[" * 20000,
    "unknown schema": _manifest(schemaVersion=9),
    "no layers": _manifest(layers=None),
    "a layer of 2^62 bytes": _manifest(layers=[{"size": 1 << 62, "digest": _ZERO}]),
    "a negative layer": _manifest(layers=[{"size": -5, "digest": _ZERO}]),
    "a digest that is a path": _manifest(config={"size": 2, "digest": "sha256:../../../../etc/passwd"}),
    "contents of another digest": _manifest(),
    "an index of itself": json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests": [
                {"mediaType": _KIND, "size": 9, "digest": _ZERO, "platform": {"architecture": "amd64", "os": "linux"}}
            ],
        }
    ).encode(),
    "control characters": b'\x1b[2J\n{"event":"forged"}\r\n',
    "ten megabytes": b" " * (10 << 20),
}


@contextmanager
def _registry(body: bytes, asked: list[tuple[str, str]]) -> Iterator[str]:
    """Answers every question with *body*, notes paths and Authorization headers; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization", "")))
            if self.path == "/v2/" and body == b"challenge":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="x"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", _KIND)
            self.send_header("Docker-Content-Digest", _ZERO)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass

        do_HEAD = do_GET

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_registry(instance: Instance, name: str) -> None:
    """The job ends with a printable sentence, the engine lives, the node stays in service."""
    with _registry(MANIFESTS[name], []) as address:
        done = instance.run(f"#!/bin/sh\n#DOCKER {address}/x/y:1\necho started\n")

    assert (done.exit_status, done.stdout) == (125, b"")
    said = done.stderr.decode()
    assert said.startswith("pbsdock: ")
    assert said.endswith("\n")
    assert "\x1b" not in said
    assert len(said) < 1000
    assert is_healthy(instance)
    assert instance.left() == []


def test_the_engine_outlives_them(instance: Instance) -> None:
    """A pull from such a registry has not taken the engine along (CVE-2021-21285)."""
    assert works(instance)


@pytest.mark.threat(29)
def test_credentials_stay_with_their_registry(instance: Instance, scratch: Path) -> None:
    """The site's password for one registry is not shown to another that asks for one."""
    auth = base64.b64encode(b"site:CANARYPASSWORD").decode()
    file = scratch / "registry.json"
    file.touch(mode=0o600)
    good = instance.config.read_text()
    asked: list[tuple[str, str]] = []
    with _registry(b"challenge", asked) as address, _registry(b"challenge", []) as trusted:
        file.write_text(json.dumps({"auths": {trusted: {"auth": auth}}}))
        instance.configure(f'[engine]\ndocker_config = "{file}"\n')
        try:
            done = instance.run(f"#!/bin/sh\n#DOCKER {address}/x/y:1\n")
        finally:
            instance.configure(good)

    assert done.exit_status == 125
    assert asked
    shown = "".join(base64.b64decode(one.split()[-1]).decode() for _, one in asked if one)
    assert "CANARY" not in shown
    assert "CANARY" not in done.stderr.decode() + instance.events_file.read_text()


@pytest.mark.threat(29)
def test_a_sites_file_that_cannot_be_used(instance: Instance, scratch: Path) -> None:
    """`pbsdock config` says why before the first job, without what is in it; a file in order passes."""
    file = scratch / "registry.json"
    file.touch(mode=0o600)
    good = instance.config.read_text()
    instance.configure(f'[engine]\ndocker_config = "{file}"\n')
    said = {}
    try:
        for text in (
            '{"auths": {"https://index.docker.io/v1/": {"auth": "dTpDQU5BUlk="}, "a.test/x": {"identitytoken": "t"}}}',
            '{"auths": {"a.test": {"auth": "CANARY"}}}',
            '{"credsStore": "none-such"}',
        ):
            file.write_text(text)
            done = instance.command("config")
            said[text] = (done.returncode, done.stderr)
    finally:
        instance.configure(good)
    fine, wrong, missing = said.values()

    assert fine == (0, "")
    assert wrong[0] == missing[0] == 2
    assert wrong[1] == (
        f"pbsdock.toml: engine.docker_config: {file} cannot be used: auths, 'a.test': expected an identitytoken, or auth"
        " with USER:PASSWORD in base64\n"
    )
    assert f"{file} names docker-credential-none-such, which is not installed in " in missing[1]


@pytest.mark.threat(29)
def test_what_a_user_keeps_is_not_evaluated(instance: Instance) -> None:
    """Root reads no ~/.netrc, and runs no credential helper that ~/.docker/config.json names."""
    home = Path(f"/home/{USERS[0]}")
    canary = home / "evaluated"
    asked: list[tuple[str, str]] = []
    with _registry(b"challenge", asked) as address:
        files = {
            ".netrc": f"machine 127.0.0.1 login $(touch {canary}) password USERSOWN\n",
            ".docker/config.json": json.dumps(
                {
                    "auths": {address: {}},
                    "credsStore": "evil",
                    "credHelpers": {address: "evil"},
                }
            ),
            "bin/docker-credential-evil": f"#!/bin/sh\ntouch {canary}\n",
        }
        for name, text in files.items():
            (home / name).parent.mkdir(exist_ok=True)
            (home / name).write_text(text)
            (home / name).chmod(0o755)
        try:
            done = instance.run(
                f"#!/bin/sh\n#DOCKER {address}/x/y:1\n",
                variables={
                    "PATH": f"{home}/bin:/usr/bin:/bin",
                    "DOCKER_CONFIG": f"{home}/.docker",
                    "NETRC": f"{home}/.netrc",
                },
            )
        finally:
            subprocess.run(["rm", "-rf", *(str(home / name) for name in (".netrc", ".docker", "bin"))], check=True)

    assert done.exit_status == 125
    assert asked
    assert b"to the program docker-credential-evil, which is not run" in done.stderr
    assert not canary.exists()
    assert not [one for _, one in asked if one and b"USERSOWN" in base64.b64decode(one.split()[-1])]
