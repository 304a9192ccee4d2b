"""Jobs with object-store credentials, through the hooks, an engine and a gateway that are all real.

The containers see this host's /usr, so that its own clients can be tried in them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import HOST_IMAGE, USERS, wait_until
from tests.s3.conftest import Store
from tests.s3.site import AWS, Site, config

pytestmark = pytest.mark.engine


def _keys(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(aws_\w+) = (.+)$", text, re.MULTILINE))


def _files(top: Path) -> Iterator[Path]:
    """Of a tree in which others make and remove some meanwhile."""
    for directory, _, names in os.walk(top):
        yield from (Path(directory, name) for name in names)


def _denied(client: Any, bucket: str, key: str) -> int:
    try:
        client.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return 200


BOTO = """
import boto3
from botocore.exceptions import ClientError
s3 = boto3.client("s3")
print(s3.get_object(Bucket="alice-in", Key="x/1")["Body"].read().decode().strip())
s3.put_object(Bucket="alice-out", Key="from-boto3", Body=b"1")
try:
    s3.get_object(Bucket="bob-data", Key="x/1")
except ClientError as error:
    print(error.response["Error"]["Code"])
"""

CLIENTS = {
    "boto3": (f"/usr/bin/python3 -c '{BOTO}'", "alice-in x/1\nAccessDenied\n"),
    "aws": (
        f"/usr/bin/python3 {AWS} s3 cp --only-show-errors s3://alice-in/x/1 /tmp/a && cat /tmp/a &&"
        f" /usr/bin/python3 {AWS} s3 cp --only-show-errors /tmp/a s3://alice-out/from-aws;"
        f" /usr/bin/python3 {AWS} s3 ls s3://bob-data 2>/dev/null || echo denied",
        "alice-in x/1\ndenied\n",
    ),
    "s3cmd": (
        "s3cmd -q get s3://alice-in/x/1 /tmp/b 2>/dev/null && cat /tmp/b &&"
        " s3cmd -q put /tmp/b s3://alice-out/from-s3cmd 2>/dev/null; s3cmd ls s3://bob-data 2>/dev/null || echo denied",
        "alice-in x/1\ndenied\n",
    ),
    "rclone": (
        "rclone copy STORE:alice-in/x/1 /tmp/c && cat /tmp/c/1 && rclone copyto /tmp/c/1 STORE:alice-out/from-rclone;"
        " rclone lsf STORE:bob-data >/dev/null 2>&1 || echo denied",
        "alice-in x/1\ndenied\n",
    ),
}


@pytest.mark.parametrize("store_name", ["ceph", "keys"])
@pytest.mark.parametrize("client", CLIENTS)
def test_clients_without_arguments(site: Site, client: str, store_name: str) -> None:
    """Each client reads, writes and is denied without a single argument about the store."""
    command, expected = CLIENTS[client]
    options = (
        f"--s3 {store_name}:alice-in:ro --s3 {store_name}:alice-out:rw -v {Path(AWS).parent}:{Path(AWS).parent}:ro"
    )
    done = site.run(options, command.replace("STORE", store_name))

    assert (done.stdout.decode(), done.stderr.decode(), done.exit_status) == (expected, "", 0)
    assert site.store.alice.get_object(Bucket="alice-out", Key=f"from-{client}")["Body"].read()


def test_container_that_the_job_starts_itself(site: Site) -> None:
    """The old script's docker run, without a key in it: its clients have what the job's line has asked for."""
    command, expected = CLIENTS["s3cmd"]
    tools = "-v /usr:/usr:ro -v /site:/site:ro -e PYTHONPATH=/site -e PATH=/usr/bin:/bin"  # as the job's own has them
    done = site.run(
        "--s3 ceph:alice-in:ro --s3 ceph:alice-out:rw",
        f"JOB=$(docker run --rm {tools} {HOST_IMAGE} /bin/sh -c '{command}')\necho \"$JOB\"",
    )

    assert (done.stdout.decode(), done.stderr.decode(), done.exit_status) == (expected, "", 0)
    assert site.store.alice.get_object(Bucket="alice-out", Key="from-s3cmd")["Body"].read()


@pytest.mark.threat(15)
def test_credentials_die_with_the_job(site: Site) -> None:
    """They work for the job, and not one second after its epilogue; nobody but its user could read them."""
    trial = site.instance.begin(
        site.script(
            "--s3 alice-in --s3 alice-out:rw",
            "cat $AWS_SHARED_CREDENTIALS_FILE; stat -c '%a %U' /run/pbsdock/s3"
            " /run/pbsdock/s3/credentials; touch /run/pbsdock/s3/x; echo done; sleep 60",
        )
    )
    wait_until("the script runs", lambda: b"done" in trial.out_path.read_bytes())
    said = trial.out_path.read_text()
    keys = _keys(said)
    client = site.store.gateway.client(
        keys["aws_access_key_id"], keys["aws_secret_access_key"], keys["aws_session_token"]
    )
    during = _denied(client, "alice-in", "x/1")
    elsewhere = _denied(client, "bob-data", "x/1")
    host = next(site.instance.run_dir.glob("work/*/s3"))
    other = subprocess.run(["cat", f"{host}/credentials"], user=USERS[1], capture_output=True, check=False)
    trial.qdel()
    trial.finish(trial.wait())

    assert (during, elsewhere, _denied(client, "alice-in", "x/1")) == (200, 403, 403)
    assert f"500 {USERS[0]}\n400 {USERS[0]}\n" in said
    assert "Read-only file system" in trial.err_path.read_text() if trial.err_path.exists() else True
    assert other.returncode != 0
    assert site.left() == []


@pytest.mark.threat(12)
def test_environment_has_no_key_and_takes_none(site: Site) -> None:
    """Paths and addresses only; what the job's own environment has of another store does not get in the way."""
    done = site.run(
        "--s3 alice-in",
        "env | grep -E '^(AWS|S3CMD|RCLONE)_' | sort",
        variables={"AWS_ACCESS_KEY_ID": "WRONG", "AWS_SECRET_ACCESS_KEY": "wrong", "AWS_PROFILE": "none"},
    )
    assert done.stdout.decode().splitlines() == [
        "AWS_CONFIG_FILE=/run/pbsdock/s3/config",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/run/pbsdock/s3/token",
        f"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:{site.store.port}/",
        "AWS_DEFAULT_REGION=us-east-1",
        "AWS_EC2_METADATA_DISABLED=true",
        f"AWS_ENDPOINT_URL_S3={site.store.gateway.endpoint}",
        "AWS_REGION=us-east-1",
        "AWS_SHARED_CREDENTIALS_FILE=/run/pbsdock/s3/credentials",
        "RCLONE_CONFIG=/run/pbsdock/s3/rclone.conf",
        "S3CMD_CONFIG=/run/pbsdock/s3/s3cfg",
    ]


