"""One version apart: an upgrade from the version before and back to it, on one node and on one of two nodes after the other."""

from __future__ import annotations

import os
import pwd
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pbsdock.core.paths import load
from tests.conftest import IMAGE, ROOT, USERS, Instance, wait_until
from tests.support import previous
from tests.support.cluster import Node, TwoNodes
from tests.support.previous import OwnProgram, OwnSister, TwoVersions
from tests.support.sisters import Site

pytestmark = [pytest.mark.engine, pytest.mark.previous, pytest.mark.timeout(600)]
JOBS = 200 if os.environ.get("PBSDOCK_UPGRADE") == "full" else 60
_WAITS = "echo ready; touch ~/is-{name}; until [ -e ~/go-{name} ]; do sleep 0.05; done; rm ~/go-{name} ~/is-{name}; echo over"


@dataclass(frozen=True, slots=True)
class Versions:
    """The directories of both in the instance, and the instance."""

    old: Path
    new: Path
    instance: TwoVersions

    def new_program(self, name: str) -> Path:
        """One of the programs in C of the newer version."""
        (found,) = self.new.glob(f"venv/lib/python3*/site-packages/pbsdock/{name}")
        return found

    def put_in_force(self, home: Path) -> None:
        """One of them."""
        if self.instance.home != home:
            assert self.instance.exchange() == home


@pytest.fixture(scope="module")
def both(installed: Instance, scratch: Path) -> Iterator[Versions]:
    """An instance of its own with both versions."""
    root = scratch / "both"
    (root / "mom_priv/jobs").mkdir(parents=True)
    (root / "checkout").mkdir()
    instance = TwoVersions(root, root / "mom_priv", "")
    instance.install(previous.checkout(root / "checkout"), installed.home)
    old = instance.home
    instance.install(ROOT, installed.home)
    instance.name = (root / "etc/pbsdock/instance").read_text().strip()
    # What an agent had promised to an epilogue when it was ended: the older one leaves it to the next one's reaper.
    instance.config.write_text("[reaper]\nperiod_s = 1\ngrace_s = 3\n")
    yield Versions(old, instance.home, instance)
    instance.kill_agent()


@pytest.fixture
def versions(both: Versions) -> Iterator[Versions]:
    """The same with the older one in force and nothing in it, which it must be afterwards too."""
    instance = both.instance
    both.put_in_force(both.old)
    home = Path(pwd.getpwnam(USERS[0]).pw_dir)
    with ExitStack() as stack:
        stack.callback(lambda: [path.unlink() for name in ("is-*", "go-*") for path in home.glob(name)])
        stack.callback(wait_until, "nothing is left", lambda: not instance.left(), 40)
        stack.callback(instance.end_all)
        yield both


def _why(instance: Instance, job: str) -> str:
    done = instance.command("why", job)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _released(instance: Instance) -> list[str]:
    return [line["job"] for line in instance.events() if line["event"] == "release.done"]


