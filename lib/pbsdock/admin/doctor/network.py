"""``pbsdock doctor registries``: whether those that the site names can be reached, and its logins are taken."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pbsdock.admin.doctor.subject import Subject
from pbsdock.admin.doctor.table import Row, ok, unknown, warn, wrong
from pbsdock.core.errors import HookError
from pbsdock.engine.base import EngineError
from pbsdock.engine.credentials import BadLogins, Login, Logins, load_site
from pbsdock.engine.registry import host_of

_ANSWER_S = 2.0
_MOST = 8


def examine(subject: Subject) -> Iterator[Row]:
    """Each that an allowed pattern names, or that the site has a login for."""
    config = subject.config
    logins: Logins | None = None
    if config.engine.docker_config:
        try:
            logins = load_site(Path(config.engine.docker_config))
        except HookError:
            logins = None  # told with the configuration
    names = named(config.images.allow, logins.registries() if logins is not None else ())
    if config.images.pull == "never":
        yield ok("registries", "use", "images.pull = never: none is asked")
        return
    with ThreadPoolExecutor(_MOST) as pool:
        yield from pool.map(lambda name: _judge(subject, name, logins), names[:_MOST])


def named(patterns: Sequence[str], with_login: Sequence[str]) -> list[str]:
    """Registries that can be asked for by name; Docker's own where the patterns name none. Pure."""
    heads = [pattern.partition("/")[0] for pattern in patterns if "/" in pattern]
    plain = [head for head in heads if not set("*?[") & set(head)]
    return list(dict.fromkeys([*plain, *with_login])) or ["docker.io"]


def _judge(subject: Subject, name: str, logins: Logins | None) -> Row:
    try:
        login = logins.of(name) if logins is not None else {}
    except BadLogins as error:
        return wrong("registries", name, str(error), "correct engine.docker_config, or its helper program")
    if login:
        return _logged_in(subject, name, login)
    if why := unreachable(name):
        return warn("registries", name, why, "images that are here run all the same; look at the network, or its proxy")
    return ok("registries", name, "it answers; the site has no login for it")


def _logged_in(subject: Subject, name: str, login: Login) -> Row:
    """By the engine, as in a pull."""
    try:
        subject.engine.check_login(name, login)
    except EngineError as error:
        said = " ".join(str(error).split())[:200]
        if error.status in (401, 403) or "unauthorized" in said or "denied" in said:
            return wrong("registries", name, f"the site's login is not taken: {said}", "log in anew (docker login)")
        return warn("registries", name, f"the login cannot be tried: {said}", "look at the network, or its proxy")
    except HookError as error:
        return unknown("registries", name, str(error))
    return ok("registries", name, "the site's login is taken")


def unreachable(name: str) -> str:
    """Why a registry does not answer, "" if it does: whatever it says, also that a login is wanted."""
    host, is_plain = host_of(name)
    kind = http.client.HTTPConnection if is_plain else http.client.HTTPSConnection
    connection = kind(host, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/v2/", headers={"User-Agent": "pbsdock"})
        connection.getresponse()
    except ssl.SSLCertVerificationError:
        return ""  # the engine has certificates of its own
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"it does not answer from this node: {error}"
    finally:
        connection.close()
    return ""
