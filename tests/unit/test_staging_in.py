"""A stage-in with keys of every kind, and modes that follow a umask; the store is a fake that lists and gives what it has."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pbsdock.staging.made import Made
from pbsdock.staging.order import Access, Item, Order, messages
from pbsdock.staging.worker import Worker


class FakeClient:
    """Has *objects*, by key."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.got: list[str] = []

    def list_objects_v2(self, Bucket: str, Prefix: str, MaxKeys: int) -> dict[str, Any]:
        found = [
            {"Key": key, "Size": len(data), "ETag": f'"{hashlib.md5(data).hexdigest()}"', "LastModified": _THEN}
            for key, data in sorted(self.objects.items())
            if key.startswith(Prefix)
        ]
        return {"Contents": found[:MaxKeys]}

    def get_object(self, Bucket: str, Key: str, IfMatch: str) -> dict[str, Any]:
        self.got.append(Key)
        return {"Body": io.BytesIO(self.objects[Key])}


_THEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _mask() -> Iterator[None]:
    before = os.umask(0o077)  # a worker's
    yield
    os.umask(before)


def _staged_in(
    top: Path, objects: dict[str, bytes], *options: tuple[str, str], umask: int = 0o077
) -> tuple[dict[str, Any], FakeClient]:
    """What the worker tells last, after its modes."""
    items = tuple(
        Item(store="s", bucket="b", key=key, path=f"{top}/{path}", root=str(top), shown=path, where=f"job.sh:{line}")
        for line, (key, path) in enumerate(options, 1)
    )
    access = Access(endpoint="", region="", path_style=True, ca_bundle="", parallel=2, keys={})
    order = Order(direction="in", uid=1, gid=1, groups=(), mark="m", items=items, stores={"s": access}, patience_s=1.0)
    client = FakeClient(objects)
    with _worker(order, client) as (worker, ours):
        worker.agent._umask.put(umask)
        worker.run()
        worker.agent._channel.shutdown(socket.SHUT_WR)
        told = [message for message in messages(ours) if "progress" not in message]
    return told[0], client


