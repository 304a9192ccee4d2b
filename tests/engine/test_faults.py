"""Things that go wrong in the middle of a job: nothing leaks, nothing of others is touched, no status is made up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import docker
import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, Instance, install, wait_until
from tests.support.engine import OwnEngine

pytestmark = pytest.mark.engine


def _running(instance: Instance, body: str, **options: object) -> Trial:
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\n{body}\n", **options)
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    return trial


def test_agent_killed_in_mid_job(instance: Instance) -> None:
    """Both processes of the agent are killed: the next hook's agent goes on, output and exit status are whole."""
    trial = _running(instance, "sleep 1; echo after; echo err >&2; exit 9")
    instance.kill_agent()
    subprocess.run([str(instance.root / "opt/pbsdock/hooks/node-check")], check=True, capture_output=True)
    done = trial.finish(trial.wait())

    assert (done.exit_status, done.stdout, done.stderr) == (9, b"ready\nafter\n", b"err\n")


def test_worker_killed_is_restarted_by_its_supervisor(instance: Instance) -> None:
    """The worker alone is killed: its supervisor starts another, no hook needed."""
    trial = _running(instance, "sleep 1; exit 8")
    worker = instance.agent_pids()[-1]
    os.kill(worker, signal.SIGKILL)
    done = trial.finish(trial.wait())

    assert done.exit_status == 8


def test_job_that_ended_while_the_agent_was_away(instance: Instance) -> None:
    """The exit status of a container that ended without an agent is read from the engine afterwards."""
    trial = _running(instance, "sleep 0.3; exit 11")
    instance.kill_agent()
    time.sleep(0.8)
    subprocess.run([str(instance.root / "opt/pbsdock/hooks/node-check")], check=True, capture_output=True)
    done = trial.finish(trial.wait())

    assert done.exit_status == 11


def test_run_hook_killed(instance: Instance) -> None:
    """The run hook is killed by its user: the container is gone after the epilogue."""
    trial = _running(instance, "sleep 60")
    assert trial.leader is not None
    trial.leader.kill()
    done = trial.finish(trial.wait())

    assert done.exit_status == 265
    assert instance.left() == []


def test_second_prologue_of_the_same_job(instance: Instance) -> None:
    """A prologue for an id that is prepared already sweeps what the first one made."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\nexit 4\n"))
    trial.prepare_files()
    assert trial.prologue() == 0
    first = instance.left()
    assert trial.prologue() == 0
    second = instance.left()
    trial.start()
    done = trial.finish(trial.wait())

    assert done.exit_status == 4
    assert len(first) == len(second)
    assert [one["why"] for one in instance.trail(trial.job_id) if one["event"] == "release.done"] == [
        "older-incarnation",
        "epilogue",
    ]


@pytest.mark.threat(20)
def test_prologue_without_epilogue_is_reaped(instance: Instance) -> None:
    """A job whose .JB is gone and whose grace is over is reaped; a stranger's container and a live job are not."""
    client = docker.from_env()
    stranger = client.containers.run(
        IMAGE, "sleep 100", detach=True, labels={"pbsdock.owner": f"{instance.name}@another-node"}, network_mode="none"
    )
    good = instance.config.read_text()
    instance.configure("[reaper]\ngrace_s = 1\nperiod_s = 3600\n")
    try:
        live = _running(instance, "sleep 30")
        lost = _running(instance, "sleep 30")
        lost.job_file.unlink()
        wait_until("the grace is over", lambda: time.time() - lost.out_path.stat().st_mtime > 1.2)
        dry = json.loads(instance.command("reap", "--dry-run", "--json").stdout)
        assert [one["job"] for one in dry["findings"]] == [lost.job_id]
        done = json.loads(instance.command("reap", "--json").stdout)
        assert (done["reaped"], done["left"]) == (1, 0)
        assert live.leader is not None
        assert live.leader.poll() is None
        stranger.reload()
        assert stranger.status == "running"
        lost.finish(lost.wait())
        live.qdel()
        assert live.finish(live.wait()).exit_status == 271
    finally:
        stranger.remove(force=True)
        client.close()
        instance.configure(good)


