"""Keys and paths of staged files, and the work of a crew; nothing here needs a store."""

from __future__ import annotations

import hashlib
import threading

import pytest

from pbsdock.core.facts import Upload
from pbsdock.s3.names import Url
from pbsdock.staging import names
from pbsdock.staging.order import Access, Item, Order
from pbsdock.staging.worker_pool import Task, WorkerPool

MIB = 1 << 20


@pytest.mark.parametrize(
    ("key", "pattern", "fits"),
    [
        ("a/x.fq", "a/*.fq", True),
        ("a/b/x.fq", "a/*.fq", False),
        ("a/x.fq", "*/x.f?", True),
        ("x.fq", "*", True),
        ("a/x", "*", False),
        ("a/[1]", "a/[[]1]", True),
        ("A/x", "a/x", False),
    ],
)
def test_wildcards_stay_in_their_component(key: str, pattern: str, fits: bool) -> None:
    """``*`` is not ``**``."""
    assert names.matches(key, pattern) is fits


@pytest.mark.parametrize(
    ("key", "url", "rest"),
    [
        ("t/a", Url(None, "b", "t/"), "a"),
        ("t/a/b", Url(None, "b", "t/"), "a/b"),
        ("a", Url(None, "b", ""), "a"),
        ("t/", Url(None, "b", "t/"), ""),
        ("t/d/", Url(None, "b", "t/"), "d/"),
        ("t/x1", Url(None, "b", "t/x*"), "x1"),
    ],
)
def test_where_a_key_goes(key: str, url: Url, rest: str) -> None:
    """Below the last whole component in front of a wildcard."""
    assert names.relative(key, url) == rest


@pytest.mark.parametrize("key", ["t/../x", "t//x", "t/./x", "t/a\0b", "t/" + "n" * 256, "t//"])
def test_keys_that_are_no_paths(key: str) -> None:
    """None of them may lead anywhere but below the target."""
    with pytest.raises(names.BadName, match="is no path below 't/'"):
        names.relative(key, Url(None, "b", "t/"))


def test_why_a_key_is_no_path() -> None:
    """In words, and without what would spoil a terminal."""
    for key, why in (
        ("t//x", "it has an empty component"),
        ("t/../x", "it has a '..' component"),
        ("t/a\0b", "it has a NUL character"),
        ("t/" + "n" * 256, "it has a component of more than 255 bytes"),
        ("t/\x1b[2J/./x", "it has a '.' component"),
    ):
        with pytest.raises(names.BadName) as caught:
            names.relative(key, Url(None, "b", "t/"))
        assert str(caught.value).endswith(f" is no path below 't/': {why}")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


def test_keys_of_files() -> None:
    """One file takes the key as it is; whatever is more than one goes below it."""
    assert names.key_for("out.sam", Url(None, "b", "r/one"), single=True) == "r/one"
    assert names.key_for("out.sam", Url(None, "b", "r/"), single=True) == "r/out.sam"
    assert names.key_for("d/out.sam", Url(None, "b", "r"), single=False) == "r/d/out.sam"
    assert names.key_for("out.sam", Url(None, "b", ""), single=True) == "out.sam"
    assert names.fixed_part("/scratch/a*/x/*.sam") == "/scratch"
    assert names.key_problem("r/" + "é" * 511) == ""
    assert names.key_problem("r/" + "é" * 512) == "would make a key of more than 1024 bytes"


@pytest.mark.parametrize(
    ("size", "etag", "likely"),
    [(40 * MIB, '"x-5"', 8 * MIB), (40 * MIB, "x-3", 16 * MIB), (40 * MIB, "x-8", 5 * MIB), (3, "x-1", 8 * MIB)],
)
def test_part_sizes_of_common_clients(size: int, etag: str, likely: int) -> None:
    """An ETag of several parts tells how many they are, and so how large."""
    assert names.likely_part_sizes(size, etag)[0] == likely
    assert names.likely_part_sizes(size, hashlib.md5(b"").hexdigest()) == ()


def test_an_upload_never_has_too_many_parts() -> None:
    """5 TiB, the largest object there can be, in at most 10,000 parts of whole MiB."""
    for size in (1, 9 * MIB, 80_000 * MIB, 80_001 * MIB, 5 << 40):
        part = names.part_size(size)
        assert part % MIB == 0
        assert -(-size // part) <= 10_000


def test_order_survives_the_wire() -> None:
    """And its repr shows no key."""
    order = Order(
        direction="out",
        uid=1,
        gid=2,
        groups=(3,),
        mark="m",
        stores={
            "s": Access(
                endpoint="http://h",
                region="r",
                path_style=True,
                ca_bundle="",
                parallel=2,
                keys={"secret_key": "hidden"},
            )
        },
        uploads=(Upload(store="s", bucket="b", key="k", id="i"),),
        items=(Item(store="s", bucket="b", key="k", path="/p", root="/", shown="/p", where="x:1:1"),),
    )
    assert Order.from_dict(order.to_dict()) == order
    assert "hidden" not in repr(order)


def test_a_crew_does_what_is_handed_on() -> None:
    """Everything once, and the first error ends it and is raised."""
    done: list[int] = []
    lock = threading.Lock()

    def piece(number: int) -> Task:
        def act() -> list[Task] | None:
            with lock:
                done.append(number)
            return [piece(number + 1000)] if number < 1000 else None

        return act

    WorkerPool(4, threading.Event()).work(piece(one) for one in range(50))
    assert sorted(done) == [*range(50), *range(1000, 1050)]

    def fails() -> None:
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        WorkerPool(4, threading.Event()).work([fails, *(piece(one) for one in range(5))])
