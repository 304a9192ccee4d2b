"""The minter a store's configuration asks for."""

from __future__ import annotations

from collections.abc import Callable

from pbsdock.config.tables import StoreConfig
from pbsdock.stores.keys import Keys
from pbsdock.stores.rgw import Gateway
from pbsdock.stores.roles import Roles
from pbsdock.stores.secret import Minter
from pbsdock.stores.share import Sharer


def minter_of(gateway: Gateway, store: StoreConfig, owner: str, failed: Callable[[str, str], None]) -> Minter:
    """Roles or keys; *failed* is told a bucket and why it could not be shared with its owner."""
    sharer = Sharer(gateway, store, failed)
    return Roles(gateway, store, owner, sharer) if store.kind == "role" else Keys(gateway, store, sharer)
