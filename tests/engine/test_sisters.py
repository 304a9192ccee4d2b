"""A job of several nodes: every process of it in that image, on every node, and nothing left on any of them."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest

from tests.conftest import IMAGE, wait_until
from tests.support.cluster import Node
from tests.support.sisters import Site

pytestmark = pytest.mark.engine

_WHERE = "read init </proc/1/comm; echo $PBS_NODENUM $(hostname) $(id -u) $init"
_INIT = "pbsdock-init"


def test_every_task_is_in_the_image(site: Site) -> None:
    """On the node of each, as the job's owner, with what comes back from it; in one incarnation everywhere."""
    done = site.run(f"pbsdsh -o /bin/sh -c '{_WHERE}; exit 7'")

    assert done.stdout, done.stderr
    lines = sorted(done.stdout.decode().splitlines())
    here, there = site.cluster.mother.name, site.cluster.sister.name
    assert lines == sorted([f"0 {here} {site.uid} {_INIT}"] + 2 * [f"1 {there} {site.uid} {_INIT}"])
    assert done.stderr.decode().count("exit status 7") == 3
    finished, sisters = (site.one(node, "job.finished", done.job_id) for node in site.cluster.nodes)
    assert finished["incarnation"] == sisters["incarnation"]
    assert (finished["all_nodes"], finished["all_told"]) == (2, 2)
    assert finished["all_cpu_seconds"] == pytest.approx(finished["cpu_seconds"] + sisters["cpu_seconds"], abs=0.002)
    assert "exit_status" not in sisters or sisters["exit_status"] is None


def test_a_node_has_what_its_slots_are_worth(site: Site) -> None:
    """Memory is the whole job's, and each node has its share by slots; CPUs likewise."""
    job = site.cluster.begin(
        site.script("pbsdsh /bin/true; touch ~/there; sleep 60"), "nodes=1:ppn=1+n2:ppn=2,mem=300mb"
    )
    site.flags("there")
    plans = [_plan(node, job.job_id) for node in site.cluster.nodes]
    job.qdel()
    job.result()

    assert [plan["limits"]["memory_bytes"] >> 20 for plan in plans] == [100, 200]
    assert [plan["limits"]["cpu_millis"] for plan in plans] == [1000, 2000]


def _plan(node: Node, job_id: str) -> dict[str, Any]:
    (file,) = (node.instance.state_dir / "jobs").glob(f"{job_id}.*.json")
    plan: dict[str, Any] = json.loads(file.read_text())["plan"]
    return plan


def test_a_task_without_a_ticket_finds_its_container(site: Site) -> None:
    """A program that passes no environment on: the sister has asked the mother superior."""
    done = site.cluster.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{site.pbsdsh} -o /bin/cat /proc/1/comm\n", "nodes=1+n2")

    assert done.stdout.decode().split() == [_INIT] * 2, done.stderr
    assert site.one(site.cluster.sister, "job.announced", done.job_id)["outcome"] == "prepared"


def test_a_bare_job_stays_bare(site: Site) -> None:
    """Whatever a site has set: its tasks become what mom starts."""
    site.configure("", 'without_ticket = "refuse"\n')
    assert site.run("true").exit_status == 0  # from here on both agents are there
    done = site.cluster.run("#!/bin/sh\npbsdsh -o /bin/cat /proc/1/comm\n", "nodes=1+n2")

    assert (done.exit_status, done.stderr) == (0, b"")
    assert _INIT not in done.stdout.decode()
    assert len(done.stdout.split()) == 2
    assert site.one(site.cluster.sister, "job.announced", done.job_id)["outcome"] == "bare"


def test_a_site_without_a_way_to_sign(site: Site) -> None:
    """Runs the first node's processes in the container, and says what is missing."""
    for node in site.cluster.nodes:
        site.key_of(node).rename(site.key_of(node).with_suffix(".away"))
    try:
        site.configure("")
        done = site.run("pbsdsh -o /bin/cat /proc/1/comm")
    finally:
        for node in site.cluster.nodes:
            site.key_of(node).with_suffix(".away").rename(site.key_of(node))

    assert sorted(done.stdout.decode().split()).count(_INIT) == 1
    assert b"pbsdock setup key" in done.stderr


def test_nodes_with_different_keys(site: Site) -> None:
    """Nothing is started on a node that cannot believe the ticket, and the task's stderr says so."""
    site.key_of(site.cluster.sister).write_bytes(secrets.token_bytes(32))
    site.configure("")
    done = site.run("pbsdsh -o /bin/cat /proc/1/comm")

    assert done.stdout.decode().split() == [_INIT]
    assert b"the job's ticket is not taken on n2: the signature does not hold" in done.stderr
    assert site.events(site.cluster.sister, "ticket.refused", done.job_id)


def test_a_sisters_container_is_killed(site: Site) -> None:
    """Its tasks end by SIGKILL; the next one gets another container, with the same name for the job."""
    body = "pbsdsh -h n2 /bin/sh -c 'echo 1 >~/there; exec sleep 60'; pbsdsh -h n2 -o /bin/cat /proc/1/comm"
    job = site.cluster.begin(site.script(body), "nodes=1+n2")
    site.flags("there")
    (container,) = site.cluster.sister.docker("ps", "-q").stdout.split()
    site.cluster.sister.docker("kill", container)
    done = job.result()

    assert done.stdout.decode().split() == [_INIT], done.stderr
    assert b"exit status 137" in done.stderr
    assert [line["incarnation"] for line in site.events(site.cluster.sister, "job.started", done.job_id)] == [
        site.events(site.cluster.mother, "job.started", done.job_id)[0]["incarnation"]
    ] * 2


@pytest.mark.parametrize("which", ["mother", "sister"])
def test_an_agent_is_killed(site: Site, which: str) -> None:
    """While a task runs on each node: it and those after it come through."""
    body = "pbsdsh /bin/sh -c 'echo 1 >~/there$PBS_NODENUM; sleep 3; exit 5'; pbsdsh -o /bin/cat /proc/1/comm"
    job = site.cluster.begin(site.script(body), "nodes=1+n2")
    site.flags("there0", "there1")
    node: Node = getattr(site.cluster, which)
    node.kill_agent()
    node.instance.start_agent()
    done = job.result()

    assert done.stderr.decode().count("exit status 5") == 2, done.stderr
    assert done.stdout.decode().split() == [_INIT] * 2, done.stderr


def test_qdel_in_the_middle(site: Site) -> None:
    """Both nodes are empty at once, also of what does not want to go."""
    body = "pbsdsh /bin/sh -c 'trap \"\" TERM; echo 1 >~/there$PBS_NODENUM; while :; do sleep 1; done'"
    job = site.cluster.begin(site.script(body), "nodes=1+n2")
    site.flags("there0", "there1")
    job.qdel()
    done = job.result()

    assert done.exit_status in (265, 271)
    for node in site.cluster.nodes:
        wait_until(f"{node.name} is empty", lambda node=node: not node.instance.left(), 20)
