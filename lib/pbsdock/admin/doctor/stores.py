"""``pbsdock doctor s3``: test a store by requests that must succeed and by requests that must be denied."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pbsdock.config.tables import Config, StoreConfig
from pbsdock.core.plan import BucketGrant, Store
from pbsdock.stores.errors import StoreError
from pbsdock.stores.make import minter_of
from pbsdock.stores.rgw import Gateway
from pbsdock.stores.secret import Secret, name_of


@dataclass(frozen=True, slots=True)
class StoreFinding:
    """The result of a step at a store. ``seen`` is a sentence."""

    store: str
    step: str
    well: bool
    seen: str

    def __str__(self) -> str:
        return f"{self.store} {self.step}: {self.seen}"


def examine(config: Config, owner: str, names: Sequence[str]) -> Iterator[StoreFinding]:
    """Test the stores *names*, or all. What is minted is revoked in any case. Raises KeyError for an unknown name."""
    for name in names or config.s3:
        yield from _examine(name, config.s3[name], owner)


def _examine(name: str, store: StoreConfig, owner: str) -> Iterator[StoreFinding]:
    if not store.probe:
        yield StoreFinding(name, "configuration", False, f"s3.{name}.probe names no buckets to try with")
        return
    open_, closed = store.probe
    gateway = Gateway(name, store)
    minter = minter_of(gateway, store, owner, lambda _bucket, _reason: None)
    handle = name_of(owner, f"{int(time.time()):x}{secrets.token_hex(4)}", name)
    asked = Store(
        name=name,
        endpoint=store.endpoint,
        region=store.region,
        ca_file="",
        staging=(),
        container=(BucketGrant(bucket=open_, keys=("*",), read_only=True),),
    )
    began = time.monotonic()
    try:
        secret = minter.mint(handle, f"doctor.{os.uname().nodename}", asked, 900)
        assert secret is not None
        yield StoreFinding(name, "mint", True, f"{store.kind} {handle}, {(time.monotonic() - began) * 1000:.0f} ms")
        yield _probe(gateway, secret, name, "open", open_, lambda status: status == 200)
        yield _probe(gateway, secret, name, "closed", closed, lambda status: status == 403)
    except StoreError as error:
        yield StoreFinding(name, "mint", False, error.reason)
        secret = None
    try:
        minter.revoke(handle)
    except StoreError as error:
        yield StoreFinding(name, "revoke", False, error.reason)
        return
    if secret is not None:
        yield StoreFinding(name, "revoke", True, handle)
        yield _probe(gateway, secret, name, "revoked", open_, lambda status: status == 403)


def _probe(
    gateway: Gateway, secret: Secret, store: str, step: str, bucket: str, expected: Callable[[int], bool]
) -> StoreFinding:
    try:
        status = gateway.probe(secret, bucket)
    except StoreError as error:
        return StoreFinding(store, step, False, error.reason)
    return StoreFinding(store, step, expected(status), f"listing {bucket}: HTTP {status}")
