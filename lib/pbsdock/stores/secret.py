"""What a job gets, and what it is called at the gateway."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Protocol

from pbsdock.core.plan import Store

_NAME = re.compile(r"pbsdock-([0-9a-f]{8})-([0-9a-f]{9,24})-([0-9a-f]{4})")


@dataclass(frozen=True, slots=True)
class Secret:
    """Keys, and a session's token and end (seconds since the epoch). Its repr can be logged."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires: float | None = None


class Minter(Protocol):
    """A way to get and to revoke a job's credentials at one store; all of it can be repeated. Raises StoreError."""

    def mint(self, name: str, job_id: str, asked: Store, seconds: int) -> Secret | None:
        """What the container gets; None if it asked for nothing. *seconds* is how long a session shall live."""

    def again(self, name: str, job_id: str, asked: Store, seconds: int) -> Secret | None:
        """The same anew: a session after this one, or the key that is there."""

    def staging(self, name: str, job_id: str, asked: Store, seconds: int) -> Secret:
        """What the staging worker gets."""

    def revoke(self, name: str) -> None:
        """End everything under this name at once; no error if there is nothing."""

    def mine(self, owner: str) -> list[str]:
        """All names at the gateway that are this node's."""


def owner_tag(owner: str) -> str:
    """What marks a node's names at the gateway, short enough for every limit there."""
    return hashlib.sha256(owner.encode()).hexdigest()[:8]


def name_of(owner: str, incarnation: str, store: str) -> str:
    """The name of one job's role or user at one store: it follows from the record, so nothing else need be kept."""
    return f"pbsdock-{owner_tag(owner)}-{incarnation}-{hashlib.sha256(store.encode()).hexdigest()[:4]}"


def incarnation_of(name: str, owner: str, store: str) -> str | None:
    """The incarnation a name belongs to; None if it is not this node's, or another store's at the same gateway."""
    found = _NAME.fullmatch(name)
    if found is None or name != name_of(owner, found[2], store):
        return None
    return found[2]


def session_name(job_id: str) -> str:
    """The job id as the gateway's log shows it (AWS STS API, RoleSessionName: at most 64 of these characters)."""
    return re.sub(r"[^A-Za-z0-9_=,.@-]", "-", job_id)[:64].ljust(2, "-")
