"""An ordinary mpirun on two nodes, in containers, by what containers of such jobs get (docs/mpi.md).

The second node is emulated; Torque's TM protocol is as it is. Open MPI 4 alone; all kinds with ``PBSDOCK_MPI=all``, as
``make mpi`` has it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import IMAGE, ROOT, wait_until
from tests.support.sisters import Site

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]  # the image's packages may have to come over the network

KINDS = ("openmpi4", "openmpi5", "mpich4") if os.environ.get("PBSDOCK_MPI") == "all" else ("openmpi4",)
_SLOTS = "nodes=1:ppn=2+n2:ppn=2"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which MPI."""
    return str(request.param)


@pytest.fixture(scope="module")
def mpi(kind: str) -> Iterator[str]:
    """A directive of an image with it. The image stays for the next run, under another name than this run's."""
    kept, ours = f"pbsdock-test-mpi/{kind}:1", f"{IMAGE.rpartition('/')[0]}/{kind}:1"
    subprocess.run(["bash", str(ROOT / "tests/mpi_image.sh"), kind, kept], check=True)
    subprocess.run(["docker", "tag", kept, ours], check=True)
    yield f"#DOCKER {ours}"
    subprocess.run(["docker", "rmi", ours], capture_output=True, check=False)


def _running(uid: int, *names: str) -> list[str]:
    """Processes of a user, on either node, with one of these names."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == uid and (name := (process / "comm").read_text().strip()) in names:
                found.append(name)
        except OSError:
            continue  # it has ended
    return found


def test_all_slots(site: Site, mpi: str) -> None:
    """Every slot has a rank, in that node's container, as the job's owner; ranks of both nodes reach each other."""
    done = site.cluster.run(f"#!/bin/sh\n{mpi}\nmpirun mpi-programs hello && mpirun mpi-programs ring\n", _SLOTS)

    assert done.exit_status == 0, done.stderr.decode()
    *hello, ring = sorted(done.stdout.decode().splitlines())
    ranks = [line.split() for line in hello]
    assert [rank[1:3] for rank in ranks] == [[str(n), "4"] for n in range(4)]
    assert sorted(rank[3] for rank in ranks) == sorted(2 * [node.name for node in site.cluster.nodes])
    assert {(uid, where) for *_, uid, where in ranks} == {(str(site.uid), "contained")}
    assert ring == "ring 4 6"


def test_a_rank_that_fails(site: Site, mpi: str, kind: str) -> None:
    """mpirun, and so the job, ends as it did."""
    if kind == "mpich4":
        pytest.skip("its mpirun waits for the other ranks, for the most part")
    done = site.cluster.run(f"#!/bin/sh\n{mpi}\nmpirun mpi-programs fail 5\n", _SLOTS)

    assert done.exit_status == 5, done.stderr.decode()


def test_qdel_in_the_middle(site: Site, mpi: str) -> None:
    """Nothing is left on either node, neither of ranks nor of the launcher's daemons."""
    job = site.cluster.begin(f"#!/bin/sh\n{mpi}\nmpirun mpi-programs stay 300\n", _SLOTS)
    wait_until("all ranks run", lambda: len(_running(site.uid, "mpi-programs")) == 4, 30)
    job.qdel()
    done = job.result()

    assert done.exit_status in (265, 271)
    for node in site.cluster.nodes:
        wait_until(f"{node.name} is empty", lambda node=node: not node.instance.left(), 20)
    names = ("mpi-programs", "mpirun", "mpiexec", "orted", "prted", "hydra_pmi_proxy", "tm-agent")
    assert _running(site.uid, *names) == []


def test_an_image_without_it(site: Site) -> None:
    """The shell says so, and nothing of ours comes before."""
    done = site.cluster.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nmpirun mpi-programs hello\n", _SLOTS)

    assert done.exit_status == 127
    assert done.stderr.decode().strip().endswith("mpirun: not found")
    assert "tm-agent" not in done.stderr.decode()


def test_another_network(site: Site) -> None:
    """Nobody can be asked there: one sentence, and a launcher is told of no agent."""
    body = 'tm-agent n2 true; echo "$? ${OMPI_MCA_plm_rsh_agent-none}"'
    done = site.cluster.run(f"#!/bin/sh\n#DOCKER --network none {IMAGE}\n{body}\n", _SLOTS)

    assert done.stdout == b"255 none\n"
    assert b"no answer from pbs_mom" in done.stderr
    assert b"the task manager needs the host's network (--network host)\n" in done.stderr
