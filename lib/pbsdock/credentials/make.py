"""The minter a store's configuration asks for."""

from __future__ import annotations

from collections.abc import Callable

from pbsdock.config import StoreConfig
from pbsdock.credentials.keys import Keys
from pbsdock.credentials.rgw import Gateway
from pbsdock.credentials.roles import Roles
from pbsdock.credentials.secret import Minter
from pbsdock.credentials.share import Sharer


def minter_of(gateway: Gateway, store: StoreConfig, owner: str, failed: Callable[[str, str], None]) -> Minter:
    """Roles or keys; *failed* is told a bucket and why it could not be shared with its owner."""
    sharer = Sharer(gateway, store, failed)
    return Roles(gateway, store, owner, sharer) if store.kind == "role" else Keys(gateway, store, sharer)
