"""A config.json as docker login writes it: whose login counts for which registry, and what is refused."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from pbsdock.core.errors import NodeFault
from pbsdock.engine import credentials
from pbsdock.engine.credentials import BadLogins, load_site, parse, static_helper

_HUB = "https://index.docker.io/v1/"


def _auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def _logins(with_helpers: bool = False, **parts: Any) -> credentials.Logins:
    return parse(json.dumps(parts).encode(), with_helpers=with_helpers)


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        (_HUB, "docker.io"),
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("reg.test:5000", "reg.test:5000"),
        ("https://reg.test/v2/", "reg.test"),
        ("reg.test/team/project", "reg.test"),
        ("http://localhost:5000", "localhost:5000"),
    ],
)
def test_keys_of_auths(key: str, registry: str) -> None:
    """Scheme and path are no part of a host; the login is for that host alone."""
    logins = _logins(auths={key: _auth("user:pass:word")})

    assert logins.of(registry) == {"username": "user", "password": "pass:word"}
    others = ("docker.io", "reg.test", "reg.test:5000", "reg.test.evil.test", "localhost:5000", "team", "evil.test")
    assert [one for one in others if one != registry and logins.of(one)] == []


def test_identity_token() -> None:
    """What docker login keeps where a registry gives a token: the engine gets that, and no empty user name."""
    logins = _logins(auths={"reg.test": {**_auth("00000000:x"), "identitytoken": "token-of-mine"}, "b.test": {}})

    assert logins.of("reg.test") == {"identitytoken": "token-of-mine"}
    assert logins.of("b.test") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "it is not JSON"),
        ("[" * 60000, "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ('{"auths": []}', None),
        ('{"auths": 3}', "auths: expected an object with registries"),
        ('{"auths": {"a\\nb.test": {"auth": "%%"}}}', "auths, 'a?b.test': expected an identitytoken, or auth with "),
        ('{"auths": {"a.test": "SECRET"}}', "auths, 'a.test': expected "),
        ('{"auths": {"a.test": {"auth": "U0VDUkVU"}}}', "auths, 'a.test': expected "),
        ('{"auths": {"a.test": {"identitytoken": ["SECRET"]}}}', "auths, 'a.test': expected "),
    ],
)
def test_what_is_no_config_json(text: str, says: str | None) -> None:
    """Told with the key, never with a value."""
    if says is None:
        assert parse(text.encode(), with_helpers=False).of("docker.io") == {}
        return
    with pytest.raises(BadLogins) as caught:
        parse(text.encode(), with_helpers=False)

    assert str(caught.value).startswith(says)
    assert "SECRET" not in str(caught.value)


def _program(directory: Path, name: str, body: str) -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    answer = '{\\"ServerURL\\":\\"$host\\",\\"Username\\":\\"me\\",\\"Secret\\":\\"of-$host\\"}'
    _program(tmp_path, "good", f'read -r host; echo "$host" >>{tmp_path}/asked; echo "{answer}"')
    _program(tmp_path, "token", 'echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"refresh\\"}"')
    _program(tmp_path, "empty", "echo 'credentials not found in native keychain'; exit 1")
    _program(tmp_path, "broken", "echo 'no session'; exit 2")
    _program(tmp_path, "hung", "sleep 60 & wait")
    _program(tmp_path, "odd", "echo '[]'")
    return tmp_path


def test_helper_programs_of_the_site(programs: Path) -> None:
    """Asked by Docker's own rules: of its registry, else the store, and what they do not have is in the file."""
    logins = _logins(
        True,
        credsStore="empty",
        credHelpers={"a.test": "good", "t.test": "token", _HUB: "good"},
        auths={"b.test": _auth("u:p")},
    )

    assert logins.of("a.test") == {"username": "me", "password": "of-a.test"}
    assert logins.of("t.test") == {"identitytoken": "refresh"}
    assert logins.of("b.test") == {"username": "u", "password": "p"}
    assert logins.of("c.test") == {}
    assert logins.of("docker.io")["password"] == f"of-{_HUB}"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken", 'Credentials store docker-credential-broken exited with "no session ".'),
        ("hung", "docker-credential-hung has not answered within 0 s"),
        ("odd", "TypeError"),
    ],
)
def test_helper_programs_that_fail(programs: Path, name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told, and within their time: a prologue waits for it."""
    monkeypatch.setattr(credentials, "_HELPER_S", 0.3)
    began = time.monotonic()
    with pytest.raises(BadLogins) as caught:
        _logins(True, credHelpers={"a.test": name}).of("a.test")

    assert str(caught.value) == f"the login for a.test cannot be had: {says}"
    assert time.monotonic() - began < 5


def test_a_users_helpers_are_not_run(programs: Path) -> None:
    """They would be root's to run; only named, so that the user can be told."""
    data = json.dumps({"credsStore": "good", "credHelpers": {"a.test": "token"}, "auths": {"a.test": {}}}).encode()

    assert parse(data, with_helpers=False).of("a.test") == {}
    assert not (programs / "asked").exists()
    assert static_helper(data, "a.test") == "token"
    assert static_helper(data, "b.test") == "good"


def test_the_sites_file(tmp_path: Path, programs: Path) -> None:
    """Refused with the reason, which `pbsdock config` shows, before the first job."""
    path = tmp_path / "config.json"
    wrong = {
        '{"credsStore": "absent"}': f"{path} names docker-credential-absent, which is not installed in {tmp_path}:",
        '{"credsStore": "../good"}': f"{path} cannot be used: credHelpers and credsStore: expected names of helper",
        '{"auths": {"a.test": {"auth": 3}}}': f"{path} cannot be used: auths, 'a.test': expected an identitytoken",
    }
    for text, says in wrong.items():
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(NodeFault) as caught:
            load_site(path)
        assert caught.value.code == "registry-credentials"
        assert str(caught.value).startswith(says)