def test_no_job_is_lost(versions: Versions) -> None:
    """Jobs back to back while the node is upgraded, and rolled back: each has its own output and exit code, nothing else."""
    instance, trouble = versions.instance, []
    reached = threading.Semaphore(0)

    def exchange() -> None:
        try:
            for home in (versions.new, versions.old):
                reached.acquire()
                assert instance.exchange() == home
        except BaseException as error:
            trouble.append(error)

    exchanging = threading.Thread(target=exchange, daemon=True)
    exchanging.start()
    wrong, by = [], []
    for number in range(JOBS):
        if number in (JOBS // 3, 2 * JOBS // 3):
            reached.release()
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho job {number}; exit {number % 3}\n")
        by.append(instance.home)
        if (done.exit_status, done.stdout, done.stderr) != (number % 3, f"job {number}\n".encode(), b""):
            wrong.append((number, done))
    exchanging.join()

    assert trouble == []
    assert wrong == []
    assert {*by} == {versions.old, versions.new}
    assert by[-1] == versions.old
    wait_until("all are released", lambda: len({*_released(instance)}) >= JOBS)
    assert len({*_released(instance)}) == JOBS


def _begin(versions: Versions, name: str) -> Any:
    trial = versions.instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\n{_WAITS.format(name=name)}; exit 7\n")
    wait_until("the job runs", (Path(trial.entry.pw_dir) / f"is-{name}").exists)
    return trial


def _end(trial: Any, name: str) -> Any:
    (Path(trial.entry.pw_dir) / f"go-{name}").touch()
    return trial.finish(trial.wait())


def test_jobs_that_run_over_an_upgrade_and_back(versions: Versions) -> None:
    """What each version writes into the ledger of a job the other one reads: jobs that begin under one end under the other."""
    instance = versions.instance
    first, second = _begin(versions, "first"), _begin(versions, "second")
    versions.put_in_force(versions.new)
    third, fourth = _begin(versions, "third"), _begin(versions, "fourth")
    shown = instance.command("ps").stdout
    ended = [_end(first, "first"), _end(third, "third")]
    told_by_new = _why(instance, first.job_id)
    versions.put_in_force(versions.old)
    shown_by_old = instance.command("ps").stdout
    ended += [_end(second, "second"), _end(fourth, "fourth")]

    assert [(done.exit_status, done.stdout, done.stderr) for done in ended] == [(7, b"ready\nover\n", b"")] * 4
    assert all(trial.job_id in shown for trial in (first, second, third, fourth))
    assert all(trial.job_id in shown_by_old for trial in (second, fourth))
    assert "exit status 7" in told_by_new
    for trial in (first, second, third, fourth):  # the history that each has written
        assert f"/{IMAGE}" in _why(instance, trial.job_id)
    assert not [line for line in instance.events() if line["level"] == "error"]


# -- two nodes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_versions(both: Versions) -> Iterator[TwoNodes]:
    """Both nodes have both versions, each one of its own in force: the older one."""
    both.put_in_force(both.old)
    paths = load(both.old / "paths.json")
    with OwnProgram(paths, ["n2"]) as cluster:
        shutil.copy(both.new_program("init/pbsdsh"), cluster.client_dir / "pbsdsh")
        (emulated,) = cluster.nodes
        sister = OwnSister(both.instance, paths, emulated)
        yield TwoNodes(
            cluster=cluster,
            nodes=[
                Node(name=cluster.mother, instance=both.instance),
                Node(name=emulated.name, instance=sister, emulated=emulated),
            ],
        )


@pytest.fixture
def cluster(two_versions: TwoNodes, versions: Versions) -> Iterator[TwoNodes]:
    """The same with nothing on them."""
    home = Path(pwd.getpwnam(USERS[0]).pw_dir)
    before = {*home.iterdir()}
    with ExitStack() as stack:
        stack.callback(lambda: [path.unlink() for path in {*home.iterdir()} - before])
        for node in two_versions.nodes:
            stack.callback(wait_until, f"{node.name} is empty", lambda node=node: not node.instance.left(), 40)
        stack.callback(two_versions.end_all)
        yield two_versions


def _in_force(cluster: TwoNodes, versions: Versions, mother: str, sister: str) -> None:
    """Exchange versions until *mother* and *sister*, "old" or "new", are in force."""
    for node, wanted in zip(cluster.nodes, (mother, sister), strict=True):
        home = getattr(versions, wanted)
        instance: Any = node.instance
        if instance.home != home:
            assert instance.exchange() == home
        instance.start_agent()
        command = Path(f"/proc/{node.agent_pid}/cmdline").read_bytes()
        assert f"{home}/".encode() in command


_PAIRS = [("old", "old"), ("new", "old"), ("old", "new"), ("new", "new")]


@pytest.mark.parametrize(("mother", "sister"), _PAIRS)
def test_a_job_over_nodes_of_both_versions(site: Site, versions: Versions, mother: str, sister: str) -> None:
    """Every task in the image on both, prepared ahead from the ticket; usage added up; shown on both."""
    _in_force(site.cluster, versions, mother, sister)
    job = site.cluster.begin(
        site.script("pbsdsh -o /bin/cat /proc/1/comm; touch ~/there; until [ -e ~/go ]; do sleep 0.05; done; exit 3"),
        "nodes=1:ppn=1+n2:ppn=2",
    )
    site.flags("there")
    shown = site.cluster.mother.instance.command("ps", "--job", job.job_id).stdout
    (site.home / "go").touch()
    done = job.result()

    assert (done.exit_status, done.stdout.decode().split(), done.stderr) == (3, ["pbsdock-init"] * 3, b"")
    assert all(node.name in shown for node in site.cluster.nodes)
    assert "no answer" not in shown
    finished = site.one(site.cluster.mother, "job.finished", done.job_id)
    assert (finished["all_nodes"], finished["all_told"]) == (2, 2)
    assert site.one(site.cluster.sister, "job.announced", done.job_id)["outcome"] == "prepared"


@pytest.mark.parametrize("which", ["mother", "sister"])
@pytest.mark.parametrize("to", ["new", "old"])
def test_a_node_is_exchanged_under_a_job_of_both(site: Site, versions: Versions, which: str, to: str) -> None:
    """Its tasks run on, and those that come afterwards find the same container."""
    other = "old" if to == "new" else "new"
    _in_force(site.cluster, versions, other, other)
    task = "touch ~/there; until [ -e ~/go ]; do sleep 0.05; done; readlink /proc/self/ns/mnt; exit 4"
    body = f"pbsdsh -h n2 -o /bin/sh -c '{task}'; pbsdsh -h n2 -o /bin/sh -c 'readlink /proc/self/ns/mnt'; echo mine"
    job = site.cluster.begin(site.script(body), "nodes=1+n2")
    site.flags("there")
    pair = {"mother": other, "sister": other, which: to}
    _in_force(site.cluster, versions, pair["mother"], pair["sister"])
    (site.home / "go").touch()
    done = job.result()

    first, second, mine = done.stdout.decode().split()
    assert first == second
    assert mine == "mine"
    assert (done.exit_status, done.stderr.decode().count("exit status 4")) == (0, 1)
    assert site.one(site.cluster.mother, "job.finished", done.job_id)["all_told"] == 2
