"""Roles and keys against a real gateway: what they open, what stays closed, and that revoking ends it at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pbsdock.config.tables import StoreConfig
from pbsdock.core.plan import BucketGrant
from pbsdock.core.plan import Store as Asked
from pbsdock.stores.errors import StoreError
from pbsdock.stores.make import minter_of
from pbsdock.stores.rgw import Gateway
from pbsdock.stores.secret import Minter, Secret, incarnation_of, name_of
from tests.s3.conftest import Store

OWNER = "instance-1@node1"
INCARNATION = "6b0517b7cafe0123"
ASKED = Asked(
    name="ceph",
    endpoint="",
    region="us-east-1",
    ca_file="",
    container=(
        BucketGrant(bucket="alice-in", keys=("x", "x/*"), read_only=True),
        BucketGrant(bucket="alice-out", keys=("*",), read_only=False),
    ),
    staging=(BucketGrant(bucket="alice-in", keys=("y", "y/*"), read_only=True),),
)


def _settings(store: Store, kind: str, **changes: Any) -> StoreConfig:
    identity = store.role_identity if kind == "role" else store.key_identity
    settings = StoreConfig(endpoint=store.gateway.endpoint, identity=str(identity), lifetime_s=900, kind=kind)  # type: ignore[arg-type]  # parametrized
    return replace(settings, **changes)


def _minter(store: Store, kind: str, **changes: Any) -> Minter:
    settings = _settings(store, kind, **changes)
    return minter_of(
        Gateway("ceph", settings), settings, OWNER, lambda bucket, reason: pytest.fail(f"{bucket}: {reason}")
    )


@pytest.fixture(params=["role", "key"])
def minted(store: Store, request: pytest.FixtureRequest) -> Iterator[tuple[Minter, str, Any, str]]:
    """A minter, the name, and a client with what a container would get."""
    minter, name = _minter(store, request.param), name_of(OWNER, INCARNATION, "ceph")
    secret = minter.mint(name, "1.vm", ASKED, 900)
    assert secret is not None
    yield minter, name, _client(store, secret), request.param
    minter.revoke(name)


def _client(store: Store, secret: Secret) -> Any:
    return store.gateway.client(secret.access_key, secret.secret_key, secret.token)


def _status(act: Callable[[], Any]) -> int:
    try:
        return int(act()["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


@pytest.mark.threat(15)
def test_what_is_open_and_what_is_closed(store: Store, minted: tuple[Minter, str, Any, str]) -> None:
    """The prefix for reading, the bucket for everything a job does in it, and nothing else at all."""
    _, _, client, kind = minted
    open_ = {
        "get": lambda: client.get_object(Bucket="alice-in", Key="x/1"),
        "head": lambda: client.head_object(Bucket="alice-in", Key="x/1"),
        "list": lambda: client.list_objects_v2(Bucket="alice-in", Prefix="x/"),
        "location": lambda: client.get_bucket_location(Bucket="alice-in"),
        "put": lambda: client.put_object(Bucket="alice-out", Key="r/1", Body=b"r"),
        "copy": lambda: client.copy_object(Bucket="alice-out", Key="r/2", CopySource="alice-in/x/1"),
        "list all": lambda: client.list_objects_v2(Bucket="alice-out"),
        "delete": lambda: client.delete_object(Bucket="alice-out", Key="r/2"),
        "delete several": lambda: client.delete_objects(Bucket="alice-out", Delete={"Objects": [{"Key": "r/2"}]}),
    }
    closed = {
        "write where reading": lambda: client.put_object(Bucket="alice-in", Key="x/9", Body=b""),
        "list beside": lambda: client.list_objects_v2(Bucket="alice-in", Prefix="z/"),
        "list above": lambda: client.list_objects_v2(Bucket="alice-in"),
        "delete where reading": lambda: client.delete_object(Bucket="alice-in", Key="x/1"),
        "another bucket": lambda: client.get_object(Bucket="bob-data", Key="x/1"),
        "list another": lambda: client.list_objects_v2(Bucket="bob-data"),
        "copy from another": lambda: client.copy_object(Bucket="alice-out", Key="b", CopySource="bob-data/x/1"),
        "make a bucket": lambda: client.create_bucket(Bucket="alice-new"),
        "bucket's policy": lambda: client.put_bucket_policy(Bucket="alice-out", Policy="{}"),
        "read the policy": lambda: client.get_bucket_policy(Bucket="alice-out"),
        "bucket's acl": lambda: client.put_bucket_acl(Bucket="alice-out", ACL="public-read"),
        "object's acl": lambda: client.put_object_acl(Bucket="alice-out", Key="x/1", ACL="public-read"),
        "delete the bucket": lambda: client.delete_bucket(Bucket="alice-out"),
    }
    if kind == "role":  # a key cannot tell the container from the staging worker
        closed["what is only staged"] = lambda: client.get_object(Bucket="alice-in", Key="y/1")

    assert {name: _status(act) for name, act in open_.items() if _status(act) >= 300} == {}
    assert {name: _status(act) for name, act in closed.items() if _status(act) != 403} == {}


@pytest.mark.threat(15)
def test_what_is_not_there_below_a_prefix(store: Store, minted: tuple[Minter, str, Any, str]) -> None:
    """404, as clients expect that ask before they write; nothing else is opened by that, listing least of all."""
    _, _, client, kind = minted
    store.alice.put_object(Bucket="alice-in", Key="z/1", Body=b"")
    absent = {
        "head": lambda: client.head_object(Bucket="alice-in", Key="x/9"),
        "get": lambda: client.get_object(Bucket="alice-in", Key="x/9"),
        "head, whole bucket": lambda: client.head_object(Bucket="alice-out", Key="x/9"),
    }
    closed = {
        "what is there beside": lambda: client.head_object(Bucket="alice-in", Key="z/1"),
        "another bucket": lambda: client.head_object(Bucket="bob-data", Key="x/9"),
        "list all": lambda: client.list_objects_v2(Bucket="alice-in"),
        "list all, the old way": lambda: client.list_objects(Bucket="alice-in"),
        "list all by a delimiter": lambda: client.list_objects_v2(Bucket="alice-in", Delimiter="/"),
        "list none": lambda: client.list_objects_v2(Bucket="alice-in", MaxKeys=0),
        "list by an empty prefix": lambda: client.list_objects_v2(Bucket="alice-in", Prefix=""),
        "list beside": lambda: client.list_objects_v2(Bucket="alice-in", Prefix="z"),
        "versions": lambda: client.list_object_versions(Bucket="alice-in"),
        "uploads": lambda: client.list_multipart_uploads(Bucket="alice-in"),
    }
    if kind == "role":
        closed["the bucket's size"] = lambda: client.head_bucket(Bucket="alice-in")

    assert {name: status for name, act in absent.items() if (status := _status(act)) != 404} == {}
    assert {name: status for name, act in closed.items() if (status := _status(act)) != 403} == {}


def test_owner_of_the_bucket_reads_what_a_job_wrote(store: Store, minted: tuple[Minter, str, Any, str]) -> None:
    """Although it belongs to another user of the gateway, also when that user is long gone."""
    minter, name, client, _kind = minted
    client.put_object(Bucket="alice-out", Key="result", Body=b"42")
    assert store.alice.get_object(Bucket="alice-out", Key="result")["Body"].read() == b"42"
    assert _status(lambda: store.bob.get_object(Bucket="alice-out", Key="result")) == 403

    minter.revoke(name)
    assert store.alice.get_object(Bucket="alice-out", Key="result")["Body"].read() == b"42"


@pytest.mark.threat(15)
def test_revoked_at_once_and_again(store: Store, minted: tuple[Minter, str, Any, str]) -> None:
    """The very next request is denied, nothing is left at the gateway, and revoking twice is no error."""
    minter, name, client, _kind = minted
    assert _status(lambda: client.get_object(Bucket="alice-in", Key="x/1")) == 200
    assert minter.mine(OWNER) == [name]

    minter.revoke(name)
    assert _status(lambda: client.get_object(Bucket="alice-in", Key="x/1")) == 403
    minter.revoke(name)
    assert minter.mine(OWNER) == []
    assert name not in store.roles() + store.users()


def test_minting_twice_and_again(store: Store, minted: tuple[Minter, str, Any, str]) -> None:
    """An agent that was killed between two steps mints over what is there; a second session does not end the first."""
    minter, name, first, _kind = minted
    second = minter.mint(name, "1.vm", ASKED, 900)
    third = minter.again(name, "1.vm", ASKED, 900)
    assert second is not None
    assert third is not None
    for client in (first, _client(store, second), _client(store, third)):
        assert _status(lambda client=client: client.get_object(Bucket="alice-in", Key="x/1")) == 200

    minter.revoke(name)
    anew = minter.again(name, "1.vm", ASKED, 900)
    assert anew is not None
    assert _status(lambda: _client(store, anew).get_object(Bucket="alice-in", Key="x/1")) == 200


def test_staging_has_its_own(store: Store, minted: tuple[Minter, str, Any, str]) -> None:
    """The worker reads what is staged; of a role, nothing else."""
    minter, name, _, kind = minted
    client = _client(store, minter.staging(name, "1.vm", ASKED, 900))

    assert _status(lambda: client.get_object(Bucket="alice-in", Key="y/1")) == 200
    assert _status(lambda: client.get_object(Bucket="alice-in", Key="x/1")) == (403 if kind == "role" else 200)


@pytest.mark.threat(16)
def test_nodes_do_not_see_each_other(store: Store, minted: tuple[Minter, str, Any, str]) -> None:
    """What another node has made is not listed, and a name of another store is not taken for ours."""
    minter, name, _, kind = minted
    assert minter.mine("instance-1@node2") == []
    assert incarnation_of(name, OWNER, "ceph") == INCARNATION
    assert incarnation_of(name, OWNER, "archive") is None
    assert incarnation_of(name, "instance-1@node2", "ceph") is None
    assert kind


def test_many_at_once(store: Store) -> None:
    """32 jobs mint, use and end theirs beside each other."""
    minter = _minter(store, "role")
    statuses: list[int] = []

    def one(number: int) -> None:
        name = name_of(OWNER, f"6b0517b7{number:08x}", "ceph")
        secret = minter.mint(name, f"{number}.vm", ASKED, 900)
        assert secret is not None
        statuses.append(_status(lambda: _client(store, secret).get_object(Bucket="alice-in", Key="x/1")))
        minter.revoke(name)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 32
    assert minter.mine(OWNER) == []


# -- what goes wrong --------------------------------------------------------------------------------------------------


def _fails(minter: Minter) -> tuple[str, str]:
    with pytest.raises(StoreError) as caught:
        minter.mint(name_of(OWNER, INCARNATION, "ceph"), "1.vm", ASKED, 900)
    return caught.value.code, caught.value.sentence


def test_gateway_down_hung_and_unknown(store: Store) -> None:
    """Each has its sentence within the deadline, and none quotes a key."""
    down = _minter(store, "role", endpoint="http://127.0.0.1:9")
    hung = _minter(store, "role", timeout_s=0.5)
    strange = _minter(store, "role", endpoint=store.gateway.tls_endpoint)
    known = _minter(store, "role", endpoint=store.gateway.tls_endpoint, ca_bundle=str(store.gateway.root / "cert.pem"))

    assert _fails(down) == ("store-unreachable", "object store ceph: http://127.0.0.1:9 cannot be reached (CreateRole)")
    store.gateway.freeze()
    try:
        assert _fails(hung) == (
            "store-too-slow",
            f"object store ceph: {store.gateway.endpoint} gave no answer within 0.5 s (CreateRole)",
        )
    finally:
        store.gateway.thaw()
    assert _fails(strange) == (
        "store-certificate",
        f"object store ceph: the certificate of {store.gateway.tls_endpoint} is not known here; see s3.ceph.ca_bundle",
    )
    name = name_of(OWNER, INCARNATION, "ceph")
    assert known.mint(name, "1.vm", ASKED, 900) is not None
    known.revoke(name)


def test_clock_that_is_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes are within what the gateway takes, and not within what the site does. The clock here is a fake."""
    import time

    minter, now = _minter(store, "role"), time.time
    monkeypatch.setattr("pbsdock.stores.rgw.time.time", lambda: now() + 600)
    code, sentence = _fails(minter)
    monkeypatch.undo()
    minter.revoke(name_of(OWNER, INCARNATION, "ceph"))

    assert code == "store-clock"
    assert "the clocks of this node and of the gateway differ by " in sentence
    assert sentence.endswith("300 s are allowed (s3.ceph.skew_s)")


