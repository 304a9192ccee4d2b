"""The site's choice of the engine's runtime, on the real engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.core.errors import NodeFault
from pbsdock.engine import fitness
from pbsdock.engine.make import connect
from tests.conftest import IMAGE, NO_SHELL_IMAGE, Instance, wait_until
from tests.support.engine import OwnEngine, crun

pytestmark = pytest.mark.engine


@pytest.fixture
def restored(instance: Instance) -> Iterator[Instance]:
    """The instance with its configuration as before afterwards."""
    good = instance.config.read_text()
    yield instance
    instance.configure(good)
    instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")  # starts an agent, which looks for itself
    wait_until("the node is back", lambda: not (instance.run_dir / "unhealthy").exists(), 30)


def test_a_runtime_the_engine_has(restored: Instance) -> None:
    """It is what the container is made with."""
    restored.configure('[engine]\nruntime = "io.containerd.runc.v2"\n')
    trial = restored.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ran; sleep 60\n")
    wait_until(
        "the container runs", lambda: any(one["event"] == "job.started" for one in restored.events(trial.job_id))
    )
    made = restored.inspect(trial.job_id)
    restored.end_all()

    assert made["HostConfig"]["Runtime"] == "io.containerd.runc.v2"


def test_a_runtime_the_engine_lacks(restored: Instance) -> None:
    """The admin's to mend: the job is queued again, the node goes out of service with the sentence and comes back."""
    restored.configure('[engine]\nruntime = "none-such"\n')
    done = restored.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho started\n")
    doctor = restored.command("doctor", "engine")

    assert "engine.runtime = 'none-such' is no runtime of the Docker engine" in doctor.stdout
    assert doctor.returncode == 1
    assert (done.exit_status, done.stdout) == (-14, b"")
    assert done.node_down is not None
    assert "engine.runtime = 'none-such' is no runtime of the Docker engine; it has io.containerd.runc.v2, " in (
        done.node_down
    )


def test_what_a_real_engine_says_of_itself(scratch: Path, users: tuple[str, ...]) -> None:
    """One that maps user ids, and has a runtime more: both are seen."""
    engine = OwnEngine(scratch / "engine")
    engine.start("--add-runtime=another=/usr/sbin/runc")
    try:
        plain = connect(str(engine.socket), 20.0).info()
        engine.stop()
        engine.start(f"--userns-remap={users[0]}")
        mapped = connect(str(engine.socket), 20.0).info()
    finally:
        engine.unmake()
    fitness.check(plain, "another", "hpc")
    with pytest.raises(NodeFault) as lacking:
        fitness.check(plain, "none-such", "hpc")
    with pytest.raises(NodeFault) as mapping:
        fitness.check(mapped, "", "hpc")

    assert (lacking.value.code, mapping.value.code) == ("runtime-missing", "userns-remap")


class Node:
    """The instance on an engine of its own."""

    def __init__(self, instance: Instance, engine: OwnEngine) -> None:
        self.instance, self.engine = instance, engine

    def use(self, more: str = "") -> None:
        """Point the instance at that engine, with *more* of the table ``[engine]``."""
        self.instance.configure(
            f'[engine]\nsocket = "{self.engine.socket}"\n{more}[reaper]\ngrace_s = 0\nperiod_s = 3600\n'
        )

    def containers(self) -> list[str]:
        """What there is at that engine."""
        return self.engine.docker("ps", "-aq").stdout.decode().split()


@pytest.fixture(scope="module")
def second_engine(installed: Instance, scratch: Path) -> Iterator[OwnEngine]:
    """One that has crun besides, and the images."""
    engine = OwnEngine(scratch / "crun-engine")
    try:
        engine.start(f"--add-runtime=crun={crun(scratch / 'crun')}")
        saved = subprocess.run(["docker", "save", IMAGE, NO_SHELL_IMAGE], capture_output=True, check=True).stdout
        assert engine.docker("load", input=saved).returncode == 0
        yield engine
    finally:
        engine.unmake()


@pytest.fixture
def node(restored: Instance, second_engine: OwnEngine) -> Iterator[Node]:
    """The instance moved onto that engine."""
    found = Node(restored, second_engine)
    yield found
    restored.end_all()
    wait_until("nothing is left there", lambda: not found.containers(), 20)


def test_jobs_with_crun(node: Node) -> None:
    """Output, exit status and limits as with runc; a deleted job is gone."""
    node.use('runtime = "crun"\n')
    done = node.instance.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\nid -u; grep -E 'Seccomp:|NoNewPrivs|CapEff' /proc/self/status; echo err >&2; exit 7\n"
    )
    assert (done.exit_status, done.stderr) == (7, b"err\n"), done.stderr
    full = node.instance.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\ndd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null\n"
        "for i in 1 2 3; do tail /dev/zero & done; wait $!\nexit $?\n",
        resources="nodes=1:ppn=1,mem=64mb",
    )
    trial = node.instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready; sleep 600\n")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    (container,) = node.containers()
    made = json.loads(node.engine.docker("inspect", container).stdout)[0]
    trial.qdel()
    deleted = trial.finish(trial.wait())

    assert (done.exit_status, done.stderr) == (7, b"err\n"), done.stderr
    assert done.stdout.decode().split() == [
        str(trial.entry.pw_uid),
        "CapEff:",
        "0" * 16,
        "NoNewPrivs:",
        "1",
        "Seccomp:",
        "2",
    ]
    assert full.exit_status == 137
    assert b"a process was killed at the job's limit of 64 MiB; peak use 64 MiB" in full.stderr
    assert made["HostConfig"]["Runtime"] == "crun"
    assert deleted.exit_status >= 256


def test_what_crun_cannot_start(node: Node) -> None:
    """The user's: an image without the shell is told in the same words as with runc, and the node is not blamed."""
    node.use('runtime = "crun"\n')
    done = node.instance.run(f"#!/bin/sh\n#DOCKER {NO_SHELL_IMAGE}\ntrue\n")

    assert f"image 'docker.io/{NO_SHELL_IMAGE}' has no /bin/sh that can be run" in done.stderr.decode()
    assert done.node_down is None


def test_an_engine_that_maps_user_ids(node: Node, users: tuple[str, ...]) -> None:
    """Jobs are queued again before anything of theirs runs, doctor and the node's state say why, until it is mended."""
    node.engine.stop()
    node.engine.start(f"--userns-remap={users[0]}")
    try:
        node.use()
        done = node.instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho started\n")
        doctor = node.instance.command("doctor", "engine")
    finally:
        node.engine.stop()
        node.engine.start()
    again = node.instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho started\n")

    said = "the Docker engine maps user ids (userns-remap)"
    assert (done.exit_status, done.stdout) == (-14, b"")
    assert said in str(done.node_down)
    assert said in doctor.stdout
    assert doctor.returncode == 1
    assert (again.exit_status, again.stdout) == (0, b"started\n"), again.stderr
