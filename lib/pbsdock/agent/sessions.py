"""What the clients in containers may ask for by themselves: tokens, and the sessions they stand for."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pbsdock.core.redact import known
from pbsdock.s3.environment import TOKEN

if TYPE_CHECKING:
    from pbsdock.stores.secret import Secret


class Sessions:
    """Tokens and sessions of the jobs that run; any thread."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[str, int]] = {}  # the token's SHA-256 -> incarnation, uid
        self._kept: dict[tuple[str, str], Secret] = {}
        self._lock = threading.Lock()

    def token_for(self, incarnation: str, uid: int, directory: Path) -> str:
        """The job's token: the one in its *directory*, or a new one. Raises OSError."""
        try:
            token = (directory / TOKEN).read_text(encoding="ascii")
        except FileNotFoundError:
            token = secrets.token_hex(32)
        known.add(incarnation, token)
        with self._lock:
            self._owners[_digest(token)] = (incarnation, uid)
        return token

    def keep(self, incarnation: str, found: Mapping[str, Secret]) -> None:
        """Remember a job's newest sessions, by store."""
        with self._lock:
            self._kept |= {(incarnation, store): secret for store, secret in found.items()}

    def kept(self, incarnation: str, store: str) -> Secret | None:
        """The newest session, if it is remembered."""
        return self._kept.get((incarnation, store))

    def owner(self, token: str) -> tuple[str, int] | None:
        """(incarnation, uid) of a token; looked up by its hash, so the time it takes says nothing about it."""
        return self._owners.get(_digest(token))

    def forget(self, incarnation: str) -> None:
        """The job is over."""
        with self._lock:
            self._owners = {key: owner for key, owner in self._owners.items() if owner[0] != incarnation}
            self._kept = {key: kept for key, kept in self._kept.items() if key[0] != incarnation}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
