"""A job's credentials in the agent; the gateway is a fake that keeps roles by name."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent.stores import Stores
from pbsdock.config.tables import Config, StoreConfig
from pbsdock.core.facts import Credentials
from pbsdock.core.plan import BucketGrant, Store
from pbsdock.core.record import Record, State
from pbsdock.stores.secret import Secret
from tests.unit.records import record_in
from tests.unit.test_policy import _plan

_GRANT = BucketGrant(bucket="b", keys=("*",), read_only=True)


class FakeMinter:
    """Makes a role again where it is gone, as the real ones do; slow on demand."""

    def __init__(self) -> None:
        self.roles: set[str] = set()
        self.asked, self.go_on = threading.Event(), threading.Event()

    def mint(self, name: str, *_: Any) -> Secret:
        self.roles.add(name)
        return Secret("a", "s", "t", time.time() + 900)

    def again(self, name: str, *arguments: Any) -> Secret:
        self.asked.set()
        assert self.go_on.wait(10)
        return self.mint(name, *arguments)

    def revoke(self, name: str) -> None:
        self.roles.discard(name)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> tuple[Stores, FakeMinter, Record]:
    """A running job whose session is to be replaced now."""
    store = Store(name="ceph", endpoint="", region="r", ca_file="", container=(_GRANT,), staging=())
    plan = replace(_plan("alpine:3"), stores=(store,))
    record = record_in(State.RUNNING, plan=plan, credentials=Credentials(refresh_at=time.time() - 1))
    settings = StoreConfig(endpoint="http://127.0.0.1:1", identity="/x", lifetime_s=900)
    stores, minter = Stores(Config(s3={"ceph": settings}), "n", lambda *_, **__: None), FakeMinter()
    minter.mint(stores._name(record, "ceph"))
    monkeypatch.setattr(stores, "_make", lambda *_: minter)
    monkeypatch.setattr(stores, "_write", lambda *_: None)
    return stores, minter, record


@pytest.mark.parametrize("how", ["refresh", "session"])
def test_a_session_renewed_while_its_job_is_released_leaves_nothing_at_a_fake_gateway(
    job: tuple[Stores, FakeMinter, Record], tmp_path: Path, how: str
) -> None:
    """A role that is gone is made again, but not one that the release has just deleted."""
    stores, minter, record = job
    act = {"refresh": lambda: stores.refresh(record, tmp_path), "session": lambda: stores.session(record, "ceph")}[how]
    renewing = threading.Thread(target=act)
    renewing.start()
    assert minter.asked.wait(5)
    revoking = threading.Thread(target=stores.revoke, args=(record,))
    revoking.start()
    time.sleep(0.2)
    minter.go_on.set()
    for one in (renewing, revoking):
        one.join(5)

    assert minter.roles == set()


def test_nothing_is_renewed_after_the_release_with_a_fake_gateway(
    job: tuple[Stores, FakeMinter, Record], tmp_path: Path
) -> None:
    """By a pass over the records, or a container's request, that began before it."""
    stores, minter, record = job
    minter.go_on.set()
    stores.revoke(record)

    assert stores.refresh(record, tmp_path) is False
    assert stores.session(record, "ceph") is None
    assert minter.roles == set()
