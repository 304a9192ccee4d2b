"""Registry logins, as ``docker login`` keeps them."""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path

from pbsdock.config.tables import is_root_only
from pbsdock.core.errors import NodeFault

_HUB = "https://index.docker.io/v1/"


def load_auth(path: Path) -> dict[str, dict[str, str]]:
    """Read registry credentials from a docker ``config.json`` that only root can read. Raises NodeFault."""
    try:
        if not is_root_only(path):
            raise NodeFault("registry-credentials", f"{path} can be read by others than root; use chmod 600")
        entries = json.loads(path.read_bytes()).get("auths", {})
        found = {}
        for host, entry in entries.items():
            user, _, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
            name = "docker.io" if host == _HUB else host.removeprefix("https://").rstrip("/")
            found[name] = {"username": user, "password": password}
        return found
    except (OSError, ValueError, AttributeError, binascii.Error) as error:
        raise NodeFault("registry-credentials", f"{path} is not a docker config.json: {type(error).__name__}") from None
