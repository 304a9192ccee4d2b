"""Containers that jobs have started with their docker command, and what goes wrong meanwhile: nothing of them stays."""

from __future__ import annotations

import json
import os
import pwd
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import docker
import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, USERS, Instance, install, wait_until
from tests.support.agents import running
from tests.support.engine import OwnEngine

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]

_FOREVER = "sh -c 'echo begun; exec sleep 1000'"


def _begin(instance: Instance, lines: str, *, contained: bool, **options: object) -> Trial:
    directive = f"#DOCKER {IMAGE}\n" if contained else ""
    if not contained:
        instance.start_agent()  # for such a job nobody else starts it
    return instance.begin(f"#!/bin/sh\n{directive}cd $PBS_O_WORKDIR\n{lines}\n", **options)


def _said(trial: Trial, word: str, seconds: float = 60.0) -> None:
    """Wait until the job has said *word*."""
    wait_until(f"the job says {word!r}", lambda: word.encode() in trial.out_path.read_bytes(), seconds)


def _home() -> Path:
    return Path(pwd.getpwnam(USERS[0]).pw_dir)


def _children(instance: Instance) -> list[str]:
    """What there is of children beyond :meth:`Instance.present`: networks, remembered ones, mounts."""
    client = instance.engine()
    try:
        networks = [
            one["Name"]
            for one in client.api.networks()
            if instance.name in (one["Labels"] or {}).get("pbsdock.owner", "")
        ]
    finally:
        client.close()
    book = instance.state_dir / "children"
    found = [f"remembered {one}" for one in book.iterdir()] if book.exists() else []
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found += [f"mount {one}" for one in mounts if one.startswith(f"{instance.run_dir}/")]
    return found + [f"network {one}" for one in networks]


def _nothing_is_left(instance: Instance, seconds: float = 20.0) -> None:
    try:
        wait_until("nothing is left", lambda: not instance.present() and not _children(instance), seconds)
    except AssertionError:
        raise AssertionError(f"left: {instance.present() + _children(instance)}") from None


# -- the agent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contained", [False, True], ids=["bare-ends-meanwhile", "contained-ends-later"])
def test_agent_killed_while_children_run(instance: Instance, contained: bool) -> None:
    """A foreground one ends with its own code whether there is an agent then or not; the next one has the detached."""
    go = _home() / f"go-{contained}"
    trial = _begin(
        instance,
        f"""
docker run -d --name bg -e WHO=me {IMAGE} sh -c 'echo first; exec sleep 1000' | wc -c
docker run --name fg -v $PWD:/w {IMAGE} sh -c 'echo ready; while [ ! -e /w/{go.name} ]; do sleep 0.1; done; echo out; exit 7'
echo code $?
for i in $(seq 50); do docker version >/dev/null 2>&1 && break; sleep 0.2; done
docker ps --format '{{{{.Names}}}}'
docker exec bg sh -c 'echo $WHO'
docker logs bg
docker stop -t 5 bg
docker wait bg
docker wait fg
""",
        contained=contained,
    )
    _said(trial, "ready")
    instance.kill_agent()
    if contained:
        instance.start_agent()
        go.touch()
    else:
        go.touch()
        _said(trial, "out")
        time.sleep(0.3)  # its client finds no agent at first
        instance.start_agent()
    done = trial.finish(trial.wait())
    go.unlink()

    assert done.stdout.decode().split() == "65 ready out code 7 bg me first bg 143 7".split(), done.stderr
    _nothing_is_left(instance)


def test_client_killed(instance: Instance) -> None:
    """Its container ends with it, also where the agent it had asked is not there any more."""
    for agent_is_killed in (False, True):
        trial = _begin(instance, f"docker run {IMAGE} {_FOREVER} &\nsleep 1000", contained=False)
        _said(trial, "begun")
        (client,) = [pid for pid in running("docker", "run", IMAGE) if _is_client(pid)]
        if agent_is_killed:
            instance.kill_agent()
        os.kill(client, signal.SIGKILL)
        if agent_is_killed:
            instance.start_agent()
        wait_until("its container is gone", lambda: not [one for one in instance.present() if "container" in one])
        trial.qdel()
        trial.finish(trial.wait())
    _nothing_is_left(instance)


