"""What is to be staged, where it is, and how its user is told; from plain data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pbsdock.agent.stage_items import (
    due,
    exit_code,
    item_of,
    keep_in,
    kept_places,
    kept_sentence,
    not_staged,
    staged_in,
    staged_out,
    to_undo,
    unfinished,
    uploads_for,
    with_upload,
)
from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Bound, Exit, Facts, Upload
from pbsdock.core.plan import Mount, Stage
from tests.unit.records import record_in
from tests.unit.test_policy import _plan

_IN = Stage(store="ceph", bucket="b", key="in", path="/home/alice/in", where="job.sh:2:9")
_OUT = replace(_IN, key="out", path="/tmp/7/out", where="job.sh:3:9")
_ALWAYS = replace(_OUT, key="log", path="/home/alice/log", always=True)
_TMPDIR = Mount(source="/tmp/7", target="/tmp/7", read_only=False, origin="tmpdir", required=False)
_WORKDIR = Mount(source="/scratch/a", target="/work", read_only=False, origin="workdir", required=False)
_PLAN = replace(_plan("alpine:3"), stage_in=(_IN,), stage_out=(_OUT, _ALWAYS), mounts=(_TMPDIR,), home="/home/alice")
_HOME = Bound(source="/nfs/alice", target="/home/alice", read_only=False, device=1, inode=1)
_TMP = Bound(source="/tmp/7", target="/tmp/7", read_only=False, device=1, inode=2)
_UPLOAD = Upload(store="ceph", bucket="b", key="k", id="u1")


def test_what_is_due() -> None:
    """All of a job that went well; what is wanted in any case of another; nothing of a job without a plan."""
    assert due(_PLAN, 0) == [_OUT, _ALWAYS]
    assert due(_PLAN, 1) == [_ALWAYS]
    assert due(None, 0) == []


@pytest.mark.parametrize(
    ("facts", "halves"),
    [
        ({}, []),
        ({"staged_in": "done", "staged_out": "undone"}, []),
        ({"staged_in": "begun"}, ["staged_in"]),
        ({"staged_in": "begun", "staged_out": "begun"}, ["staged_in", "staged_out"]),
    ],
)
def test_what_is_unfinished(facts: dict[str, Any], halves: list[str]) -> None:
    """Begun, and neither completed nor undone."""
    assert unfinished(Facts(**facts)) == halves


def test_what_is_to_be_undone() -> None:
    """Of a stage-out what was due, as the job ended; a job without an end was killed."""
    assert to_undo(_PLAN, ["staged_in"], None) == [_IN]
    assert to_undo(_PLAN, ["staged_out"], Exit(code=0)) == [_OUT, _ALWAYS]
    assert to_undo(_PLAN, ["staged_in", "staged_out"], None) == [_IN, _ALWAYS]
    assert to_undo(_PLAN, [], None) == []


def test_uploads_go_with_an_order_that_can_use_them() -> None:
    """To go on with one, or to end it; an order that only undoes files need not ask the store."""
    facts = Facts(uploads={"x": _UPLOAD})

    assert uploads_for(facts, "out", [_OUT]) == (_UPLOAD,)
    assert uploads_for(facts, "undo", []) == (_UPLOAD,)
    assert uploads_for(facts, "undo", [_OUT]) == ()
    assert uploads_for(facts, "in", [_IN]) == ()


def test_uploads_come_and_go() -> None:
    """By their ids."""
    told = {"store": "ceph", "bucket": "b", "key": "k", "id": "u1"}
    begun = with_upload({}, told)

    assert begun == {"ceph:b/k": _UPLOAD}
    assert with_upload(begun, {**told, "id": ""}) == {}
    assert with_upload({}, {**told, "id": ""}) == {}


def test_where_a_path_is_on_the_host() -> None:
    """In the innermost mount that holds it."""
    inner = Bound(source="/data", target="/home/alice/in", read_only=False, device=1, inode=3)
    record = record_in(plan=_PLAN, bound=(_HOME, _TMP))

    assert (item_of(record, _PLAN, _IN).path, item_of(record, _PLAN, _IN).root) == ("/nfs/alice/in", "/nfs/alice")
    assert item_of(record, _PLAN, _OUT).doomed
    assert not item_of(record, _PLAN, _IN).doomed
    record.note(bound=(_HOME, inner))
    assert item_of(record, _PLAN, _IN).path == "/data"


def test_a_path_in_a_mount_that_was_left_out_is_refused() -> None:
    """With its line."""
    with pytest.raises(Refusal, match=r"job.sh:2:9: /home/alice/in is in a directory that could not be mounted"):
        item_of(record_in(plan=_PLAN, bound=(_TMP,)), _PLAN, _IN)


@pytest.mark.parametrize(
    ("mounts", "place"),
    [
        ((_TMPDIR,), "/home/alice"),
        ((_TMPDIR, _WORKDIR), "/scratch/a"),
        ((replace(_WORKDIR, read_only=True),), "/home/alice"),
    ],
)
def test_where_to_results_are_moved(mounts: tuple[Mount, ...], place: str) -> None:
    """Where the job was submitted, if that can be written to."""
    record = record_in(plan=_PLAN)

    assert keep_in(replace(_PLAN, mounts=mounts), record) == f"{place}/pbsdock-kept.{record.safe}"


def test_where_results_are_kept() -> None:
    """Not where they go with the job, nor in what was not mounted; each place once."""
    record = record_in(plan=_PLAN, bound=(_HOME, _TMP), kept=("/k/out", "/nfs/alice/log"))

    assert kept_places(record, _PLAN, [_OUT, _ALWAYS]) == ["/nfs/alice/log", "/k/out"]
    record.note(bound=(_TMP,), kept=())
    assert kept_places(record, _PLAN, [_OUT, _ALWAYS]) == []


def test_what_a_user_is_told() -> None:
    """Counts as they are read."""
    done = {"files": 1, "bytes": 2048, "skipped": 0, "left_out": []}

    assert staged_in(done, 1.26) == "staged in 1 file, 2 KiB in 1.3 s"
    assert staged_in({**done, "files": 2, "skipped": 1}, 0.0).endswith(
        "2 files, 2 KiB in 0.0 s, 1 of them there already"
    )
    assert staged_out({**done, "left_out": ["a"] * 12}, 1.0) == [
        "staged out 1 file, 2 KiB in 1.0 s",
        *["not staged out: a"] * 10,
    ]
    assert not_staged({**done, "left_out": ["a"], "more_left_out": 5}, "in") == [
        "not staged in: a",
        "not staged in: 5 more",
    ]
    assert kept_sentence([], "n1") == "nothing was there to be kept"
    assert kept_sentence(["/a", "/b"], "n1") == "what was not uploaded is kept on n1 in /a, /b"


@pytest.mark.parametrize(("code", "is_all", "becomes"), [(0, True, 0), (0, False, 74), (7, True, 7), (7, False, 7)])
def test_a_missing_upload_is_no_success(code: int, is_all: bool, becomes: int) -> None:
    """And no other status is hidden by it."""
    assert exit_code(Exit(code=code), is_all_uploaded=is_all) == becomes
