"""Job steps of Slurm, the pure parts: what containers are given, which nodes are here, which allocations wait."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pbsdock.admin.setup import slurm_config, spank
from pbsdock.admin.setup.places import Places
from pbsdock.rm.slurm import cgroup, client
from pbsdock.rm.slurm.control import Control
from pbsdock.rm.slurm.facts import SlurmJob
from pbsdock.rm.slurm.idle import IdleJobs
from pbsdock.rm.slurm.prolog_file import PrologFile, nodes_here
from pbsdock.rm.slurm.spool import script_path, spools


def job(nodes: str, cpus: str, node: str, *here: str) -> SlurmJob:
    """As the Prolog of *node* was told of it, with those of *here* on the same host."""
    told = PrologFile(job_id="7", uid=5, user="alice", node=node, nodes=nodes, cpus=cpus)
    return SlurmJob(told, Path("/spool"), Control(Path("/none"), ""), here=frozenset(here))


@pytest.mark.parametrize(
    ("node", "here", "hosts", "is_sister"),
    [
        ("n1", (), ("n1", "n2", "n3"), False),
        ("n2", ("n2",), ("n1", "n2", "n3"), True),
        ("n2", ("n1", "n2"), ("n1", "n3"), False),
        ("n3", ("n1", "n2", "n3"), ("n1",), False),
        ("n3", ("n2", "n3"), ("n1", "n2"), True),
    ],
)
def test_nodes_of_one_host_count_as_one(
    node: str, here: tuple[str, ...], hosts: tuple[str, ...], is_sister: bool
) -> None:
    """They have one agent, which the first of the job's nodes decides for the others."""
    found = job("n[1-3]", "2(x2),4", node, *here)
    assert (found.hosts, found.is_sister) == (hosts, is_sister)
    assert sum(slots for _name, slots in found._nodes()) == 8


def test_nodes_here(tmp_path: Path) -> None:
    """By what their Prologs have left."""
    for name in ("7", "7.n1", "7.n2.site", "71.n3"):
        (tmp_path / name).touch()
    assert nodes_here(tmp_path, "7") == {"n1", "n2.site"}


def test_spool_directories_of_several_slurmds(tmp_path: Path) -> None:
    """Each with its node's name in its path; the script is where it is."""
    pattern = tmp_path / "spool.%n"
    for node in ("a", "b"):
        (tmp_path / f"spool.{node}").mkdir()
    assert [path.name for path in spools(pattern)] == ["spool.a", "spool.b"]
    assert script_path(pattern, "a", "7") == f"{tmp_path}/spool.a/job00007/slurm_script"
    (tmp_path / "spool.b/job00007").mkdir()
    (tmp_path / "spool.b/job00007/slurm_script").touch()
    assert script_path(pattern, "a", "7") == f"{tmp_path}/spool.b/job00007/slurm_script"
    assert script_path(Path("/spool"), "a", "7") == "/spool/job00007/slurm_script"
    assert slurm_config.spool(f"SlurmdSpoolDir={pattern}\n") == str(pattern)
    (tmp_path / "spool.b/job00007/slurm_script").unlink()
    (tmp_path / "spool.b/job00007").rmdir()
    (tmp_path / "spool.b").rmdir()
    assert slurm_config.spool(f"SlurmdSpoolDir={pattern}\n") == f"{tmp_path}/spool.a"


def test_an_allocation_lives_until_its_epilog_or_the_controllers_word(tmp_path: Path) -> None:
    """A Prolog that has just run is enough; nobody's answer ends nothing; the controller is not asked each time."""
    answers: list[bool | None] = [None]
    asked: list[str] = []

    def knows(name: str) -> bool | None:
        asked.append(name)
        return answers[-1]

    idle = IdleJobs(tmp_path, knows)
    assert not idle.lives("7")
    (tmp_path / "7").touch()
    assert idle.lives("7")
    assert asked == []
    for name in ("7", "8"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, time.time() - 300))
    assert idle.lives("7")
    answers.append(False)
    assert idle.lives("7")  # as answered before
    assert not idle.lives("8")
    assert asked == ["7", "8"]


def test_the_configuration_for_containers() -> None:
    """The site's, but for where things are in there; no SPANK plugin, since it may not be there."""
    text = (
        "ClusterName=x\nPluginDir=/there\n AuthInfo=socket=/run/m/s.2,ttl=3\nPlugStackConfig=/etc/p\nSlurmUser=slurm\n"
    )
    made = client.for_containers(text, "/tools", "s.2")
    assert made.splitlines() == [
        "ClusterName=x",
        "SlurmUser=slurm",
        "PluginDir=/tools/plugins",
        "AuthInfo=socket=/tools/munge/s.2",
        "PlugStackConfig=/tools/etc/none",
    ]
    assert client.munge_socket({"authinfo": "ttl=3,socket=/run/m/s.2"}) == "/run/m/s.2"
    assert client.munge_socket({}) == "/run/munge/munge.socket.2"


