"""Object-store credentials of a job on two nodes: each node has its own, and nothing of them outlives the job."""

from __future__ import annotations

import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import HOST_IMAGE, wait_until
from tests.s3.conftest import Store, store  # noqa: F401 - a fixture
from tests.s3.site import TOOLS, config
from tests.support.sisters import Site

pytestmark = pytest.mark.engine


def _status(gateway: Any, keys: dict[str, str]) -> int:
    client = gateway.client(keys["aws_access_key_id"], keys["aws_secret_access_key"], keys["aws_session_token"])
    try:
        client.get_object(Bucket="alice-in", Key="x/1")
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return 200


def test_each_node_has_its_own_session(site: Site, store: Store) -> None:  # noqa: F811 - the fixture
    """Minted there, so that no secret travels; both work on both nodes, and neither a second after the job."""
    site.configure(config(store))
    sister = site.cluster.sister
    assert sister.emulated is not None
    sister.emulated.forward(int(store.gateway.endpoint.rpartition(":")[2]))
    body = "pbsdsh -o /bin/cat /run/pbsdock/s3/credentials; touch ~/there; sleep 60"
    directive = f"#DOCKER {HOST_IMAGE} {TOOLS}\n#DOCKER --s3 alice-in:ro"
    job = site.cluster.begin(site.script(body, directive), "nodes=1+n2")
    site.flags("there")
    said = job.out_path.read_text()
    found = [dict(re.findall(r"^(aws_\w+) = (.+)$", part, re.MULTILINE)) for part in said.split("[default]")[1:]]
    roles = store.roles()
    during = [_status(store.gateway, keys) for keys in found]
    job.qdel()
    job.result()
    wait_until("the roles are gone", lambda: store.roles() == [], 20)

    assert len({keys["aws_access_key_id"] for keys in found}) == 2, said
    assert len(roles) == 2
    assert during == [200, 200]
    assert [_status(store.gateway, keys) for keys in found] == [403, 403]
