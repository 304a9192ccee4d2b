"""Policy on object stores: who may ask for what, and the document that confines the credentials to it."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.config.tables import parse
from pbsdock.core.errors import Refusal
from pbsdock.core.plan import BucketGrant, Plan, Stage, Store
from pbsdock.policy.decide import decide
from pbsdock.s3.document import document
from pbsdock.s3.names import Access, BadName, parse_access, parse_url
from tests.support.torque import parse_options
from tests.unit.test_policy import HOST, _job

CONFIG = """
[mounts]
allow = ["/scratch", "/ref:ro"]
[s3.ceph]
endpoint = "https://rgw.test"
identity = "/etc/pbsdock/ceph.toml"
allow = ["{user}-*", "public:ro", "lab/{group}/runs-*", "lab/shared:ro"]
[s3.archive]
endpoint = "https://archive.test"
ca_bundle = "/etc/ssl/archive.pem"
identity = "/etc/pbsdock/archive.toml"
allow = ["cold:ro"]
[[override]]
users = ["bob"]
[override.s3.ceph]
allow = ["bob-data:ro"]
"""


def _plan(text: str, **changes: Any) -> Plan:
    return decide(replace(_job(), **changes), parse_options(f"busybox {text}", filename="job.sh"), parse(CONFIG), HOST)


def _refusal(text: str, **changes: Any) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        _plan(text, **changes)
    return caught.value.code, caught.value.sentence


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("b", Access(None, "b", "", True)),
        ("b:ro", Access(None, "b", "", True)),
        ("b:rw", Access(None, "b", "", False)),
        ("ro:rw", Access(None, "ro", "", False)),
        ("lab:b", Access("lab", "b", "", True)),
        ("lab:b/p/q:rw", Access("lab", "b", "p/q", False)),
        ("b/p/", Access(None, "b", "p", True)),
        ("b/", Access(None, "b", "", True)),
    ],
)
def test_access(text: str, found: Access) -> None:
    """The mode is what stands last; without one it is for reading."""
    assert parse_access(text) == found


@pytest.mark.parametrize(
    ("text", "key", "literal", "directory"),
    [
        ("s3://b", "", "", ""),
        ("s3://b/", "", "", ""),
        ("s3://b/k", "k", "k", "k"),
        ("s3://b/d/", "d/", "d/", "d"),
        ("s3://b/d/x*.fq", "d/x*.fq", "d/x", "d"),
        ("s3://b/d*", "d*", "d", ""),
        ("s3://b/d/[ab]/x", "d/[ab]/x", "d/", "d"),
    ],
)
def test_url(text: str, key: str, literal: str, directory: str) -> None:
    """What lies before the first wildcard, and the whole components of it."""
    url = parse_url(text)
    assert (url.store, url.bucket, url.key, url.literal, url.directory) == (None, "b", key, literal, directory)


@pytest.mark.parametrize(
    "text", ["", "/b", "s3:/b/k", "http://b/k", "s3://", "s3:///k", "s3://b//k", "s3://b/../c", "s3://b/./c"]
)
def test_no_url(text: str) -> None:
    """What is no address, or leaves its bucket."""
    with pytest.raises(BadName):
        parse_url(text)


# -- rules ------------------------------------------------------------------------------------------------------------


def test_what_a_container_gets() -> None:
    """A bucket whole, a prefix by components, two stores."""
    assert _plan("--s3 alice-in --s3 ceph:alice-out:rw --s3 lab/users/runs-7/x:rw --s3 archive:cold").stores == (
        Store(
            name="ceph",
            endpoint="https://rgw.test",
            region="us-east-1",
            ca_file="",
            container=(
                BucketGrant(bucket="alice-in", keys=("*",), read_only=True),
                BucketGrant(bucket="alice-out", keys=("*",), read_only=False),
                BucketGrant(bucket="lab", keys=("users/runs-7/x", "users/runs-7/x/*"), read_only=False),
            ),
            staging=(),
        ),
        Store(
            name="archive",
            endpoint="https://archive.test",
            region="us-east-1",
            ca_file="ca-archive.pem",
            container=(BucketGrant(bucket="cold", keys=("*",), read_only=True),),
            staging=(),
        ),
    )


def test_staging_gives_the_container_nothing() -> None:
    """Who stages needs no credentials inside: the worker has its own, for these keys alone."""
    plan = _plan("--stage-in s3://alice-in/d/a*.fq $HOME/in/ --stage-out $TMPDIR/o s3://alice-out/r/ on=always")

    assert plan.stores == (
        Store(
            name="ceph",
            endpoint="https://rgw.test",
            region="us-east-1",
            ca_file="",
            container=(),
            staging=(
                BucketGrant(bucket="alice-in", keys=("d/a*",), read_only=True),
                BucketGrant(bucket="alice-out", keys=("r/*",), read_only=False),
            ),
        ),
    )
    assert plan.stage_in == (
        Stage(store="ceph", bucket="alice-in", key="d/a*.fq", path="/home/alice/in/", where="job.sh:1:9"),
    )
    assert plan.stage_out == (
        Stage(store="ceph", bucket="alice-out", key="r/", path="/tmp/7.vm/o", where="job.sh:1:52", always=True),
    )


ALLOWED = "alice-*:rw, public:ro, lab/users/runs-*:rw, lab/shared:ro"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (
            "--s3 cepf:alice-in",
            "no-such-store",
            "1:9: --s3 cepf:alice-in: there is no store 'cepf'; this site has ceph, archive",
        ),
        (
            "--s3 bob-data",
            "bucket-not-allowed",
            f"1:9: --s3 bob-data: bucket 'bob-data' of store ceph is not open to alice; allowed are {ALLOWED}",
        ),
        (
            "--s3 alice",
            "bucket-not-allowed",
            f"1:9: --s3 alice: bucket 'alice' of store ceph is not open to alice; allowed are {ALLOWED}",
        ),
        (
            "--s3 lab",
            "bucket-not-allowed",
            f"1:9: --s3 lab: bucket 'lab' of store ceph is not open to alice; allowed are {ALLOWED}",
        ),
        (
            "--s3 lab/sharedx",
            "bucket-not-allowed",
            f"1:9: --s3 lab/sharedx: bucket 'lab' below 'sharedx' of store ceph is not open to alice; allowed are {ALLOWED}",
        ),
        (
            "--s3 public:rw",
            "bucket-read-only",
            "1:9: --s3 public:rw: bucket 'public' of store ceph is open to alice for reading only (:ro)",
        ),
        (
            "--stage-out $HOME/x s3://public/x",
            "bucket-read-only",
            "1:9: --stage-out s3://public/x: bucket 'public' below 'x' of store ceph is open to alice for reading only (:ro)",
        ),
        (
            "--stage-in s3://lab/shared* $HOME/x",
            "bucket-not-allowed",
            f"1:9: --stage-in s3://lab/shared*: bucket 'lab' of store ceph is not open to alice; allowed are {ALLOWED}",
        ),
        (
            "--stage-out $HOME/x s3://alice-out/*.x",
            "bad-store-name",
            "1:9: --stage-out 's3://alice-out/*.x' has a wildcard; write the key, or a prefix and /",
        ),
        (
            "--stage-in s3://alice-in/x /nowhere/x",
            "stage-path-not-mounted",
            "1:9: --stage-in path '/nowhere/x' is not in a directory of the host that the container gets; those are"
            " /home/alice, /tmp/7.vm",
        ),
        (
            "--stage-in s3://alice-in/x /dev/shm/x",
            "stage-path-not-mounted",
            "1:9: --stage-in path '/dev/shm/x' is not in a directory of the host that the container gets; those are"
            " /home/alice, /tmp/7.vm",
        ),
        (
            "--tmpfs /home/alice/m --stage-in s3://alice-in/x $HOME/m/x",
            "stage-path-not-mounted",
            "1:31: --stage-in path '/home/alice/m/x' is not in a directory of the host that the container gets; those are"
            " /home/alice, /tmp/7.vm",
        ),
        (
            "-v /ref:/ref:ro --stage-in s3://alice-in/x /ref/x",
            "mount-read-only",
            "1:25: --stage-in path '/ref/x' is in /ref, which is mounted for reading only",
        ),
    ],
)
def test_refusal(text: str, code: str, says: str) -> None:
    """Place, value, what is allowed."""
    assert _refusal(text) == (code, f"job.sh:{says}")


def test_override_decides_for_its_users() -> None:
    """An override's rules replace the store's; the other store's stay."""
    assert _refusal("--s3 bob-data:rw", user="bob")[0] == "bucket-read-only"
    assert _refusal("--s3 bob-other", user="bob")[1].endswith("allowed are bob-data:ro")
    assert _plan("--s3 archive:cold", user="bob").stores[0].name == "archive"


