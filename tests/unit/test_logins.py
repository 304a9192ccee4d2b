"""A user's own config.json, read by root with the user's rights and no more."""

from __future__ import annotations

import base64
import json
import os
import pwd
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.agent import logins
from pbsdock.config.tables import ImagesConfig
from pbsdock.core.redact import known
from tests.unit.test_policy import _plan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="reads as another user")
_AUTH = base64.b64encode(b"me:CANARY-password").decode()
_TEXT = json.dumps({"auths": {"reg.test": {"auth": _AUTH}}})
_NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory of nobody's, on a path that everybody may take."""
    for one in (tmp_path, *tmp_path.parents):
        if one != Path("/tmp") and str(one).startswith("/tmp/"):
            one.chmod(0o755)
    directory = tmp_path / "home"
    (directory / ".docker").mkdir(parents=True)
    for one in (directory, directory / ".docker"):
        os.chown(one, _NOBODY.pw_uid, _NOBODY.pw_gid)
    return directory


def _asked(home: Path, *, allowed: bool = True) -> tuple[dict[str, str], str, str]:
    """The login, the hint, and what is left of the login in a text that is written while it is used."""
    plan = replace(_plan("alpine:3"), uid=_NOBODY.pw_uid, gid=_NOBODY.pw_gid, groups=(), home=str(home))
    with logins.asker("", ImagesConfig(user_logins=allowed), plan) as asker:
        found = dict(asker.own("reg.test"))
        return found, asker.hint("reg.test"), known.clean(f"CANARY-password {_AUTH}")


def _file(home: Path, text: str = _TEXT) -> Path:
    path = home / ".docker/config.json"
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, _NOBODY.pw_uid, _NOBODY.pw_gid)
    return path


def test_a_login_of_the_users(home: Path) -> None:
    """Read, and cut out of every text for as long as it is used."""
    _file(home)

    assert _asked(home) == ({"username": "me", "password": "CANARY-password"}, "", "[redacted] [redacted]")
    assert known.clean("CANARY-password") == "CANARY-password"


def test_a_link_the_user_may_follow(home: Path) -> None:
    """~/.docker on another file system is not unusual."""
    _file(home)
    (home / ".docker").rename(home / "elsewhere")
    (home / ".docker").symlink_to("elsewhere")

    assert _asked(home)[0]["username"] == "me"


def test_a_site_that_does_not_want_it(home: Path) -> None:
    """The file is not even looked at."""
    _file(home)

    assert _asked(home, allowed=False)[:2] == ({}, "")


def _roots(path: Path) -> None:
    secret = path.parents[2] / "roots.json"
    secret.write_text(_TEXT)
    secret.chmod(0o600)
    path.symlink_to(secret)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_roots, "cannot be read: Permission denied"),
        (lambda path: path.symlink_to("/proc/self/environ"), "cannot be read: Permission denied"),
        (lambda path: path.symlink_to("/dev/zero"), "cannot be read: it is not a plain file"),
        (lambda path: path.symlink_to(path), "cannot be read: "),
        (lambda path: os.mkfifo(path, 0o644), "cannot be read: it is not a plain file"),
        (lambda path: path.mkdir(), "cannot be read: it is not a plain file"),
        (lambda path: path.write_bytes(b" " * 65537), "cannot be read: it has more than 65536 bytes"),
        (lambda path: path.write_text("[" * 60000), "cannot be used: it is not JSON"),
        (lambda path: path.write_text('{"auths": {"x": {"auth": "CANARY"}}}'), "cannot be used: auths, 'x': expected"),
        (lambda path: path.write_text('{"credsStore": "x"}'), "to the program docker-credential-x, which is not run"),
        (lambda path: path.write_text("{}"), "has no login for reg.test"),
        (lambda path: None, "there is no "),
    ],
)
def test_what_is_not_used(home: Path, make: Callable[[Path], object], says: str) -> None:
    """Told to the user in a clause, without anything of what is in the file."""
    make(home / ".docker/config.json")
    before = os.listdir("/proc/self/fd")
    found, hint, _ = _asked(home)

    assert found == {}
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert says in hint
    assert "CANARY" not in hint
