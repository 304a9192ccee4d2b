"""What a registry says of an image before it is pulled: the sum of its layers (OCI image manifest), and its digest.

Asked directly, since an engine hands on no manifest; by the rules of the distribution specification and its token
authentication. Where that does not work, behind a mirror or with certificates of the engine's own, nothing is known.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pbsdock.directive.image_ref import parse_image
from pbsdock.engine.credentials import Login
from pbsdock.engine.registry import KINDS, host_of

_WHOLE_S, _STEP_S = 8.0, 4.0
_MOST_BYTES = 8 << 20  # of one answer
_MOST_STEPS = 8  # requests
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


def layers_bytes(reference: str, login: Login, architecture: str) -> int | None:
    """Bytes of the layers as they are transferred, compressed; None where that cannot be found out in a few seconds.

    *architecture* as Go calls it, of an image that is there for several.
    """
    try:
        return _Asking(reference, login).size(architecture)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None


def digest_of(reference: str, login: Login) -> str | None:
    """The digest of what a tag is in its registry, ``sha256:…``; None where that cannot be found out in a few seconds.

    Asked with HEAD, which Docker Hub does not count as a pull.
    """
    try:
        return _Asking(reference, login).digest()
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None


class _Asking:
    """One image's questions, within one deadline."""

    def __init__(self, reference: str, login: Login) -> None:
        self.image = parse_image(reference)
        self.login = login
        self.deadline = time.monotonic() + _WHOLE_S
        self.authorization = ""
        self.steps = 0

    def size(self, architecture: str) -> int | None:
        manifest = self._manifest(self.image.digest or self.image.tag or "latest")
        if "manifests" in manifest:
            fitting = (
                entry["digest"]
                for entry in manifest["manifests"]
                if entry.get("platform", {}).get("architecture") == architecture
                and entry.get("platform", {}).get("os", "linux") == "linux"
            )
            digest = next(fitting, None)
            if digest is None:
                return None
            manifest = self._manifest(str(digest))
        return sum(int(layer["size"]) for layer in manifest["layers"])

    def digest(self) -> str | None:
        headers, _ = self._about(self.image.digest or self.image.tag or "latest", "HEAD")
        found = headers.get("docker-content-digest", "")
        return found if _DIGEST.fullmatch(found) else None

    def _manifest(self, name: str) -> Any:
        return json.loads(self._about(name, "GET")[1])

    def _about(self, name: str, method: str) -> tuple[dict[str, str], bytes]:
        host, is_plain = host_of(self.image.registry)
        path = f"/v2/{self.image.repository}/manifests/{name}"
        status, headers, body = self._ask(host, path, is_plain, {"Accept": KINDS}, method)
        if status == 401:
            self._authorize(headers.get("www-authenticate", ""))
            status, headers, body = self._ask(host, path, is_plain, {"Accept": KINDS}, method)
        if status != 200:
            raise ValueError(f"HTTP {status}")
        return headers, body

    def _authorize(self, challenge: str) -> None:
        """As the registry wants it: the password, or a token for it. Raises ValueError."""
        kind, _, rest = challenge.partition(" ")
        basic = ""
        if self.login.get("password"):
            pair = f"{self.login.get('username', '')}:{self.login['password']}"
            basic = f"Basic {base64.b64encode(pair.encode()).decode()}"
        if kind.lower() == "basic":
            self.authorization = basic
            return
        if kind.lower() != "bearer" or self.login.get("identitytoken"):
            raise ValueError("another kind of authentication")
        found = dict(_CHALLENGE.findall(rest))
        realm = urllib.parse.urlsplit(found["realm"])
        if realm.scheme not in ("https", "http") or (realm.scheme == "http" and basic):
            raise ValueError("a password is not sent in the clear")
        query = urllib.parse.urlencode({key: found[key] for key in ("service", "scope") if key in found})
        headers = {"Authorization": basic} if basic else {}
        status, _, body = self._ask(realm.netloc, f"{realm.path}?{query}", realm.scheme == "http", headers)
        if status != 200:
            raise ValueError(f"HTTP {status}")
        answer = json.loads(body)
        self.authorization = f"Bearer {answer.get('token') or answer['access_token']}"

    def _ask(
        self, host: str, path: str, is_plain: bool, headers: Mapping[str, str], method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        self.steps += 1
        left = self.deadline - time.monotonic()
        if left <= 0 or self.steps > _MOST_STEPS:
            raise TimeoutError
        kind = http.client.HTTPConnection if is_plain else http.client.HTTPSConnection
        connection = kind(host, timeout=min(_STEP_S, left))
        watch = threading.Timer(left, _cut, [connection])  # one that sends a byte now and then
        watch.daemon = True
        watch.start()
        try:
            own = {"Authorization": self.authorization} if self.authorization else {}
            connection.request(method, path, headers={"User-Agent": "pbsdock", **own, **headers})
            answer = connection.getresponse()
            body = self._body(answer)
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body
        finally:
            watch.cancel()
            connection.close()

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        body = b""
        while part := answer.read1(1 << 16):
            body += part
            if len(body) > _MOST_BYTES or time.monotonic() > self.deadline:
                raise ValueError("too long")
        return body


def _cut(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):  # it has ended
        connection.sock.shutdown(2)
