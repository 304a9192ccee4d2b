"""One real gateway for all tests of object stores, with two users and their buckets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Instance, wait_until
from tests.support.ports import free_low_port
from tests.support.rgw import Gateway


@dataclass(frozen=True)
class Store:
    """The gateway, the clients of its two users, and the node's identities."""

    gateway: Gateway
    alice: Any
    bob: Any
    role_identity: Path
    key_identity: Path
    port: int  # where the instance under test offers sessions

    def roles(self) -> list[str]:
        """The names of all roles."""
        try:
            return [one["RoleName"] for one in self.gateway.admin("role", "list")]
        except RuntimeError as error:
            assert "No such file or directory" in str(error)  # its way to say that there is none
            return []

    def users(self) -> list[str]:
        """The names of the users that were made for jobs."""
        return [one for one in self.gateway.admin("user", "list") if one.startswith("pbsdock-") and "-node-" not in one]


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """Users alice and bob own alice-in, alice-out and bob-data."""
    root = Path(tempfile.mkdtemp(prefix="pbsdock-rgw.", dir="/var/tmp"))
    gateway = Gateway(root, tls=True)
    try:
        gateway.start()
        alice, bob = (gateway.client(*gateway.user(name)) for name in ("alice", "bob"))
        for client, bucket in ((alice, "alice-in"), (alice, "alice-out"), (bob, "bob-data")):
            client.create_bucket(Bucket=bucket)
            for key in ("x/1", "x/2", "y/1"):
                client.put_object(Bucket=bucket, Key=key, Body=f"{bucket} {key}\n".encode())
        yield Store(
            gateway,
            alice,
            bob,
            gateway.identity(root / "role.toml", "pbsdock-node-role", "role"),
            gateway.identity(root / "key.toml", "pbsdock-node-key", "key"),
            free_low_port(),
        )
    finally:
        gateway.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def site(instance: Instance, store: Store) -> Iterator[Any]:
    """The instance, configured for the gateway, and as before afterwards."""
    from tests.s3.site import Site, config

    instance.configure(config(store))
    found = Site(instance, store)
    yield found
    try:
        instance.end_all()
        wait_until("nothing is left", lambda: not found.left(), 60)  # a gateway that was restarted is slow
    except BaseException:
        instance.command("reap")  # what this test has left is not to fail the next
        raise