def test_two_stores_are_two_profiles(site: Site) -> None:
    """The default profile is the site's first store; each has one of its own name."""
    code = (
        "import boto3\n"
        'for name in (None, "ceph", "keys"):\n'
        '    s3 = boto3.Session(profile_name=name).client("s3")\n'
        '    print(s3.get_object(Bucket="alice-in", Key="x/1")["Body"].read().decode().strip())\n'
    )
    done = site.run("--s3 keys:alice-in --s3 ceph:alice-in", f"/usr/bin/python3 -c '{code}'")

    assert done.stdout.decode() == "alice-in x/1\n" * 3, done.stderr


@pytest.mark.threat(15)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            "--s3 bob-data",
            f"bucket 'bob-data' of store ceph is not open to {USERS[0]}; allowed are alice-*:rw, public:ro,"
            f" bob-shared/{USERS[0]}:rw",
        ),
        ("--s3 public:rw", f"bucket 'public' of store ceph is open to {USERS[0]} for reading only (:ro)"),
        ("--s3 nowhere:alice-in", "there is no store 'nowhere'; this site has ceph, keys"),
    ],
)
def test_refused_and_nothing_minted(site: Site, options: str, says: str) -> None:
    """One sentence, 125, and the gateway was not asked."""
    done = site.run(options, "echo never")

    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr.decode().endswith(f"{says}\n")
    assert not [one for one in site.instance.trail(done.job_id) if one["event"].startswith("credentials.")]
    assert site.left() == []


