"""Registry logins, as ``docker login`` keeps them, looked up by the docker library's own rules.

A key of ``auths`` may have a scheme and a path (``https://index.docker.io/v1/``); it counts for its whole host, and for
no other. ``credHelpers`` and ``credsStore`` name programs: those of the site's file are run, a user's never.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.auth import AuthConfig, resolve_index_name
from docker.credentials import Store
from docker.credentials.errors import StoreError, process_store_error
from docker.errors import DockerException

from pbsdock.config.tables import is_root_only
from pbsdock.core.errors import NodeFault

Login = Mapping[str, str]  # what the engine's X-Registry-Auth holds for one registry; empty: none
# An empty auth_config would let the SDK look for root's own ~/.docker/config.json.
ANONYMOUS: Login = {"username": "", "password": ""}
_HELPER_S = 10.0


class BadLogins(ValueError):
    """A config.json that cannot be used, or a helper program that failed; ``str()`` says why, without any secret."""


class _Helper(Store):
    """``docker-credential-NAME`` with a deadline: the library's own waits for ever, and a prologue would with it."""

    def _execute(self, subcmd: str, data_input: bytes | None) -> bytes:
        if self.exe is None:
            raise StoreError(f"{self.program} is not installed in {os.environ.get('PATH', '')}")
        command = [self.exe, subcmd]
        try:
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            ) as process:
                try:
                    output, _ = process.communicate(data_input, _HELPER_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    raise StoreError(f"{self.program} has not answered within {_HELPER_S:.0f} s") from None
        except OSError as error:
            raise StoreError(f"{self.program} cannot be run: {error.strerror}") from None
        if process.returncode:
            failed = subprocess.CalledProcessError(process.returncode, command, output)
            raise process_store_error(failed, self.program)
        return output


@dataclass(frozen=True, slots=True)
class Logins:
    """The logins of one config.json."""

    _config: Any

    def of(self, registry: str) -> Login:
        """The login for a registry by its host and port, ``docker.io`` for Docker Hub; empty if there is none.

        Raises BadLogins for a helper program that fails.
        """
        try:
            found = self._config.resolve_authconfig(registry) or {}
        except (DockerException, KeyError, TypeError, ValueError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, StoreError) else type(error).__name__
            raise BadLogins(f"the login for {registry} cannot be had: {' '.join(str(cause).split())[:200]}") from None
        # The library spells the keys of a helper's answer otherwise than those of the file's.
        plain = {str(key).lower(): value for key, value in found.items()}
        kept = ("identitytoken",) if plain.get("identitytoken") else ("username", "password")
        return {key: str(plain[key]) for key in kept if plain.get(key)}

    def registries(self) -> tuple[str, ...]:
        """Those that the file itself names, by host and port."""
        named = (*self._config.auths, *self._config.cred_helpers)
        return tuple(dict.fromkeys("docker.io" if "docker.io" in name else _host(name) for name in named))

    def missing_helper(self) -> str:
        """The first helper program that is not installed, "" if there is none."""
        programs = (store.program for store in self._config._stores.values() if store.exe is None)
        return next(programs, "")


def _host(name: str) -> str:
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]


def parse(data: bytes, *, with_helpers: bool) -> Logins:
    """Parse a config.json; without *with_helpers* only what the file itself holds counts. Raises BadLogins."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise BadLogins("it is not JSON") from None
    if not isinstance(found, dict):
        raise BadLogins("it is not a JSON object")
    config: Any = AuthConfig({"auths": _auths(_table(found, "auths"))})
    if with_helpers:
        helpers = _table(found, "credHelpers")
        store = found.get("credsStore") or ""
        for name in (*helpers.values(), *([store] if store else [])):
            if not isinstance(name, str) or not name or "/" in name:
                raise BadLogins("credHelpers and credsStore: expected names of helper programs")
            with warnings.catch_warnings(action="ignore"):
                config._stores[name] = _Helper(name)
        config.update({"credHelpers": helpers, "credsStore": store})
    return Logins(config)


def _table(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = found.get(key) or {}
    if not isinstance(value, dict):
        raise BadLogins(f"{key}: expected an object with registries")
    return value


def _auths(entries: Mapping[str, Any]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for key, entry in entries.items():
        try:
            made = AuthConfig.parse_auth({key: entry}, raise_on_error=True)[key]
            fine = all(isinstance(text, str) for text in made.values() if text is not None)
        except (DockerException, KeyError, TypeError, ValueError, AttributeError):
            fine = False
        if not fine:
            shown = "".join(letter if letter.isprintable() else "?" for letter in key)[:80]
            raise BadLogins(f"auths, {shown!r}: expected an identitytoken, or auth with USER:PASSWORD in base64")
        parsed[key] = made
    return parsed


def static_helper(data: bytes, registry: str) -> str:
    """The helper program a config.json names for a registry, "" for none: why a user's login is not found there."""
    try:
        found = json.loads(data)
        helpers = {resolve_index_name(str(key)): str(name) for key, name in _table(found, "credHelpers").items()}
        return helpers.get(registry) or str(found.get("credsStore") or "")
    except (AttributeError, ValueError, RecursionError):
        return ""


def load_site(path: Path) -> Logins:
    """The site's logins, from a config.json that only root can read. Raises NodeFault."""
    try:
        if not is_root_only(path):
            raise NodeFault("registry-credentials", f"{path} can be read by others than root; use chmod 600")
        logins = parse(path.read_bytes(), with_helpers=True)
    except OSError as error:
        raise NodeFault("registry-credentials", f"{path} cannot be read: {error.strerror}") from None
    except BadLogins as error:
        raise NodeFault("registry-credentials", f"{path} cannot be used: {error}") from None
    if program := logins.missing_helper():
        searched = os.environ.get("PATH", "")
        raise NodeFault("registry-credentials", f"{path} names {program}, which is not installed in {searched}")
    return logins
