"""The policy document that confines a job's credentials to what it asked for. Pure.

Compact JSON: a gateway takes at most 2,048 characters of session policy, and Ceph 16 does not decode a ``+`` in a form
body as a blank, so there must be none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pbsdock.core.plan import BucketGrant

SHARE_SID = "pbsdock-owner"
LIMIT = 2048  # characters of a session policy (AWS STS API, AssumeRole; Ceph has the same limit)
_READ = ("s3:GetObject", "s3:GetObjectVersion")
_WRITE = ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
_SHARE = ("s3:GetBucketAcl", "s3:GetBucketPolicy", "s3:PutBucketPolicy")
_BUCKET_READ = ("s3:GetBucketLocation",)
_BUCKET_WRITE = ("s3:GetBucketLocation", "s3:ListBucketMultipartUploads")


def document(grants: Sequence[BucketGrant], share: Iterable[str] = (), *, absent: bool = False) -> str:
    """The policy that allows *grants* and nothing else; *share* are buckets whose own policy may be set.

    With *absent* a gateway of before 2026 answers 404 for an object that is not there, as long as there is room.
    """
    statements = _statements(grants, share)
    made = _compact(statements)
    if absent and (more := _absent(grants)):
        longer = _compact([*statements, more])
        return longer if len(longer) <= LIMIT else made
    return made


def _compact(statements: Sequence[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"), ensure_ascii=False)


def _absent(grants: Sequence[BucketGrant]) -> dict[str, Any] | None:
    """Lets a HEAD or GET of an object that is not there below a prefix be answered by 404 instead of 403.

    The gateway wants ``s3:ListBucket`` for that. Newer ones set ``s3:prefix`` to the object's name (ceph/ceph#68577),
    so that the statement for listing applies and this one does not. Ceph 16 sets neither of the two keys then, and
    ``s3:max-keys`` for each listing (measured): this statement opens none. What it lets Ceph 16 tell is whether a name
    outside the prefix exists (403 or 404), as there is no condition on the name.
    """
    buckets = dict.fromkeys(_arn(grant.bucket) for grant in grants if grant.keys != ("*",))
    if not buckets:
        return None
    condition = {"Null": {"s3:prefix": "true", "s3:max-keys": "true"}}
    return {**_allow(("s3:ListBucket",), buckets), "Condition": condition}


def _statements(grants: Sequence[BucketGrant], share: Iterable[str]) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = [_allow(_SHARE, dict.fromkeys(map(_arn, share)))] if share else []
    listed: dict[tuple[str, ...], list[str]] = {}
    for read_only in (True, False):
        mine = [grant for grant in grants if grant.read_only is read_only]
        if not mine:
            continue
        objects = _READ if read_only else (*_READ, *_WRITE)
        buckets = _BUCKET_READ if read_only else _BUCKET_WRITE
        keys = dict.fromkeys(f"{_arn(grant.bucket)}/{key}" for grant in mine for key in grant.keys)
        if not read_only:
            # Ceph 16 judges a deletion of several objects at once by the bucket alone, so it is open to those only who
            # have the whole bucket.
            keys |= dict.fromkeys(_arn(grant.bucket) for grant in mine if grant.keys == ("*",))
        statements.append(_allow(objects, keys))
        statements.append(_allow(buckets, dict.fromkeys(_arn(grant.bucket) for grant in mine)))
        for grant in mine:
            listed.setdefault(grant.keys, []).append(_arn(grant.bucket))
    for keys_listed, arns in listed.items():
        statement = _allow(("s3:ListBucket",), dict.fromkeys(arns))
        if keys_listed != ("*",):
            statement["Condition"] = {"StringLike": {"s3:prefix": _one_or_all(list(keys_listed))}}
        statements.append(statement)
    return statements


def shared(policy: str | None, bucket: str, owner: str) -> str | None:
    """A bucket's policy with a statement that opens what is written into it to its owner; None if it has that already.

    Objects belong to whose key wrote them, here the gateway user of a node or of a job (observed with Ceph 16), and
    the bucket's owner could not read them. Raises ValueError if *policy* is not one.
    """
    data = json.loads(policy) if policy else {"Version": "2012-10-17", "Statement": []}
    if not isinstance(data, dict) or not isinstance(data.get("Statement"), list | dict):
        raise ValueError("it has no statements")
    tenant, dollar, name = owner.rpartition("$")
    statement = {
        "Sid": SHARE_SID,
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam::{tenant if dollar else ''}:user/{name}"]},
        "Action": "s3:*",
        "Resource": [f"{_arn(bucket)}/*"],
    }
    present = data["Statement"] if isinstance(data["Statement"], list) else [data["Statement"]]
    if statement in present:
        return None
    kept = [entry for entry in present if not isinstance(entry, dict) or entry.get("Sid") != SHARE_SID]
    return json.dumps({**data, "Statement": [*kept, statement]}, separators=(",", ":"))


def _arn(bucket: str) -> str:
    return f"arn:aws:s3:::{bucket}"


def _allow(actions: tuple[str, ...], resources: Iterable[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": _one_or_all(list(actions)), "Resource": _one_or_all(list(resources))}


def _one_or_all(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values
