"""T15, T16: what a job holds cannot do what the node can, and the node's own key is out of its reach."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.conftest import USERS, wait_until
from tests.s3.site import Site
from tests.s3.test_jobs import _keys

pytestmark = pytest.mark.engine
_ADMIN = (
    "/admin/user?uid=alice",
    "/admin/user?list",
    "/admin/metadata/user",
    "/admin/bucket?uid=alice",
    "/admin/usage",
    "/admin/info",
)


def _status(endpoint: str, path: str, keys: dict[str, str], body: str = "") -> int:
    credentials = Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"], keys.get("aws_session_token"))
    request = AWSRequest(
        method="POST" if body else "GET",
        url=endpoint + path,
        data=body or None,
        headers={"Content-Type": "application/x-www-form-urlencoded"} if body else {},
    )
    SigV4Auth(credentials, "iam" if body else "s3", "us-east-1").add_auth(request)
    prepared = request.prepare()
    real = urllib.request.Request(
        prepared.url, data=body.encode() or None, headers=dict(prepared.headers), method=prepared.method
    )
    try:
        with urllib.request.urlopen(real, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.threat(15)
@pytest.mark.parametrize("kind", ["ceph", "keys"])
def test_a_jobs_key_administers_nothing(site: Site, kind: str) -> None:
    """Neither the admin API nor roles, whichever kind of credential it is."""
    trial = site.instance.begin(
        site.script(f"--s3 {kind}:alice-in", "cat $AWS_SHARED_CREDENTIALS_FILE; echo ready; sleep 60")
    )
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    keys = _keys(trial.out_path.read_text())
    endpoint = site.store.gateway.endpoint
    admin = {path: _status(endpoint, path, keys) for path in _ADMIN}
    roles = {
        action: _status(endpoint, "/", keys, f"Action={action}&RoleName=x&Version=2010-05-08")
        for action in ("ListRoles", "DeleteRole", "GetRole")
    }
    trial.qdel()
    trial.finish(trial.wait())

    assert {one for one in admin.values() if one < 400} == set(), admin
    assert {one for one in roles.values() if one < 400} == set(), roles


def test_the_nodes_identity_cannot_be_read(site: Site) -> None:
    """Not by a user on the node, not by a mount, not from a container."""
    for file in (site.store.role_identity, site.store.key_identity):
        assert file.stat().st_mode & 0o077 == 0
        done = subprocess.run(
            ["cat", str(file)], user=USERS[0], group=USERS[0], extra_groups=[], capture_output=True, check=False
        )
        assert done.returncode != 0
        refused = site.run(f"-v {file}:/identity", "cat /identity")
        assert (refused.exit_status, refused.stdout) == (125, b"")
        inside = site.run("--s3 alice-in", f"cat {file} 2>/dev/null; env | grep -c {file.name}; true")
        assert inside.stdout == b"0\n"