def _is_client(pid: int) -> bool:
    with suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "docker"
    return False


@pytest.mark.parametrize("agent_is_killed", [False, True], ids=["", "agent-killed-before"])
def test_every_end_of_a_job_takes_its_children(instance: Instance, agent_is_killed: bool) -> None:
    """Ended by itself, its shell killed, deleted, out of time: with one in the background, a detached one, a network."""
    lines = f"""
docker network create net >/dev/null
docker run -d --name db --network net {IMAGE} {_FOREVER} >/dev/null
docker run {IMAGE} {_FOREVER} &
for i in $(seq 300); do [ $(docker ps -q | wc -l) = 2 ] && break; sleep 0.1; done
echo ready
"""
    by_itself = _begin(instance, f"{lines}while [ ! -e over ]; do sleep 0.1; done", contained=False)
    killed = _begin(instance, f"{lines}sleep 1000", contained=False)
    hook_killed = _begin(instance, f"{lines}sleep 1000", contained=True)
    deleted = _begin(instance, f"{lines}sleep 1000", contained=True)
    trials = [by_itself, killed, hook_killed, deleted]
    for trial in trials:
        _said(trial, "ready")
    assert len([one for one in instance.present() if one.startswith("container")]) == 10
    if agent_is_killed:
        instance.kill_agent()
        instance.start_agent()
    (_home() / "over").touch()
    os.kill(killed.leader_pid, signal.SIGKILL)
    os.kill(hook_killed.leader_pid, signal.SIGKILL)
    deleted.request.kill_delay_s = 1
    deleted.qdel()
    done = [trial.finish(trial.wait()) for trial in trials]
    (_home() / "over").unlink()

    assert [one.exit_status for one in done] == [0, 265, 265, 271]
    _nothing_is_left(instance)


def test_no_descriptors(instance: Instance) -> None:
    """A start that finds none says so and leaves nothing; the next one works."""
    trial = _begin(
        instance,
        f"docker run {IMAGE} true; echo ready; while [ ! -e few ]; do sleep 0.1; done; docker run --rm --name xx {IMAGE} true;"
        f" echo code $?; echo said; while [ -e few ]; do sleep 0.1; done; for i in $(seq 20);"
        f" do docker run --rm --name xx {IMAGE} echo again && break; sleep 0.5; done",
        contained=False,
    )
    _said(trial, "ready")
    worker = instance.agent_pids()[-1]
    highest = max(int(fd) for fd in os.listdir(f"/proc/{worker}/fd"))
    soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (highest + 2, hard))
    (_home() / "few").touch()
    try:
        _said(trial, "said", 90)
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (soft, hard))
    (_home() / "few").unlink()
    done = trial.finish(trial.wait())

    assert done.stdout.decode().split() in (
        [*"ready code 125 said again".split()],
        [*"ready code 0 said again".split()],
    )
    _nothing_is_left(instance)


# -- an engine and disks of one's own -----------------------------------------------------------------------------------

_BYTES = 8 << 20


@pytest.fixture(scope="module")
def own(scratch: Path, installed: Instance) -> Iterator[tuple[Instance, OwnEngine]]:
    """An instance whose engine can be stopped and whose disks can be filled."""
    engine = OwnEngine(scratch / "shim-engine")
    with ExitStack() as undo:
        undo.callback(
            subprocess.run, ["umount", "-R", "-l", str(scratch / "shim-engine")], capture_output=True, check=False
        )
        undo.callback(engine.unmake)
        engine.start("--live-restore")
        root = scratch / "shim-own"
        (root / "mom_priv").mkdir(parents=True)
        (root / "etc/pbsdock").mkdir(parents=True)
        for directory in ("var/lib/pbsdock", "run/pbsdock"):
            (root / directory).mkdir(parents=True)
            _mount(root / directory)
            undo.callback(
                subprocess.run, ["umount", "-R", "-l", str(root / directory)], capture_output=True, check=False
            )
        (root / "etc/pbsdock/pbsdock.toml").write_text(
            f'[engine]\nsocket = "{engine.socket}"\ntimeout_s = 3\n[health]\nhold_s = 1\n'
            f"[reaper]\nperiod_s = 2\ngrace_s = 2\n"
        )
        image = subprocess.run(["docker", "save", IMAGE], capture_output=True, check=True).stdout
        assert engine.docker("load", input=image).returncode == 0
        assert install(root, packages=installed.home).returncode == 0
        instance = _Own(root, root / "mom_priv", (root / "etc/pbsdock/instance").read_text().strip())
        instance.of_engine = engine
        undo.callback(instance.kill_agent)
        undo.callback(instance.end_all)
        yield instance, engine