@contextmanager
def _worker(order: Order, client: FakeClient) -> Iterator[tuple[Worker, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(order, theirs)
        worker.agent.listen = lambda: None  # type: ignore[method-assign]  # it would end this process
        worker._clients["s"] = client
        yield worker, ours


def _files(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_keys_that_can_be_no_files_do_not_cost_the_others_of_a_fake_store(tmp_path: Path) -> None:
    """Each is named, in one sentence; those that can be files are."""
    objects = {
        "t/a": b"a file",
        "t/a/b": b"below it",
        "t/x//y": b"1",
        "t/../up": b"2",
        "t/" + "n" * 300: b"3",
        "t/nul\0": b"4",
        "t/empty/": b"",
        "t/full/": b"data",
        "t/": b"",
        "t/e\u0301": b"apart",
        "t/\u00e9": b"composed",
    }
    told, client = _staged_in(tmp_path, objects, ("t/", "in"))

    assert _files(tmp_path) == {"in/a/b": b"below it", "in/e\u0301": b"apart", "in/\u00e9": b"composed"}
    assert (tmp_path / "in/empty").is_dir()
    assert told["done"]["files"] == 3
    assert sorted(told["done"]["left_out"]) == [
        "the key 't/../up' is no path below 't/': it has a '..' component",
        f"the key 't/a' cannot be a file, as others lie below it: {tmp_path}/in/a is a directory",
        "the key 't/full/' names a directory, and holds 4 bytes",
        f"the key 't/{'n' * 78}...{'n' * 80}' is no path below 't/': it has a component of more than 255 bytes",
        "the key 't/nul\\x00' is no path below 't/': it has a NUL character",
        "the key 't/x//y' is no path below 't/': it has an empty component",
    ]
    assert sorted(client.got) == ["t/a/b", "t/e\u0301", "t/\u00e9"]


def test_the_sentences_on_a_fake_stores_keys_are_bounded(tmp_path: Path) -> None:
    """Ten, and the number of the others."""
    told, _ = _staged_in(tmp_path, {"t/ok": b"", **{f"t//{number}": b"" for number in range(50)}}, ("t/", "in"))

    assert len(told["done"]["left_out"]) == 10
    assert told["done"]["more_left_out"] == 40


@pytest.mark.parametrize(
    ("key", "path", "objects", "code", "sentence"),
    [
        ("t/", "in", ["t//a", "t//b"], "key-unfit", "the key 't//a' is no path below 't/': it has an empty component;"),
        ("a", "in/", ["a", "a/b"], "", ""),
        ("t/a", "taken", ["t/a"], "", ""),
        ("t/d", "taken/", ["t/d"], "stage-path", "the key 't/d' cannot be a file: TOP/taken/d is a directory"),
        ("n" * 300, "in/", ["n" * 300], "key-unfit", "would have more than 255 bytes"),
    ],
)
def test_a_wanted_key_of_a_fake_store_that_can_be_no_file_refuses(
    tmp_path: Path, key: str, path: str, objects: list[str], code: str, sentence: str
) -> None:
    """Before anything is fetched; a single key is not bothered by what lies below it at the store."""
    (tmp_path / "taken/d").mkdir(parents=True)
    told, client = _staged_in(tmp_path, {name: b"1" for name in objects}, (key, path))

    if code:
        assert told["failed"]["code"] == code
        assert sentence.replace("TOP", str(tmp_path)) in told["failed"]["sentence"]
        assert told["failed"]["where"] == "job.sh:1"
        assert client.got == []
    else:
        assert told["done"]["files"] == 1


def test_a_wanted_key_that_two_options_of_a_fake_store_need_refuses(tmp_path: Path) -> None:
    """The prefix cannot have its way, and the single key was asked for by name."""
    told, client = _staged_in(tmp_path, {"a": b"1", "t/a/b": b"2"}, ("a", "in/"), ("t/", "in"))

    assert told["failed"]["where"] == "job.sh:1"
    assert told["failed"]["sentence"].startswith("the key 'a' cannot be a file, as others lie below it")
    assert client.got == []


def test_what_is_on_the_disk_stays_with_a_fake_store(tmp_path: Path) -> None:
    """A file where a directory is needed, and the other way round: named, and the rest is staged."""
    (tmp_path / "in/d").mkdir(parents=True)
    (tmp_path / "in/f").write_bytes(b"mine")
    told, client = _staged_in(tmp_path, {"t/d": b"1", "t/f/x": b"2", "t/f/": b"", "t/g": b"3"}, ("t/", "in"))

    assert _files(tmp_path) == {"in/f": b"mine", "in/g": b"3"}
    assert told["done"]["left_out"] == [
        f"the key 't/d' cannot be a file: {tmp_path}/in/d is a directory",
        f"the key 't/f/' cannot be staged: {tmp_path}/in/f is no directory",
        f"the key 't/f/x' cannot be staged: {tmp_path}/in/f is no directory",
    ]
    assert client.got == ["t/g"]


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002, 0o027, 0o777])
def test_modes_follow_the_umask_with_a_fake_store(tmp_path: Path, umask: int) -> None:
    """Of all that was made, and of nothing else."""
    (tmp_path / "old").mkdir(mode=0o700)
    (tmp_path / "old/mine").touch(mode=0o600)
    _staged_in(tmp_path, {"t/a/b": b"1", "t/m/": b"", "t/c": b"2"}, ("t/", "old/in/deep"), umask=umask)

    seen = {path: stat.S_IMODE(os.stat(tmp_path / path).st_mode) for path in ("old", "old/mine", "old/in")}
    assert seen == {"old": 0o700, "old/mine": 0o600, "old/in": 0o777 & ~umask}
    if umask != 0o777 or os.geteuid() == 0:
        top = tmp_path / "old/in/deep"
        assert {stat.S_IMODE(os.stat(top / name).st_mode) for name in (".", "a", "m")} == {0o777 & ~umask}
        assert {stat.S_IMODE(os.stat(top / name).st_mode) for name in ("a/b", "c")} == {0o666 & ~umask}


def test_a_mode_somebody_chose_stays(tmp_path: Path) -> None:
    """Also the set-group bit of a directory, and what a link that took a file's place leads to."""
    made = Made()
    made.directory(str(tmp_path / "d"))
    os.chmod(tmp_path / "d", 0o2700)
    for name in ("chosen", "gone", "linked", "plain"):
        (tmp_path / name).touch(mode=0o600)
        made.file(str(tmp_path / name))
    os.chmod(tmp_path / "chosen", 0o640)
    (tmp_path / "gone").unlink()
    (tmp_path / "linked").rename(tmp_path / "other")
    (tmp_path / "linked").symlink_to("other")
    made.follow(0o022)

    seen = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("d", "chosen", "other", "plain")}
    assert seen == {"d": 0o2755, "chosen": 0o640, "other": 0o600, "plain": 0o644}