def test_reaper_blind_does_nothing(instance: Instance) -> None:
    """While mom's job directory cannot be read nothing is touched, and the command says so."""
    trial = _running(instance, "sleep 30")
    jobs = instance.mom_priv / "jobs"
    hidden = instance.mom_priv / "jobs.hidden"
    jobs.rename(hidden)
    try:
        said = instance.command("reap")
    finally:
        hidden.rename(jobs)
    assert said.returncode == 1
    assert said.stdout.startswith("nothing was touched: ")
    assert trial.leader is not None
    assert trial.leader.poll() is None
    trial.qdel()
    trial.finish(trial.wait())


def test_orphans_of_every_kind(instance: Instance) -> None:
    """Containers, cgroups, files and markers without a record are found and removed."""
    owner = f"{instance.name}@{os.uname().nodename}"
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
    assert done.exit_status == 0
    good = instance.config.read_text()
    instance.configure("[reaper]\ngrace_s = 0\nperiod_s = 3600\n")
    client = docker.from_env()
    client.containers.create(IMAGE, "true", labels={"pbsdock.owner": owner, "pbsdock.incarnation": "dead"})
    client.close()
    for controller in ("memory", "freezer"):
        Path(f"/sys/fs/cgroup/{controller}/{instance.name}/9.x.dead").mkdir(parents=True)
    (instance.run_dir / "work/9.x.dead").mkdir()
    (instance.run_dir / "jobs/9.x").touch()
    assert len(instance.left()) == 5
    # The agent that the command needs is started by a hook; its first pass may find them before the command does.
    instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
    instance.command("reap", "--json")
    instance.configure(good)

    assert instance.left() == []
    assert {one["kind"] for one in instance.events() if one["event"] == "orphan.reaped"} >= {
        "container",
        "cgroup",
        "files",
        "marker",
    }


def _library(instance: Instance) -> str:
    return str(next((instance.root / "opt/pbsdock/current/venv/lib").glob("python3*/site-packages")))


