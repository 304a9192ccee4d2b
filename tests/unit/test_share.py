"""A bucket's policy that several write at once; the gateway is a fake, whose last writer wins as with the real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pbsdock.config.tables import StoreConfig
from pbsdock.core.plan import BucketGrant
from pbsdock.s3.document import SHARE_SID
from pbsdock.stores import share
from pbsdock.stores.secret import Secret
from pbsdock.stores.share import Sharer

_GRANT = BucketGrant(bucket="b", keys=("*",), read_only=False)
_SECRET = Secret("a", "s")
_OWNERS = {
    "Sid": "owner",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:DeleteBucket",
    "Resource": "arn:aws:s3:::b",
}


class FakeGateway:
    """One bucket; *then* is what others do right after somebody has written."""

    name = "ceph"

    def __init__(self, then: Callable[[FakeGateway], None] = lambda gateway: None) -> None:
        self.policy: str = json.dumps({"Version": "2012-10-17", "Statement": [_OWNERS]})
        self.then = then
        self.written = 0

    def bucket_owner(self, *_: Any) -> str:
        return "alice"

    def bucket_policy(self, *_: Any) -> str:
        return self.policy

    def set_bucket_policy(self, _session: Secret, _bucket: str, policy: str) -> None:
        self.policy = policy
        self.written += 1
        self.then(self)

    def sids(self) -> list[str]:
        return [one["Sid"] for one in json.loads(self.policy)["Statement"]]


def _sharer(gateway: Any, told: list[str]) -> Sharer:
    settings = StoreConfig(endpoint="http://127.0.0.1:1", identity="/x")
    return Sharer(gateway, settings, lambda bucket, reason: told.append(f"{bucket}: {reason}"))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "_JITTER_S", 0.001, raising=False)


def test_a_statement_overwritten_from_an_older_copy_is_written_again_to_a_fake_gateway() -> None:
    """By another node, or the owner, who has read before and writes after: nothing of theirs is lost either."""

    def overwrite(gateway: FakeGateway) -> None:
        if gateway.written == 1:
            theirs = {**_OWNERS, "Sid": "theirs"}
            gateway.policy = json.dumps({"Version": "2012-10-17", "Statement": [_OWNERS, theirs]})

    gateway, told = FakeGateway(overwrite), list[str]()
    _sharer(gateway, told).share(_SECRET, ["b"])

    assert gateway.sids() == ["owner", "theirs", SHARE_SID]
    assert told == []


def test_a_statement_that_does_not_stay_in_a_fake_gateway_is_told() -> None:
    """After some tries; and the bucket is not remembered as one that is well."""
    before = FakeGateway().policy

    def overwrite(gateway: FakeGateway) -> None:
        gateway.policy = before

    gateway, told = FakeGateway(overwrite), list[str]()
    sharer = _sharer(gateway, told)
    sharer.share(_SECRET, ["b"])

    assert told == ["b: its policy was overwritten by others 5 times in a row"]
    assert (gateway.written, sharer.due([_GRANT])) == (5, ("b",))


def test_two_nodes_at_once_at_a_fake_gateway() -> None:
    """Both have read before either writes: one statement, and the owner's is still there."""
    both = threading.Barrier(2)
    first = threading.local()

    class Slow(FakeGateway):
        def bucket_policy(self, *_: Any) -> str:
            found = self.policy
            if not getattr(first, "read", False):
                first.read = True
                both.wait(5)
            return found

    gateway, told = Slow(), list[str]()
    nodes = [threading.Thread(target=_sharer(gateway, told).share, args=(_SECRET, ["b"])) for _ in range(2)]
    for one in nodes:
        one.start()
    for one in nodes:
        one.join(10)

    assert (gateway.sids(), told) == (["owner", SHARE_SID], [])