def test_gateway_down(site: Site) -> None:
    """The user is told, the node stays in service, other jobs run on, nothing is left."""
    site.store.gateway.stop_radosgw()
    try:
        done = site.run("--s3 alice-in", "echo never")
        other = site.run("--read-only", "echo other")
    finally:
        site.store.gateway.start_radosgw()

    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr.decode() == (
        f"pbsdock: object store ceph: {site.store.gateway.endpoint} cannot be reached (CreateRole)\n"
    )
    assert other.stdout == b"other\n"
    assert not (site.instance.run_dir / "unhealthy").exists()
    site.instance.command("reap")  # what could not be revoked while the gateway was down


def test_session_is_refreshed(site: Site) -> None:
    """A job longer than its session keeps working: sessions of 60 s, the least this gateway was configured to give,
    and a clock tolerance that makes the refresh due after half of it; the first session is over before the job is."""
    site.instance.configure(config(site.store, extra="lifetime_s = 60\n"))
    body = (
        "first=$(sha256sum < $AWS_SHARED_CREDENTIALS_FILE); s3cmd -q get s3://alice-in/x/1 /tmp/1 2>/dev/null;"
        " cat $AWS_SHARED_CREDENTIALS_FILE >&2; sleep 70; s3cmd -q get s3://alice-in/x/2 /tmp/2 2>/dev/null;"
        ' cat /tmp/1 /tmp/2; [ "$first" = "$(sha256sum < $AWS_SHARED_CREDENTIALS_FILE)" ] || echo fresh'
    )
    done = site.run("--s3 alice-in", body)
    keys = _keys(done.stderr.decode())
    client = site.store.gateway.client(
        keys["aws_access_key_id"], keys["aws_secret_access_key"], keys["aws_session_token"]
    )

    assert done.stdout.decode() == "alice-in x/1\nalice-in x/2\nfresh\n"
    assert _denied(client, "alice-in", "x/1") == 403
    assert len([one for one in site.instance.trail(done.job_id) if one["event"] == "credentials.refreshed"]) >= 1


def test_agent_killed_between_mint_and_delivery(site: Site) -> None:
    """After the prologue the role is there and the files are not: a new agent mints over it and the job runs."""
    from pbsdock.trial import Trial

    # Between its prologue and its .JB nothing but the grace says that the job lives, and an agent takes its time to come.
    site.instance.configure(config(site.store).replace("grace_s = 1\n", "grace_s = 60\n"))
    trial = Trial(site.instance.request(site.script("--s3 alice-in", "cat /run/pbsdock/s3/credentials | grep -c aws_")))
    trial.prepare_files()
    assert trial.prologue() == 0
    wait_until("the role is made", lambda: len(site.store.roles()) == 1)
    site.restart_agent()
    trial.start()
    done = trial.finish(trial.wait())

    assert done.stdout == b"6\n", done.stderr
    assert site.left() == []


def test_agent_killed_and_the_job_gone(site: Site) -> None:
    """One pass of the reaper and the gateway has nothing but what belongs to a live job."""
    from pbsdock.trial import Trial

    lost = Trial(site.instance.request(site.script("--s3 alice-in --s3 keys:alice-out:rw", "true")))
    lost.prepare_files()
    assert lost.prologue() == 0
    live = site.instance.begin(site.script("--s3 alice-in", "echo ready; sleep 60"))
    wait_until("the script runs", lambda: b"ready" in live.out_path.read_bytes())
    wait_until("both are minted", lambda: len(site.store.roles()) == 2 and len(site.store.users()) == 1)
    lost.job_file.unlink(missing_ok=True)
    time.sleep(1.2)
    site.restart_agent()
    site.reap()

    assert len(site.store.roles()) == 1
    assert site.store.users() == []
    live.qdel()
    live.finish(live.wait())