@pytest.mark.threat(16)
@pytest.mark.parametrize(
    ("mode", "text", "code", "says"),
    [
        (0o640, None, "identity-unsafe", "can be read by others than root; use chmod 600"),
        (0o600, "access_key = 3", "identity-unreadable", "has to hold exactly the texts user, access_key, secret_key"),
        (0o600, "not toml: SECRET", "identity-unreadable", "is not TOML with user, access_key, secret_key"),
        (
            0o600,
            'user = "u"\naccess_key = "NOSUCHKEY"\nsecret_key = "x"\n',
            "identity-not-allowed",
            "the node's own user may not do CreateRole (AccessDenied); see the storage admin's page",
        ),
    ],
)
def test_identity_that_cannot_be_used(
    store: Store, tmp_path_factory: pytest.TempPathFactory, mode: int, text: str | None, code: str, says: str
) -> None:
    """Too open, no TOML, unknown to the gateway: told, and nothing of the file is quoted."""
    file = Path(store.gateway.root) / "other.toml"
    file.write_text(text if text is not None else store.role_identity.read_text())
    file.chmod(mode)
    try:
        found = _fails(_minter(store, "role", identity=str(file)))
    finally:
        file.unlink()
    assert found[0] == code
    assert found[1].endswith(says)
    assert "SECRET" not in found[1]


def test_no_identity(store: Store) -> None:
    """A file that is not there."""
    code, sentence = _fails(_minter(store, "role", identity="/nonexistent/identity.toml"))
    assert (code, sentence) == (
        "identity-unreadable",
        "object store ceph: /nonexistent/identity.toml cannot be read: No such file or directory",
    )