def test_includes_are_joined_and_closed_ones_close_all(tmp_path: Path) -> None:
    """What others may not read on the host no container can."""
    (tmp_path / "slurm.conf").write_text("A=1\nInclude nodes.conf\nB=2\n")
    (tmp_path / "nodes.conf").write_text("NodeName=n1\n")
    (tmp_path / "slurm.conf").chmod(0o644)
    (tmp_path / "nodes.conf").chmod(0o644)
    assert client.joined(tmp_path / "slurm.conf") == "A=1\nNodeName=n1\nB=2"
    (tmp_path / "nodes.conf").chmod(0o640)
    assert client.joined(tmp_path / "slurm.conf") is None


def test_the_library_of_pmix_is_looked_for_below_the_tools(tmp_path: Path) -> None:
    """Of a text in the plugin that is a directory with that library; its length stays."""
    place = tmp_path / "a-long-name-of-a-directory/pmix2/lib"
    place.mkdir(parents=True)
    (place / "libpmix.so").touch()
    plugin = tmp_path / "mpi_pmix.so"
    plugin.write_bytes(b"ELF\0/no/such/place\0" + os.fsencode(place) + b"\0libpmix.so\0")
    moved = client.moved_pmix(str(plugin), "/run/tools/lib")
    assert moved is not None
    data, library = moved
    assert library == f"{place}/libpmix.so"
    assert len(data) == plugin.stat().st_size
    assert b"\0/run/tools/lib\0" in data
    assert b"\0libpmix.so\0" in data
    plugin.write_bytes(b"ELF\0/no/such/place\0")
    assert client.moved_pmix(str(plugin), "/run/tools/lib") is None


@pytest.mark.parametrize(("value", "found"), [("", ""), ("/tmp", ""), ("/scratch/%n", "/scratch/%n"), ("tmp", "")])
def test_where_mpi_writes(value: str, found: str) -> None:
    """Only a place of the site's own is to be made."""
    assert client.scratch({"tmpfs": value} if value else {}) == found


def test_plugstack_conf(tmp_path: Path) -> None:
    """One line as a marked block, taken out again; a file that had nothing else goes with it."""
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=x\n")
    places = Places(mom_priv=tmp_path, prefix=Path("/opt/pbsdock"), slurm_conf=conf)
    stack = tmp_path / "plugstack.conf"
    assert slurm_config.stack_file(places) == stack
    for before in (None, "required x11.so\n"):
        if before is not None:
            stack.write_text(before)
        for _again in (1, 2):
            slurm_config.write_stack(places)
        assert stack.read_text().count("include /opt/pbsdock/current/slurm/plugstack.conf\n") == 1
        assert slurm_config.has_stack_line(places)
        assert slurm_config.take_out_stack(places)
        assert not slurm_config.take_out_stack(places)
        assert (stack.read_text() if stack.exists() else None) == before
    conf.write_text("PlugStackConfig=/etc/other.conf\n")
    assert slurm_config.stack_file(places) == Path("/etc/other.conf")


def test_without_headers_a_sentence_says_what_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And of another release than slurmd's the plugin is not made, since Slurm would load none of it."""
    monkeypatch.setattr(spank, "headers", lambda: None)
    assert "apt-get install gcc libc6-dev libslurm-dev" in spank.lacking()
    assert "job steps (srun, salloc) run bare" in spank.lacking()
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/slurm_version.h").write_text("#define SLURM_VERSION_NUMBER 0x160508\n")
    monkeypatch.setattr(spank, "headers", lambda: tmp_path)
    monkeypatch.setattr(spank, "release_of_slurmd", lambda: "24.11")
    assert "headers are of release 22.05, slurmd of 24.11" in spank.lacking()
    monkeypatch.setattr(spank, "release_of_slurmd", lambda: "22.05")
    assert spank.lacking() == ""


def test_which_step_a_process_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch script is no task, whatever its environment says."""
    for step, found in (("step_batch/task_0", False), ("step_0/task_1", True), ("step_interactive", True)):
        monkeypatch.setattr(cgroup, "paths_of", lambda _pid, step=step: {"freezer": f"/slurm_n1/uid_5/job_7/{step}"})
        assert cgroup.is_task(1) is found
    monkeypatch.setattr(cgroup, "paths_of", lambda _pid: {"freezer": "/user.slice"})
    assert not cgroup.is_task(1)
