"""Whose registry logins a job's image may be fetched with: the site's, and its owner's own ``~/.docker/config.json``.

The owner's file is read with the owner's rights when an image is not to be had without. What it names as a program is
never run. Every login that was read is kept out of events for as long as it is used.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pbsdock.config.tables import ImagesConfig
from pbsdock.core.errors import NodeFault
from pbsdock.core.plan import Plan
from pbsdock.core.redact import known
from pbsdock.engine import credentials
from pbsdock.engine.credentials import BadLogins, Login
from pbsdock.engine.images import Asker
from pbsdock.host import user_files
from pbsdock.host.mounts import User

_MOST_BYTES = 64 << 10


class _Logins:
    """The logins of one job, each looked up once."""

    def __init__(self, docker_config: str, settings: ImagesConfig, plan: Plan) -> None:
        self.docker_config = docker_config
        self.is_allowed = settings.user_logins
        self.path = f"{plan.home}/.docker/config.json"
        self.user = User.of(plan)
        self.owner = f"logins:{secrets.token_hex(8)}"
        self._hint: str | None = None
        self._own: Login = {}

    def site(self, registry: str) -> Login:
        """Raises NodeFault."""
        if not self.docker_config:
            return {}
        try:
            return self._secret(credentials.load_site(Path(self.docker_config)).of(registry))
        except BadLogins as error:
            raise NodeFault("registry-credentials", f"{self.docker_config}: {error}") from None

    def own(self, registry: str) -> Login:
        """Empty wherever the file cannot be used: the job may do without, and else is told why by ``hint``."""
        if self._hint is None:
            self._own, self._hint = self._read(registry) if self.is_allowed else ({}, "")
        return self._own

    def hint(self, registry: str) -> str:
        """A clause on why there is no login of the owner's own, "" if that was not looked for, or there is one."""
        self.own(registry)
        return self._hint or ""

    def _read(self, registry: str) -> tuple[Login, str]:
        try:
            data = user_files.read(self.path, self.user, _MOST_BYTES)
        except FileNotFoundError:
            return {}, f"there is no {self.path} with a login of yours (docker login)"
        except OSError as error:
            return {}, f"{self.path} cannot be read: {error.strerror or error}"
        try:
            login = credentials.parse(data, with_helpers=False).of(registry)
        except BadLogins as error:
            return {}, f"{self.path} cannot be used: {error}"
        if login:
            return self._secret(login), ""
        if program := credentials.static_helper(data, registry):
            shown = "".join(letter if letter.isprintable() else "?" for letter in program)[:80]
            return {}, (
                f"{self.path} leaves the login for {registry} to the program docker-credential-{shown}, which is not"
                " run; log in without credsStore and credHelpers"
            )
        return {}, f"{self.path} has no login for {registry}"

    def _secret(self, login: Login) -> Login:
        return _hidden(login, self.owner)


def _hidden(login: Login, owner: str) -> Login:
    """Keep it out of everything that is told, until *owner* is forgotten."""
    password = login.get("password", "")
    packed = base64.b64encode(f"{login.get('username', '')}:{password}".encode()).decode() if password else None
    known.add(owner, password, login.get("identitytoken"), packed)
    return login


@contextmanager
def asker(docker_config: str, settings: ImagesConfig, plan: Plan) -> Iterator[Asker]:
    """Whose right counts for the image of a job; *docker_config* is the site's file, empty for none."""
    logins = _Logins(docker_config, settings, plan)
    try:
        yield Asker(uid=plan.uid, site=logins.site, own=logins.own, hint=logins.hint)
    finally:
        known.forget(logins.owner)


@contextmanager
def site_asker(docker_config: str) -> Iterator[Asker]:
    """The same for an image that the site fetches for itself: its own logins alone."""
    owner = f"logins:{secrets.token_hex(8)}"

    def login(registry: str) -> Login:
        return _hidden(credentials.load_site(Path(docker_config)).of(registry), owner) if docker_config else {}

    try:
        yield Asker(site=login)
    except BadLogins as error:
        raise NodeFault("registry-credentials", f"{docker_config}: {error}") from None
    finally:
        known.forget(owner)
