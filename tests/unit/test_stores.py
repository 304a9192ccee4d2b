"""A job's credentials in the agent; the gateway is a fake that keeps roles by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
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
        self.lists = 0
        self.while_listing: Callable[[], object] = lambda: None

    def mint(self, name: str, *_: Any) -> Secret:
        self.roles.add(name)
        return Secret("a", "s", "t", time.time() + 900)

    def again(self, name: str, *arguments: Any) -> Secret:
        self.asked.set()
        assert self.go_on.wait(10)
        return self.mint(name, *arguments)

    def revoke(self, name: str) -> None:
        self.roles.discard(name)

    def mine(self, _owner: str) -> list[str]:
        self.lists += 1
        self.while_listing()
        return sorted(self.roles)


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


# -- what the reaper lists --------------------------------------------------------------------------------------------


def test_an_idle_node_asks_a_fake_gateway_four_times_an_hour(
    job: tuple[Stores, FakeMinter, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has seen that nothing is there; who has a job, or is asked to look, always."""
    stores, minter, _record = job
    minter.roles.clear()
    now = time.monotonic()
    monkeypatch.setattr("pbsdock.agent.stores.time.monotonic", lambda: now)
    for passes in range(20):
        now += 60.0
        assert stores.listed(is_idle=True) == []
        assert minter.lists == (1 if passes < 15 else 2)
    for _ in range(3):
        stores.listed()

    assert minter.lists == 5


def test_what_was_left_at_a_fake_gateway_is_looked_for_until_it_is_gone(
    job: tuple[Stores, FakeMinter, Record],
) -> None:
    """An orphan that could not be removed keeps the node looking, however idle it is."""
    stores, minter, _record = job
    assert len(stores.listed(is_idle=True)) == len(stores.listed(is_idle=True)) == 1
    minter.roles.clear()
    stores.listed(is_idle=True)
    stores.listed(is_idle=True)

    assert minter.lists == 3


@pytest.mark.parametrize("when", ["between two lists", "during a list"])
def test_a_job_that_came_and_went_at_a_fake_gateway_is_looked_for(
    job: tuple[Stores, FakeMinter, Record], tmp_path: Path, when: str
) -> None:
    """No pass has seen it, and it may have left something all the same."""
    stores, minter, record = job
    minter.roles.clear()
    minter.go_on.set()

    def come_and_go() -> None:
        minter.while_listing = lambda: None
        stores.refresh(record, tmp_path)
        minter.roles.clear()

    if when == "during a list":
        minter.while_listing = come_and_go
    stores.listed(is_idle=True)
    if when == "between two lists":
        come_and_go()
    stores.listed(is_idle=True)

    assert minter.lists == 2