@pytest.mark.parametrize("user", ["*", "?lice", "[a]lice", "al*ce"])
def test_a_users_name_is_no_pattern(user: str) -> None:
    """Whatever characters a user's name has, they stand for themselves."""
    assert _refusal("--s3 alice-in", user=user)[0] == "bucket-not-allowed"


def test_too_much_for_one_session() -> None:
    """Told before anything is minted."""
    text = " ".join(f"--s3 alice-bucket-of-a-rather-long-name-{number}:rw" for number in range(20))
    code, sentence = _refusal(text)

    assert code == "store-policy-too-long"
    assert "and the gateway takes 2048; name fewer buckets" in sentence


# -- the document -----------------------------------------------------------------------------------------------------


def _allows(text: str, action: str, resource: str, prefix: str | None = None) -> bool:
    """Evaluate a document the way the gateway does: an Allow that fits in action, resource and condition."""
    for one in json.loads(text)["Statement"]:
        actions, resources = (
            value if isinstance(value, list) else [value] for value in (one["Action"], one["Resource"])
        )
        if action not in actions or not any(fnmatch.fnmatchcase(resource, each) for each in resources):
            continue
        wanted = one.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        if wanted is None:
            return True
        patterns = wanted if isinstance(wanted, list) else [wanted]
        if prefix is not None and any(fnmatch.fnmatchcase(prefix, each) for each in patterns):
            return True
    return False