@pytest.mark.threat(15, 20)
def test_ledger_lost(site: Site) -> None:
    """Roles and users of ours that no record knows are found at the gateway; another node's are not touched."""
    from pbsdock.config.tables import StoreConfig
    from pbsdock.core.plan import BucketGrant
    from pbsdock.core.plan import Store as Asked
    from pbsdock.stores.make import minter_of
    from pbsdock.stores.rgw import Gateway
    from pbsdock.stores.secret import name_of

    asked = Asked(
        name="ceph",
        endpoint="",
        region="",
        ca_file="",
        staging=(),
        container=(BucketGrant(bucket="alice-in", keys=("*",), read_only=True),),
    )
    ours, theirs = f"{site.instance.name}@{os.uname().nodename}", f"{site.instance.name}@another-node"
    made = []
    for owner in (ours, theirs):
        for kind, identity in (("role", site.store.role_identity), ("key", site.store.key_identity)):
            settings = StoreConfig(
                endpoint=site.store.gateway.endpoint,
                identity=str(identity),
                share=False,
                kind=kind,
            )
            minter = minter_of(Gateway("x", settings), settings, owner, lambda bucket, reason: None)
            name = name_of(owner, "6b0517b7deadbeef", "ceph" if kind == "role" else "keys")
            minter.mint(name, "9.vm", asked, 900)
            made.append((minter, name))
    site.run("--read-only", "true")
    assert site.instance.left() == []
    site.restart_agent()  # a key store is listed when an agent starts, and then once an hour
    site.reap()
    try:
        assert [one in site.store.roles() + site.store.users() for _, one in made] == [False, False, True, True]
    finally:
        for minter, name in made:
            minter.revoke(name)


def test_doctor(site: Site) -> None:
    """Proves both kinds, and finds a store out that opens too much or does not answer."""
    gateway = site.store.gateway
    text = config(site.store, extra='probe = ["alice-in", "bob-data"]\n', more='probe = ["alice-in", "bob-data"]\n')
    site.instance.configure(text)
    done = site.instance.command("doctor", "s3", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(one["store"], one["step"], one["well"]) for one in json.loads(done.stdout)] == [
        (store, step, True) for store in ("ceph", "keys") for step in ("mint", "open", "closed", "revoke", "revoked")
    ]

    site.instance.configure(text.replace('["alice-in", "bob-data"]', '["alice-in", "alice-in"]'))
    wide = site.instance.command("doctor", "s3", "ceph")
    assert wide.returncode == 1
    assert "NOT ceph closed: listing alice-in: HTTP 200\n" in wide.stdout
    site.instance.configure(text.replace(gateway.endpoint, "http://127.0.0.1:9"))
    down = site.instance.command("doctor", "s3", "keys")
    assert (down.returncode, down.stdout.splitlines()[0]) == (
        1,
        "NOT keys mint: http://127.0.0.1:9 cannot be reached (create a user)",
    )
    assert "there is no store 'cefp'" in site.instance.command("doctor", "s3", "cefp").stderr


ENDPOINT = """
import os, boto3
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = "/dev/null"
session = boto3.Session()
print(session.get_credentials().method)
print(session.client("s3").get_object(Bucket="alice-in", Key="x/1")["Body"].read().decode().strip())
"""


