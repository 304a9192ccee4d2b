"""``pbsdock setup key``: the key with which the nodes of a cluster sign what they tell each other."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.files import put, weak_place
from pbsdock.cluster.signing import SigningError, key_file, read_key
from pbsdock.config.tables import ConfigError, load

_BYTES = 32  # as many as HMAC-SHA256 can use the strength of (RFC 2104, section 3)


def make_key(config_file: Path, say: Callable[[str], None], *, replace: bool) -> int:
    """Make the key where the site's configuration has it; returns the exit code. Raises SetupError, OSError."""
    try:
        file = key_file(load(config_file).nodes, config_file)
    except ConfigError as error:
        raise SetupError(str(error)) from None
    if os.path.lexists(file) and not replace:
        try:
            read_key(file)
        except SigningError as error:
            raise SetupError(f"{error}; or make another with --replace") from None
        raise SetupError(f"{file} is there; copy it to all nodes, or make another with --replace")
    if not file.parent.is_dir():
        raise SetupError(f"{file.parent} is not a directory")
    if spot := weak_place(file.parent):
        raise SetupError(f"a key in {file.parent} is not safe: {spot}")
    put(file, secrets.token_hex(_BYTES) + "\n", 0o600)
    say(f"made {file}; copy it as it is to {file} of all nodes of the cluster, root's own, mode 0600")
    say("an agent reads it when it starts: kill $(cat /run/pbsdock/agent.pid); the next hook starts one")
    if replace:
        say("until all nodes have it, nodes with the old key and nodes with the new take each other for strangers")
    return 0
