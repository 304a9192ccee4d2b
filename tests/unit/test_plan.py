"""The plan: frozen, serialisable, versioned; what it writes to the ledger is an interface."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from pbsdock.core.plan import BucketGrant, Device, Limits, Mount, Plan, Stage, Store, Tmpfs

PLAN = Plan(
    job_id="16[0].vm",
    user="alice",
    group="users",
    uid=2001,
    gid=100,
    groups=(3001, 3002),
    home="/home/alice",
    queue="batch",
    image="docker.io/library/busybox:1",
    pull="missing",
    platform="linux/amd64",
    limits=Limits(
        memory_bytes=1 << 30, memory_swap_bytes=2 << 30, cpu_millis=2000, cpuset="0-1", pids=4096, shm_bytes=64 << 20
    ),
    network="host",
    mounts=(
        Mount(source="/home/alice", target="/home/alice", read_only=False, origin="home", required=False),
        Mount(source="/scratch/a", target="/data", read_only=True, origin="volume", required=True, where="job.sh:2:9"),
    ),
    tmpfs=(Tmpfs(target="/tmp", size_bytes=None), Tmpfs(target="/x", size_bytes=1 << 20)),
    devices=(Device(path="/dev/fuse"),),
    gpus=("0",),
    read_only_root=True,
    environment=(("A", "1"), ("B", None)),
    environment_deny=("LD_*",),
    workdir="/data",
    environment_keep=("JAVA_*",),
    work_dir_closed="closed",
    entrypoint="/bin/sh",
    oom_score_adj=500,
    interactive=False,
    walltime_s=300,
    stores=(
        Store(
            name="ceph",
            endpoint="https://rgw.test",
            region="eu",
            ca_file="ca-ceph.pem",
            container=(BucketGrant(bucket="in", keys=("*",), read_only=True),),
            staging=(BucketGrant(bucket="out", keys=("x", "x/*"), read_only=False),),
        ),
    ),
    stage_in=(Stage(store="ceph", bucket="in", key="a/*.fq", path="/data/in/", where="job.sh:3:9"),),
    stage_out=(Stage(store="ceph", bucket="out", key="x", path="/data/o", where="job.sh:4:9", always=True),),
    credentials_port=97,
)

GOLDEN = """{
 "version": 1,
 "job_id": "16[0].vm",
 "user": "alice",
 "group": "users",
 "uid": 2001,
 "gid": 100,
 "groups": [3001, 3002],
 "home": "/home/alice",
 "queue": "batch",
 "image": "docker.io/library/busybox:1",
 "pull": "missing",
 "platform": "linux/amd64",
 "limits": {"memory_bytes": 1073741824, "memory_swap_bytes": 2147483648, "cpu_millis": 2000, "cpuset": "0-1",
            "pids": 4096, "shm_bytes": 67108864},
 "network": "host",
 "mounts": [
  {"source": "/home/alice", "target": "/home/alice", "read_only": false, "origin": "home", "required": false,
   "where": ""},
  {"source": "/scratch/a", "target": "/data", "read_only": true, "origin": "volume", "required": true,
   "where": "job.sh:2:9"}
 ],
 "tmpfs": [{"target": "/tmp", "size_bytes": null}, {"target": "/x", "size_bytes": 1048576}],
 "devices": [{"path": "/dev/fuse", "permissions": "rw"}],
 "gpus": ["0"],
 "read_only_root": true,
 "environment": [["A", "1"], ["B", null]],
 "environment_deny": ["LD_*"],
 "workdir": "/data",
 "entrypoint": "/bin/sh",
 "oom_score_adj": 500,
 "interactive": false,
 "walltime_s": 300,
 "stores": [{"name": "ceph", "endpoint": "https://rgw.test", "region": "eu", "ca_file": "ca-ceph.pem",
             "container": [{"bucket": "in", "keys": ["*"], "read_only": true}],
             "staging": [{"bucket": "out", "keys": ["x", "x/*"], "read_only": false}]}],
 "stage_in": [{"store": "ceph", "bucket": "in", "key": "a/*.fq", "path": "/data/in/", "where": "job.sh:3:9",
               "always": false}],
 "stage_out": [{"store": "ceph", "bucket": "out", "key": "x", "path": "/data/o", "where": "job.sh:4:9",
                "always": true}],
 "environment_keep": ["JAVA_*"],
 "work_dir_closed": "closed",
 "credentials_port": 97
}"""


def test_golden() -> None:
    """The JSON of a plan, key by key: a change here needs a new version, or old records cannot be released."""
    assert json.loads(json.dumps(PLAN.to_dict())) == json.loads(GOLDEN)


def test_plan_of_an_older_release() -> None:
    """What has been added since has a default, so a record written before is still released."""
    data = {
        key: value
        for key, value in json.loads(GOLDEN).items()
        if key not in ("stores", "stage_in", "stage_out", "credentials_port", "environment_keep", "work_dir_closed")
    }

    assert Plan.from_dict(data) == replace(
        PLAN, stores=(), stage_in=(), stage_out=(), credentials_port=0, environment_keep=(), work_dir_closed=""
    )


def test_back_from_json() -> None:
    """A plan read back is the plan that was written, to the types of its tuples."""
    assert Plan.from_dict(json.loads(GOLDEN)) == PLAN


def test_nothing_of_it_can_be_changed() -> None:
    """What was decided stays decided."""
    with pytest.raises(FrozenInstanceError):
        PLAN.limits.pids = 1  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "plan version 2 is not 1"),
        ({"version": None}, "plan version None is not 1"),
        ({"extra": 1}, "Plan: unknown field 'extra'"),
        ({"uid": "0"}, "expected int, got str"),
        ({"uid": True}, "expected int, got bool"),
        ({"pull": "often"}, "'often' is none of ('never', 'missing', 'always')"),
        ({"limits": []}, "Limits: expected a table, got list"),
        ({"groups": 3}, "expected a list, got int"),
        ({"environment": [["A"]]}, "expected 2 items, got 1"),
        ({"tmpfs": [{"target": "/x", "size": 1}]}, "Tmpfs: unknown field 'size'"),
    ],
)
def test_strange_data_is_refused(change: dict[str, Any], says: str) -> None:
    """A record of another release, or one that was meddled with, is told, not guessed at."""
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        Plan.from_dict({**json.loads(GOLDEN), **change})


def test_missing_field_is_refused() -> None:
    """A plan without a limit is no plan."""
    data = json.loads(GOLDEN)
    del data["limits"]["pids"]

    with pytest.raises(ValueError, match=r"^Limits: .*missing 1 required keyword-only argument: 'pids'$"):
        Plan.from_dict(data)
