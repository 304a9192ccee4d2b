"""What is left of emulated nodes, however they end; and the command that makes them."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.core.paths import load
from pbsdock.trial import BadRequest, keeper
from pbsdock.trial.cluster import Cluster
from pbsdock.trial.namespaces import EmulatedNode
from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.agents import parent, running

_DIRECTORIES = "pbsdock-nodes.*"


def _left(instance: Instance) -> list[str]:
    """What of emulated nodes is on this host."""
    found = [str(path) for path in Path("/var/tmp").glob(_DIRECTORIES)]
    found += [f"process {pid}" for word in ("/var/tmp/pbsdock-nodes.", "trial/keeper.py") for pid in running(word)]
    found += [f"interface {path.name}" for path in Path("/sys/class/net").glob("pbsdock-try*")]
    found += [line for line in keeper.HOSTS.read_text().splitlines() if keeper.MARK in line]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/pbsdock-nodes." in line]
    names = ("pbsdock-try-2", f"{instance.name}-2")
    found += [top for top, _, _ in os.walk("/sys/fs/cgroup") if Path(top).name in names]
    return found


@pytest.fixture
def script() -> Iterator[Path]:
    """A job's script of the user's, with a task on each node; it tells by a file that all run."""
    home = Path(pwd.getpwnam(USERS[0]).pw_dir)
    path = home / "wide.sh"
    path.write_text("#!/bin/sh\npbsdsh sh -c 'touch ~/runs.$PBS_VNODENUM; sleep 62.5'\n")
    yield path
    for file in (path, *home.glob("runs.*")):
        file.unlink()


def _start(instance: Instance, script: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [str(instance.root / "opt/pbsdock/bin/pbsdock"), "try", "--user", USERS[0], "--nodes", "2", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until("tasks run on both nodes", lambda: len(list(script.parent.glob("runs.*"))) == 2 or process.poll() == 2)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left(instance: Instance, script: Path, number: int) -> None:
    """Ctrl-C ends the job as qdel does, and the nodes; after a kill their keeper ends them."""
    process = _start(instance, script)
    during = _left(instance)
    process.send_signal(number)
    process.communicate(timeout=60)

    assert len(during) > 4
    assert process.returncode == (143 if number == signal.SIGINT else -signal.SIGKILL)
    wait_until("nothing is left", lambda: not _left(instance), 20)
    assert running("sleep", "62.5") == []
    _forget(instance)


def test_a_killed_keeper(instance: Instance, script: Path) -> None:
    """Nodes die with their keeper; the next one removes what it left behind."""
    process = _start(instance, script)
    tasks = running("sleep", "62.5")
    # Its nodes are forks of it: it is the one whose parent is the command.
    (pid,) = (pid for pid in running("trial/keeper.py") if parent(pid) == process.pid)
    os.kill(pid, signal.SIGKILL)
    wait_until("the sister's task is dead", lambda: len(running("sleep", "62.5")) < len(tasks))
    process.kill()
    process.communicate(timeout=60)
    left = _left(instance)
    script.write_text("#!/bin/sh\nhostname\n")

    again = instance.command("try", "--user", USERS[0], "--nodes", "2", str(script))

    assert left
    assert again.returncode == 0, again.stderr
    wait_until("nothing is left", lambda: not _left(instance), 20)
    _forget(instance)


def test_containers_end_with_their_node(instance: Instance) -> None:
    """Also those of the node's engine, with their cgroups, and whatever the node's agent has made."""
    with Cluster(load(instance.home / "paths.json"), ["n2"]) as cluster:
        (node,) = cluster.nodes
        assert cluster.copy_image(IMAGE)
        started = node.docker("run", "-d", "--network=host", IMAGE, "sleep", "62.5")
        during = _left(instance)

    assert started.returncode == 0, started.stderr
    assert [line for line in during if "/pbsdock-try-2" in line] != []
    assert _left(instance) == []
    assert running("sleep", "62.5") == []


def test_a_node_that_does_not_come_up(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, and what had come up already is gone."""
    monkeypatch.setattr(EmulatedNode, "start_agent", lambda *_: (_ for _ in ()).throw(RuntimeError("no agent")))

    with pytest.raises(BadRequest, match=r"^nodes cannot be emulated: no agent$"):
        Cluster(load(instance.home / "paths.json"), ["n2", "n3"]).open()

    assert _left(instance) == []


def _forget(instance: Instance) -> None:
    """Remove the files of a job whose mom was killed."""
    for path in (instance.mom_priv / "jobs").iterdir():
        path.unlink()


def test_the_command(instance: Instance, script: Path) -> None:
    """The options, the job's output and its end; a contained mother, and images go along."""
    script.write_text(f"#!/bin/sh\n#DOCKER {IMAGE}\nhostname; sort $PBS_NODEFILE | uniq -c; exit 3\n")

    done = instance.command("try", "--user", USERS[0], "--nodes", "3:ppn=2", "--json", str(script))

    assert done.returncode == 3, done.stderr
    outcome = json.loads(done.stdout)
    host = os.uname().nodename
    assert outcome["stdout"].split() == [host, *(word for node in sorted([host, "n2", "n3"]) for word in ("2", node))]
    assert {"prologue.parallel n2", "epilogue.parallel n3"} <= set(outcome["seconds"])
    assert _left(instance) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nodes", "n2+2"], "a job tried here starts on this host; name {host} first"),
        (["--nodes", "17"], "17 nodes are more than the 16 that are emulated on one host"),
        (["--nodes", "2:ppn=x"], "'ppn=x' in nodes=2:ppn=x needs a whole number after '='"),
        (["-l", "nodes=2"], "or have the other nodes emulated with --nodes 2"),
    ],
)
def test_wrong_requests(instance: Instance, script: Path, arguments: list[str], sentence: str) -> None:
    """One sentence, and nothing is left."""
    done = instance.command("try", "--user", USERS[0], *arguments, str(script))

    assert done.returncode == 2
    assert sentence.format(host=os.uname().nodename) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert _left(instance) == []
