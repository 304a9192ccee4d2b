"""A staging worker in this process, its user left alone; the store's client is a fake that takes what botocore takes."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from pbsdock.staging import find
from pbsdock.staging.order import Access, Item, Order, messages
from pbsdock.staging.worker import Worker


class FakeClient:
    """Keeps what is put; a key is percent-encoded from UTF-8, as botocore does it."""

    def __init__(self) -> None:
        self.put: dict[str, bytes] = {}

    def put_object(self, Bucket: str, Key: str, Body: bytes, ContentMD5: str) -> dict[str, str]:
        self.put[Key.encode().decode()] = Body
        digest = hashlib.md5(Body)
        assert ContentMD5 == base64.b64encode(digest.digest()).decode()
        return {"ETag": f'"{digest.hexdigest()}"'}


def _order(top: Path) -> Order:
    item = Item(
        store="s", bucket="b", key="r/", path=str(top), root=str(top), shown="/work/out", where="job.sh, line 3"
    )
    access = Access(endpoint="", region="", path_style=True, ca_bundle="", parallel=2, keys={})
    return Order(
        direction="out", uid=1, gid=1, groups=(), mark="m", items=(item,), stores={"s": access}, patience_s=1.0
    )


def _carried_out(order: Order, client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The last thing the worker tells."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            worker = Worker(order, theirs)
            monkeypatch.setattr(worker.agent, "listen", lambda: None)
            worker._clients["s"] = client
            worker.run()
        return [message for message in messages(ours) if "progress" not in message][-1]


def test_a_name_that_is_no_text_is_told_and_the_others_are_sent_to_a_fake_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any bytes may be a file's name, and only UTF-8 a key: nobody killed anything."""
    for name in (b"a", b"caf\xe9", b"na\xffme", b"z\xc3\xa9"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(name)
    client = FakeClient()
    told = _carried_out(_order(tmp_path), client, monkeypatch)

    assert sorted(client.put) == ["r/a", "r/zé"]
    assert told["failed"] == {
        "code": "name-unfit",
        "where": "job.sh, line 3",
        "sentence": f"the name of '{tmp_path}/caf\\xe9' is not UTF-8, which a key has to be; nor are the names of 1 more",
    }


def test_what_is_left_out_by_name_is_said_in_text_with_a_fake_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker tells ends as UTF-8 on the job's stderr."""
    os.mkfifo(os.path.join(os.fsencode(tmp_path), b"pipe\xff"))
    told = _carried_out(_order(tmp_path), FakeClient(), monkeypatch)

    assert told["done"]["left_out"] == [f"{tmp_path}/pipe\\xff is neither a file nor a directory"]


def test_what_nobody_has_foreseen_is_told_by_a_worker_with_a_fake_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip of ours in a worker is no death of it."""

    def slip(*_arguments: Any) -> Any:
        raise ValueError("a slip")

    monkeypatch.setattr(find, "files", slip)
    told = _carried_out(_order(tmp_path), FakeClient(), monkeypatch)

    assert told["failed"]["sentence"] == "the staging worker could not go on: ValueError"
