"""The site's choice of the engine's runtime, on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.core.errors import NodeFault
from pbsdock.engine import fitness
from pbsdock.engine.make import connect
from tests.conftest import IMAGE, Instance, wait_until
from tests.support.engine import OwnEngine

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
    fitness.check(plain, "another")
    with pytest.raises(NodeFault) as lacking:
        fitness.check(plain, "none-such")
    with pytest.raises(NodeFault) as mapping:
        fitness.check(mapped, "")

    assert (lacking.value.code, mapping.value.code) == ("runtime-missing", "userns-remap")