NAMES = st.text(st.sampled_from("ab-"), min_size=1, max_size=3)
KEYS = st.lists(NAMES, max_size=3).map("/".join)


@given(bucket=NAMES, prefix=KEYS, read_only=st.booleans(), other=NAMES, key=KEYS.filter(bool))
def test_document_allows_what_was_granted_and_nothing_else(
    bucket: str, prefix: str, read_only: bool, other: str, key: str
) -> None:
    """Reading, writing and listing, for any bucket and key."""
    keys = (prefix, f"{prefix}/*") if prefix else ("*",)
    text = document([BucketGrant(bucket=bucket, keys=keys, read_only=read_only)])
    inside = other == bucket and (not prefix or key == prefix or key.startswith(f"{prefix}/"))
    arn = f"arn:aws:s3:::{other}"

    assert _allows(text, "s3:GetObject", f"{arn}/{key}") is inside
    assert _allows(text, "s3:PutObject", f"{arn}/{key}") is (inside and not read_only)
    assert _allows(text, "s3:DeleteObject", f"{arn}/{key}") is (inside and not read_only)
    assert _allows(text, "s3:ListBucket", arn, prefix=key) is inside
    assert _allows(text, "s3:ListBucket", arn, prefix=None) is (other == bucket and not prefix)
    for action in ("s3:CreateBucket", "s3:DeleteBucket", "s3:PutBucketPolicy", "s3:PutObjectAcl", "s3:PutBucketAcl"):
        assert not _allows(text, action, arn)
        assert not _allows(text, action, f"{arn}/{key}")


def test_absent_objects_are_told_where_there_is_room() -> None:
    """By a statement that no listing meets, for the buckets of a prefix alone; it never costs a job its policy."""
    part = BucketGrant(bucket="b", keys=("x", "x/*"), read_only=True)
    whole = BucketGrant(bucket="c", keys=("*",), read_only=True)
    plain = json.loads(document([part, whole]))["Statement"]
    more = json.loads(document([part, whole], absent=True))["Statement"]

    assert more[:-1] == plain
    assert more[-1] == {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": "arn:aws:s3:::b",
        "Condition": {"Null": {"s3:prefix": "true", "s3:max-keys": "true"}},
    }
    assert document([whole], absent=True) == document([whole])
    many = [BucketGrant(bucket=f"b{number:03}", keys=("x" * 20,), read_only=True) for number in range(20)]
    assert len(document(many)) <= 2048
    assert document(many, absent=True) == document(many)


def test_document_has_no_blank() -> None:
    """Ceph 16 would read a blank in a form body as a plus."""
    assert " " not in document([BucketGrant(bucket="b", keys=("x", "x/*"), read_only=False)])