def test_sessions_by_the_endpoint(site: Site) -> None:
    """A client that leaves the files gets its session from the agent, and refreshes it there; a thief of its token gets
    nothing, nor does a job without the host's network hear of it."""
    port = site.store.port
    body = f"/usr/bin/python3 -c '{ENDPOINT}'; cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE; echo; echo $HOME; sleep 60"
    trial = site.instance.begin(site.script("--s3 alice-in", body))
    wait_until("the script runs", lambda: b"/home" in trial.out_path.read_bytes())
    method, read, token = trial.out_path.read_text().split("\n")[:3]
    asked = (
        "import sys, urllib.request as u\n"
        "r = u.Request(sys.argv[1], headers={'Authorization': sys.argv[2]})\n"
        "try: print(sorted(__import__('json').load(u.urlopen(r))))\n"
        "except u.HTTPError as error: print(error.code)\n"
    )

    def ask(user: str, path: str = "", given: str = token) -> str:
        done = subprocess.run(
            ["/usr/bin/python3", "-c", asked, f"http://127.0.0.1:{port}/{path}", given],
            user=user,
            capture_output=True,
            check=True,
            text=True,
        )
        return done.stdout.strip()

    assert (method, read) == ("container-role", "alice-in x/1"), trial.err_path.read_text()
    assert ask(USERS[0]) == "['AccessKeyId', 'Expiration', 'SecretAccessKey', 'Token']"
    assert [
        ask(USERS[1]),
        ask("root"),
        ask(USERS[0], given="x" * 64),
        ask(USERS[0], given=""),
        ask(USERS[0], "keys"),
    ] == [
        "403",
        "403",
        "403",
        "403",
        "404",
    ]
    site.restart_agent()
    wait_until("the new agent offers it", lambda: ask(USERS[0]).startswith("["))
    trial.qdel()
    trial.finish(trial.wait())
    assert ask(USERS[0]) == "403"
    other = site.run("--s3 alice-in --network none", "env | grep -c CONTAINER_CREDENTIALS")
    assert other.stdout == b"0\n"


@pytest.mark.threat(12, 14)
def test_no_key_anywhere(site: Site) -> None:
    """Nothing of the credentials, nor of the node's identities, is in any place that outlives or shows a job."""
    trial = site.instance.begin(
        site.script(
            "--s3 ceph:alice-in --s3 keys:alice-out:rw", "cat $AWS_SHARED_CREDENTIALS_FILE; echo ready; sleep 60"
        )
    )
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    canaries = [one.encode() for one in re.findall(r"= (\S{12,})$", trial.out_path.read_text(), re.MULTILINE)]
    assert len(canaries) >= 5
    for identity in (site.store.role_identity, site.store.key_identity):
        canaries += [one.encode() for one in re.findall(r'key = "(\S+)"', identity.read_text())]

    found = []
    events = site.instance.events(trial.job_id)  # another instance of the host may have a job of the same id
    container = next(event["container"] for event in events if event["event"] == "job.started")
    inspected = subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
    history = subprocess.run(["docker", "history", "--no-trunc", HOST_IMAGE], capture_output=True, check=True).stdout
    found += [f"inspect {one!r}" for one in canaries if one in inspected + history]
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline"):
            try:
                text = (process / name).read_bytes()
            except OSError:
                continue
            found += [f"{process / name}" for one in canaries if one in text]
    for pid in site.instance.agent_pids():
        assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())
    trial.qdel()
    trial.finish(trial.wait())
    for path in (*_files(site.instance.root), *(path for path in _files(Path("/tmp")) if "pbsdock" in path.name)):
        with suppress(FileNotFoundError):  # of a test beside this one
            if path.is_file() and not path.is_symlink() and path != trial.out_path:
                text = path.read_bytes()
                found += [str(path) for one in canaries if one in text]

    assert found == []


@pytest.mark.threat(14)
def test_unforeseen_error_is_redacted(store: Store, tmp_path: Path) -> None:
    """An exception that quotes the signed request reaches neither the stream nor the user with a key in it."""
    from pbsdock.core.redact import known
    from pbsdock.events.stream import EventStream
    from pbsdock.stores import identity

    who = identity.load("ceph", store.role_identity)
    stream = EventStream(tmp_path / "events.jsonl", node="n")
    stream.emit(
        "agent.error", where="connection", reason=f"HTTPError('Authorization: {who.access_key} {who.secret_key}')"
    )

    text = (tmp_path / "events.jsonl").read_text()
    assert "[redacted] [redacted]" in text
    assert who.secret_key not in text
    assert who.secret_key not in known.clean(f"x {who.secret_key} y")
