"""``pbsdock why`` of a job on two nodes: both are told, whichever is asked, while it runs and when it is over."""

from __future__ import annotations

import json
import pwd
from typing import Any

import pytest

from tests.conftest import IMAGE, USERS
from tests.support.cluster import Node
from tests.support.sisters import Site

pytestmark = pytest.mark.engine

# On the sister more than its share, in /dev/shm: that is charged to the cgroup, and no limit of the process's is met.
_GREEDY = "pbsdsh -h n2 /bin/sh -c 'dd if=/dev/zero of=/dev/shm/x bs=1M count=90; tail /dev/zero'; exit 3"


def _as(user: str) -> dict[str, Any]:
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _why(node: Node, job: str) -> dict[str, Any]:
    """As its owner on this host; emulated nodes are entered as root."""
    options = _as(USERS[0]) if node.emulated is None else {}
    done = node.instance.command("why", "--json", job, **options)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_both_nodes_are_told(site: Site) -> None:
    """While it runs with what each has; after that with how each ended; to nobody else."""
    job = site.cluster.begin(
        site.script("pbsdsh /bin/sh -c 'echo 1 >~/there$PBS_NODENUM; exec sleep 60'"), "nodes=1+n2"
    )
    site.flags("there0", "there1")
    running = _why(site.cluster.mother, job.job_id)
    there = _why(site.cluster.sister, job.job_id)
    other = site.cluster.mother.instance.command("why", job.job_id, **_as(USERS[1]))
    job.qdel()
    job.result()
    site.one(site.cluster.mother, "job.finished", job.job_id)
    over = _why(site.cluster.mother, job.job_id)

    names = [node.name for node in site.cluster.nodes]
    assert [row["node"] for row in running["nodes"]] == names
    assert [row["node"] for row in there["nodes"]] == names[::-1]
    for row in (*running["nodes"], *there["nodes"]):
        assert (row["state"], row["limits"]["pids"] > 0) == ("running", True)
        assert row["now"]["memory_bytes"] > 0
    assert (other.returncode, "knows no job" in other.stderr) == (1, True)
    assert [row["state"] for row in over["nodes"]] == ["over", "over"]
    assert all(row["used"]["cpu_seconds"] is not None for row in over["nodes"])


def test_the_cause_is_on_the_other_node(site: Site) -> None:
    """A task that was killed there for memory explains the script's own exit status."""
    script = site.script(_GREEDY, directive=f"#DOCKER --shm-size 95mb {IMAGE}")
    done = site.cluster.run(script, "nodes=1:ppn=1+n2:ppn=1,mem=200mb")
    site.one(site.cluster.mother, "job.finished", done.job_id)
    told = _why(site.cluster.mother, done.job_id)
    screen = site.cluster.mother.instance.command("why", done.job_id, **_as(USERS[0])).stdout

    assert done.exit_status == 3, done.stderr
    assert told["nodes"][1]["used"]["oom_kills"] == 1
    assert told["cause"]["code"] == "out-of-memory"
    assert told["cause"]["sentence"].startswith("on n2: a process was killed at the job's memory limit of 100 MiB")
    assert "\nnodes     n2: over\n            memory   [" in screen


def test_a_node_that_does_not_answer(site: Site) -> None:
    """One sentence in its place, and the rest is told as ever."""
    done = site.run("pbsdsh /bin/true")
    site.one(site.cluster.mother, "job.finished", done.job_id)
    site.cluster.sister.kill_agent()
    try:
        told = _why(site.cluster.mother, done.job_id)
    finally:
        site.cluster.sister.instance.start_agent()

    assert told["cause"]["code"] == "well"
    assert (told["nodes"][1]["node"], told["nodes"][1]["state"]) == ("n2", "no-answer")
    assert told["nodes"][1]["problem"] == f"nobody listens on n2 at port {site.port}"


def test_doctor_knows_the_other_nodes_version(site: Site) -> None:
    """What its agent said when they spoke last; one of another release is told, with what to do."""
    instance = site.cluster.mother.instance
    (instance.state_dir / "nodes.json").unlink(missing_ok=True)  # what other tests have heard
    instance.kill_agent()
    site.run("pbsdsh /bin/true")

    def versions() -> dict[str, Any]:
        rows: list[dict[str, Any]] = json.loads(instance.command("doctor", "nodes", "--json").stdout)
        (row,) = (row for row in rows if row["step"] == "versions")
        return row

    well = versions()
    known = instance.state_dir / "nodes.json"
    nodes = json.loads(known.read_text())
    known.write_text(json.dumps({name: {**node, "version": "99.0"} for name, node in nodes.items()}))
    ill = versions()
    known.unlink()

    assert (well["verdict"], list(nodes)) == ("ok", ["n2"])
    assert (ill["verdict"], "n2: 99.0" in ill["seen"]) == ("wrong", True)
    assert ill["fix"].startswith("upgrade the older ones")
