"""``docker login`` and ``logout``: the user's own ``~/.docker/config.json``, read and written by their client."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Generator
from typing import Any

from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, Tell, notice, out
from pbsdock.agent.shim.environment import read_file
from pbsdock.core.errors import Refusal
from pbsdock.core.redact import known
from pbsdock.directive.image_ref import BadImage, parse_image
from pbsdock.engine.base import EngineError
from pbsdock.policy.decide import effective, registry_matches
from pbsdock.protocol import wire
from pbsdock.shim.commands import Login, Logout
from pbsdock.shim.refusal import FAILED, ShimRefusal

_HUB = "https://index.docker.io/v1/"
_HUB_NAMES = ("", "docker.io", "index.docker.io", "registry-1.docker.io")
_MOST = 64 << 10


def login(at: Context, asked: Login) -> Steps:
    """Try it at the registry, then write it down. Raises ShimRefusal."""
    home = at.job.home
    _check_registry(at, asked.registry)
    user = asked.user
    if user is None:
        user = yield from _ask("Username: ")
    password = asked.password
    if password is None and asked.password_stdin:
        password = (yield from read_file("-", _MOST)).decode("utf-8", "surrogateescape").rstrip("\r\n")
    if password is None:
        password = yield from _ask("Password: ")
    if not user or not password:
        raise ShimRefusal("a login needs a user name and a password", FAILED)
    registry = "docker.io" if asked.registry in _HUB_NAMES else asked.registry
    packed = base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()
    owner = f"login:{secrets.token_hex(8)}"
    known.add(owner, password, packed)  # whatever the registry says: it is told to nobody
    try:
        at.node.engine.check_login(registry, {"username": user, "password": password})
    except EngineError as error:
        raise ShimRefusal(f"login at {registry} failed: {known.clean(str(error))[:300]}", FAILED) from None
    finally:
        known.forget(owner)
    config = yield from _read(home)
    config.setdefault("auths", {})[_key(registry)] = {"auth": packed}
    yield from _write(home, config)
    yield notice(f"WARNING! Your password is stored unencrypted in {_path(home)}.")
    yield out("Login Succeeded\n")
    return 0


def _check_registry(at: Context, name: str) -> None:
    """The engine asks it, from where no user can: only one from which images may come. Raises Refusal, ShimRefusal."""
    registry = _HUB_NAMES[1] if name in _HUB_NAMES else name
    try:
        reference = parse_image(f"{registry}/a/b:1")
    except BadImage:
        reference = None
    if reference is None or reference.registry != registry:
        raise ShimRefusal(f"{name[:80]!r} is not the name of a registry", FAILED)
    allowed = effective(at.node.config, at.job).images.allow
    if not any(registry_matches(registry, pattern) for pattern in allowed):
        raise Refusal(
            "registry-not-allowed",
            f"{registry} is no registry of this site's images; allowed are {', '.join(allowed) or 'none'}",
        )


def logout(at: Context, asked: Logout) -> Steps:
    """Take it out of the file."""
    home = at.job.home
    registry = "docker.io" if asked.registry in _HUB_NAMES else asked.registry
    config = yield from _read(home)
    auths = config.get("auths")
    if not isinstance(auths, dict) or auths.pop(_key(registry), None) is None:
        yield out(f"Not logged in to {registry}\n")
        return 0
    yield from _write(home, config)
    yield out(f"Removing login credentials for {registry}\n")
    return 0


def _key(registry: str) -> str:
    return _HUB if registry == "docker.io" else registry


def _path(home: str) -> str:
    return f"{home}/.docker/config.json"


def _ask(prompt: str) -> Generator[Tell, wire.Message | None, str]:
    answer = yield Tell(wire.Message("ask", prompt=prompt), is_answered=True)
    if answer is None or answer.op != "content":
        raise ShimRefusal("cannot ask for the login here; give --username and --password-stdin", FAILED)
    return answer.text("data").rstrip("\r\n")


def _read(home: str) -> Generator[Tell, wire.Message | None, dict[str, Any]]:
    """The file's content, {} where there is none. Raises ShimRefusal for one that is no such file."""
    answer = yield Tell(wire.Message("read", path=_path(home), most=_MOST), is_answered=True)
    if answer is None or answer.op != "content":
        return {}
    try:
        found = json.loads((answer.raw("data") or [b""])[0] or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ShimRefusal(f"{_path(home)} is not a configuration of docker's; nothing was changed", FAILED)
    return found


def _write(home: str, config: dict[str, Any]) -> Generator[Tell, wire.Message | None, None]:
    message = wire.Message("write", path=_path(home), mode="600", how="replace")
    message.fields["text"] = [json.dumps(config, indent="\t").encode()]
    answer = yield Tell(message, is_answered=True)
    if answer is None or answer.op != "done":
        why = answer.text("reason") if answer is not None else "no answer"
        raise ShimRefusal(f"{_path(home)} cannot be written: {why}", FAILED)