class _Own(Instance):
    """Asked of its own engine."""

    of_engine: OwnEngine

    def engine(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=f"unix://{self.of_engine.socket}")


def _mount(directory: Path) -> None:
    """A file system that is soon full, or gone."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_BYTES},mode=0755", "pbsdock-test", str(directory)], check=True
    )


def _steps(go: Path, *parts: str) -> str:
    """Parts of a job, each of which waits for the next letter of *go*."""
    lines = []
    for number, part in enumerate(parts, 1):
        lines.append(f"{part}\necho part{number}; while [ ! -e {go.name}{number} ]; do sleep 0.1; done")
    return "\n".join(lines)


def _let_go(go: Path, number: int) -> None:
    Path(f"{go}{number}").touch()


def _clear(go: Path) -> None:
    for path in go.parent.glob(f"{go.name}?"):
        path.unlink()


@pytest.mark.parametrize("live", [True, False], ids=["live-restore", "plain"])
def test_engine_restarted(own: tuple[Instance, OwnEngine], live: bool) -> None:
    """With live-restore all go on; without they end, which the job is told, and may start others."""
    instance, engine = own
    if not live:
        engine.stop()
        engine.start()
    go = _home() / "restart"
    try:
        trial = _begin(
            instance,
            f"""
docker run -d --name bg {IMAGE} sh -c 'echo first; exec sleep 1000' >/dev/null
(docker run --name fg -v $PWD:/w {IMAGE} sh -c 'echo ready; while [ ! -e /w/{go.name}1 ]; do sleep 0.1; done; exit 7'
echo code $? >fg.code) &
"""
            + _steps(go, "", "wait; docker exec bg echo executed; docker logs bg; docker ps --format '{{.Names}}'")
            + f"\ndocker stop -t 5 bg; docker wait bg fg; docker run {IMAGE} echo again",
            contained=False,
        )
        _said(trial, "ready")
        engine.stop()
        engine.start(*(["--live-restore"] if live else []))
        _let_go(go, 1)
        _said(trial, "part2")
        _let_go(go, 2)
        done = trial.finish(trial.wait())
        code = (_home() / "fg.code").read_text().split()
    finally:
        _clear(go)
        (_home() / "fg.code").unlink(missing_ok=True)
        if not live:
            engine.stop()
            engine.start("--live-restore")

    said = done.stdout.decode().split()
    if live:
        expected = "executed first bg part2 bg 143 7 again".split()
        assert (code, sorted(said[:2]), said[2:]) == (["code", "7"], ["part1", "ready"], expected), done.stderr
    else:
        assert code in (["code", "137"], ["code", "143"]), done.stderr
        assert said[-1] == "again", done.stderr
        assert said.count("137") + said.count("143") == 2, (said, done.stderr)
    _nothing_is_left(instance)


def test_engine_hung(own: tuple[Instance, OwnEngine]) -> None:
    """A start ends with a sentence; what it has half made is removed when the engine answers, and its name is free."""
    instance, engine = own
    go = _home() / "hung"
    trial = _begin(
        instance,
        _steps(
            go,
            f"docker run {IMAGE} true",
            f"docker run --name xx {IMAGE} true; echo code $?",
            f"for i in $(seq 30); do docker run --name xx {IMAGE} echo again 2>/dev/null && break; sleep 0.5; done",
        ),
        contained=False,
    )
    try:
        _said(trial, "part1")
        engine.freeze()
        try:
            _let_go(go, 1)
            _said(trial, "part2")
        finally:
            engine.thaw()
        _let_go(go, 2)
        _said(trial, "part3")
        _let_go(go, 3)
        done = trial.finish(trial.wait())
    finally:
        _clear(go)

    assert done.stdout.decode().split() == "part1 code 125 part2 again part3".split(), done.stderr
    assert b"the Docker engine does not answer" in done.stderr
    _nothing_is_left(instance)


def test_job_released_while_a_child_is_made(own: tuple[Instance, OwnEngine]) -> None:
    """The job is deleted while the engine hangs over the creation of a child."""
    instance, engine = own
    trial = _begin(instance, f"docker run {IMAGE} true; echo ready; docker run {IMAGE} {_FOREVER}", contained=False)
    _said(trial, "ready")
    engine.freeze()
    try:
        time.sleep(0.5)
        trial.request.kill_delay_s = 1
        trial.qdel()
        trial.finish(trial.wait())
    finally:
        engine.thaw()

    _nothing_is_left(instance, 40)


@pytest.mark.parametrize("disk", ["state_dir", "run_dir"])
def test_full_disk(own: tuple[Instance, OwnEngine], disk: str) -> None:
    """A start ends with a sentence and leaves nothing; what runs goes on; the next one works."""
    instance, _engine = own
    go = _home() / f"full-{disk}"
    trial = _begin(
        instance,
        _steps(
            go,
            f"docker run -d --name bg {IMAGE} {_FOREVER} >/dev/null",
            f"docker run --name xx {IMAGE} true; echo code $?; docker exec bg echo executed; docker rm -f bg",
            f"docker run --name xx {IMAGE} echo again",
        ),
        contained=False,
    )
    try:
        _said(trial, "part1")
        full: Path = getattr(instance, disk) / "full"
        with suppress(OSError), open(full, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        _let_go(go, 1)
        try:
            _said(trial, "part2")
        finally:
            full.unlink()
        _let_go(go, 2)
        _said(trial, "part3")
        _let_go(go, 3)
        done = trial.finish(trial.wait())
    finally:
        _clear(go)

    assert done.stdout.decode().split() == "part1 code 125 executed bg part2 again part3".split(), done.stderr
    assert b"No space left on device" in done.stderr
    _nothing_is_left(instance)


def test_power_cut_imitated(own: tuple[Instance, OwnEngine]) -> None:
    """Everything dead at once, /run empty, another boot id, a child's file damaged: the reaper removes all of it."""
    instance, engine = own
    trial = _begin(
        instance,
        f"docker network create net >/dev/null; docker run -d --name aa --network net {IMAGE} {_FOREVER};"
        f" docker run -d {IMAGE} {_FOREVER}; echo ready; sleep 1000",
        contained=False,
    )
    _said(trial, "ready")
    instance.kill_agent()
    os.kill(trial.leader_pid, signal.SIGKILL)
    engine.docker("kill", *engine.docker("ps", "-q").stdout.decode().split())
    record = next((instance.state_dir / "jobs").glob("*.json"))
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "boot_id": "another-boot"}))
    children = sorted(
        one for one in (instance.state_dir / "children" / record.stem).glob("*.json") if one.stem != "networks"
    )
    children[0].write_bytes(b"")
    subprocess.run(["umount", "-R", "-l", str(instance.run_dir)], check=True)
    _mount(instance.run_dir)
    for hierarchy in Path("/sys/fs/cgroup").iterdir():  # as empty as after a boot
        for here, _, _ in os.walk(hierarchy / instance.name, topdown=False):
            if here != str(hierarchy / instance.name):
                os.rmdir(here)
    trial.job_file.unlink()
    assert len(children) == 2, trial.err_path.read_text()
    instance.start_agent()

    _nothing_is_left(instance, 40)
    trial.finish(trial.wait())
