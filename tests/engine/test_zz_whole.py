"""What is checked once, over the whole run: the engine's HostConfig, and every event that was emitted."""

from __future__ import annotations

import json
import subprocess

import jsonschema
import pytest

from pbsdock.engine.docker.host_config import DEFAULTED, SET
from pbsdock.events import register
from tests.conftest import IMAGE, Instance, wait_until

pytestmark = pytest.mark.engine


@pytest.mark.threat(5)
def test_every_host_config_field_is_decided(images: None) -> None:
    """A field this engine knows and we have not looked at fails here."""
    name = "pbsdock-test-hostconfig"
    subprocess.run(["docker", "create", "--name", name, IMAGE, "true"], check=True, capture_output=True)
    try:
        said = subprocess.run(["docker", "inspect", name], check=True, capture_output=True).stdout
    finally:
        subprocess.run(["docker", "rm", name], check=True, capture_output=True)
    known = SET | DEFAULTED

    assert set(json.loads(said)[0]["HostConfig"]) - known == set()


def test_container_as_the_engine_and_the_kernel_see_it(instance: Instance) -> None:
    """Not the request but the running container: identity, groups, rights, cgroup, limits."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 30\n", resources="nodes=1:ppn=1,mem=100mb")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    started = next(one for one in instance.events(trial.job_id) if one["event"] == "job.started")
    found = json.loads(
        subprocess.run(["docker", "inspect", started["container"]], check=True, capture_output=True).stdout
    )[0]
    status = dict(
        line.split(":\t", 1) for line in open(f"/proc/{started['pid']}/status").read().splitlines() if ":\t" in line
    )
    cgroups = open(f"/proc/{started['pid']}/cgroup").read()
    trial.qdel()
    trial.finish(trial.wait())

    assert status["Uid"].split()[0] == str(trial.entry.pw_uid)
    assert sorted(int(one) for one in status["Groups"].split()) == sorted(trial.groups)
    assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    assert f"/{instance.name}/{trial.job_id}." in cgroups
    assert found["HostConfig"]["Memory"] == 100 << 20
    assert "PBS_JOBCOOKIE" not in json.dumps(found["Config"]["Labels"])


def test_every_event_of_the_run_is_of_the_schema(installed: Instance) -> None:
    """Whatever any test above made the agent say validates, and the numbers have no gap."""
    validator = jsonschema.Draft202012Validator(register.schema(strict=True))
    events = installed.events()

    assert len(events) > 10
    assert [one for one in events if list(validator.iter_errors(one))] == []
    assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
    # A disk that a test has filled, and descriptors that one has left it without, are told.
    caused = ("No space left on device", "Too many open files")
    errors = [one for one in events if one["event"] == "agent.error"]
    assert [one for one in errors if not any(cause in one["reason"] for cause in caused)] == []