def test_users_are_kept_apart(instance: Instance) -> None:
    """Another user's requests about a job are refused and reported; root-only requests are refused."""
    trial = _running(instance, "sleep 30")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pbsdock.protocol import wire\nfrom pbsdock.protocol.link import Link\n"
        "link = Link(sys.argv[2], 5.0)\n"
        "for op in ('start', 'signal', 'rejoin', 'resize', 'prepare', 'release', 'reap', 'list'):\n"
        "    link.send(wire.Message(op, job=sys.argv[3], signal=15, rows=9, columns=9, argv=[b'/bin/sh']))\n"
        "    answer, _ = link.recv()\n"
        "    print(op, answer.op, answer.text('code'))\n"
    )
    said = subprocess.run(
        ["/usr/bin/python3", "-c", code, _library(instance), str(instance.run_dir / "agent.sock"), trial.job_id],
        user="pbsdock-b",
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout
    trial.qdel()
    trial.finish(trial.wait())

    assert said.splitlines() == [
        *(f"{op} refused not-your-job" for op in ("start", "signal", "rejoin", "resize")),
        *(f"{op} refused root-only" for op in ("prepare", "release", "reap", "list")),
    ]


# -- an engine of our own, to be stopped, hung and restarted ----------------------------------------------------------


@pytest.fixture(scope="module")
def own(scratch: Path, installed: Instance) -> Iterator[tuple[Instance, OwnEngine]]:
    """An instance on an engine of its own."""
    engine = OwnEngine(scratch / "engine")
    with ExitStack() as undo:
        undo.callback(subprocess.run, ["umount", "-R", "-l", str(scratch / "engine")], capture_output=True, check=False)
        undo.callback(engine.unmake)
        engine.start()
        instance = _install_own(scratch, engine, installed.home)
        undo.callback(instance.kill_agent)
        undo.callback(instance.end_all)
        yield instance, engine


def _install_own(scratch: Path, engine: OwnEngine, packages: Path) -> Instance:
    image = subprocess.run(["docker", "save", IMAGE], capture_output=True, check=True).stdout
    assert engine.docker("load", input=image).returncode == 0
    root = scratch / "own"
    (root / "mom_priv").mkdir(parents=True)
    (root / "etc/pbsdock").mkdir(parents=True)
    (root / "etc/pbsdock/pbsdock.toml").write_text(
        f'[engine]\nsocket = "{engine.socket}"\ntimeout_s = 3\n[health]\nhold_s = 1\n[reaper]\nperiod_s = 2\ngrace_s = 2\n'
    )
    assert install(root, packages=packages).returncode == 0
    return Instance(root, root / "mom_priv", (root / "etc/pbsdock/instance").read_text().strip())


def test_engine_restarted_in_mid_job(own: tuple[Instance, OwnEngine]) -> None:
    """A stopped engine takes the container along: the user is told, nothing is left, the next job runs."""
    instance, engine = own
    trial = _running(instance, "sleep 60")
    engine.stop()
    time.sleep(0.5)
    engine.start()
    done = trial.finish(trial.wait())

    assert done.exit_status in (137, 271)
    assert b"the Docker engine of this node was restarted while the job ran and ended it" in done.stderr
    assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho again\n").stdout == b"again\n"
    wait_until("the engine removed both", lambda: not engine.docker("ps", "-aq").stdout)


@pytest.mark.parametrize("seconds", [5, 1])
def test_engine_killed_with_live_restore(own: tuple[Instance, OwnEngine], seconds: int) -> None:
    """A job that runs on, or ends, while there is no engine: neither a byte nor the exit code is lost, nor a word said."""
    instance, engine = own
    engine.stop()
    engine.start("--live-restore")
    try:
        body = f"echo err >&2; for i in $(seq {seconds}); do echo $i; sleep 1; done; echo later; exit 7"
        trial = _running(instance, body)
        engine.kill()
        time.sleep(2.5)
        engine.start("--live-restore")
        done = trial.finish(trial.wait())
    finally:
        engine.stop()
        engine.start()

    said = "".join(f"{number}\n" for number in range(1, seconds + 1))
    assert (done.exit_status, done.stdout.decode(), done.stderr) == (7, f"ready\n{said}later\n", b"err\n")
    wait_until("nothing is left", lambda: instance.left() == [], 20)


def test_a_job_ends_while_there_is_no_engine(own: tuple[Instance, OwnEngine]) -> None:
    """Its run hook does not wait for one to come back; what is left goes when it does."""
    instance, engine = own
    engine.stop()
    engine.start("--live-restore")
    try:
        trial = _running(instance, "sleep 2; exit 9")
        began = time.monotonic()
        engine.kill()
        status = trial.wait()
        took = time.monotonic() - began
    finally:
        engine.start("--live-restore")
    done = trial.finish(status)
    engine.stop()
    engine.start()

    assert (done.exit_status, done.stderr) == (9, b"")
    assert took < 8
    wait_until("nothing is left", lambda: instance.left() == [], 20)


@pytest.mark.threat(33)
def test_engine_hung(own: tuple[Instance, OwnEngine]) -> None:
    """A hung engine costs a prologue one deadline, then the node is out of service; it comes back by itself."""
    instance, engine = own
    pid = int((engine.root / "pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
        took = time.monotonic() - began
        again = time.monotonic()
        instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
        took_again = time.monotonic() - again
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.exit_status == -14
    assert done.node_down is not None
    assert done.node_down.startswith("ERROR pbsdock: the Docker engine does not answer: ")
    assert took < 25
    assert took_again < 25
    wait_until("the node is back", lambda: not (instance.run_dir / "unhealthy").exists(), 30)
    assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho again\n").stdout == b"again\n"


def test_engine_down(own: tuple[Instance, OwnEngine]) -> None:
    """Without an engine the job is requeued at once and the node check says why."""
    instance, engine = own
    engine.stop()
    try:
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
        plain = instance.run("#!/bin/sh\necho plain\n")
    finally:
        engine.start()
    assert done.exit_status == -14
    assert done.node_down is not None
    assert plain.stdout == b"plain\n"
    wait_until("the node is back", lambda: not (instance.run_dir / "unhealthy").exists(), 30)
    assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho again\n").stdout == b"again\n"
    wait_until("nothing is left", lambda: instance.left() == [], 20)
