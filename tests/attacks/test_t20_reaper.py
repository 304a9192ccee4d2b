"""T20: the reaper takes what is ours and dead, and nothing that only looks so."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import docker
import pytest

from tests.conftest import IMAGE, Instance, wait_until
from tests.support.attack import works

pytestmark = pytest.mark.engine


@pytest.fixture
def eager(instance: Instance) -> Instance:
    """A reaper without grace, which passes only when told to."""
    instance.configure("[reaper]\ngrace_s = 0\nperiod_s = 3600\n")
    assert works(instance)
    return instance


def test_strangers_that_look_like_ours(eager: Instance) -> None:
    """Near misses of our label, of our names and of our cgroup's name survive a pass; so does a live job."""
    import os

    node = f"{eager.name}@{os.uname().nodename}"
    labels: list[dict[str, str]] = [
        {},
        {"pbsdock.owner": f"{node}x"},
        {"pbsdock.owner": f"x{node}"},
        {"pbsdock.owner": eager.name},
        {"pbsdock.owner": f"{eager.name}@other"},
        {"pbsdock.job": "7.vm", "pbsdock.incarnation": "dead"},
        {"pbsdock.owner": node.upper()},
        {"pbsdock.owner": ""},
    ]
    client = docker.from_env()
    made = [
        client.containers.create(
            IMAGE, "sleep 100", labels=one, network_mode="none", name=f"pbsdock-7.vm-{i}-{os.getpid()}"
        )
        for i, one in enumerate(labels)
    ]
    beside = Path(f"/sys/fs/cgroup/memory/{eager.name}x/9.vm.dead")
    beside.mkdir(parents=True)
    live = eager.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 60\n")
    wait_until("the script runs", lambda: b"ready" in live.out_path.read_bytes())
    with subprocess.Popen(["sleep", "60"]) as process:
        (beside / "cgroup.procs").write_text(str(process.pid))
        try:
            done = json.loads(eager.command("reap", "--json").stdout)
            left = [one.id for one in client.containers.list(all=True)]
            assert done["findings"] == []
            assert {one.id for one in made} <= set(left)
            assert process.poll() is None
            assert live.leader is not None
            assert live.leader.poll() is None
        finally:
            process.kill()
            process.wait()
            for one in made:
                one.remove(force=True)
            client.close()
            wait_until("the process has left its cgroup", lambda: not (beside / "cgroup.procs").read_text())
            beside.rmdir()
            beside.parent.rmdir()
    live.qdel()
    live.finish(live.wait())


def test_nothing_is_reaped_blindly(eager: Instance) -> None:
    """Without mom's directory, or with a strange file in the ledger, it says why and touches nothing."""
    live = eager.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 60\n")
    wait_until("the script runs", lambda: b"ready" in live.out_path.read_bytes())
    strange = eager.state_dir / "jobs/7.vm.dead.json"
    strange.write_text("{}")
    said = eager.command("reap").stdout
    strange.unlink()
    jobs = eager.mom_priv / "jobs"
    jobs.rename(jobs.with_name("away"))
    blind = eager.command("reap").stdout
    jobs.with_name("away").rename(jobs)

    assert said.startswith("nothing was touched: ledger: ")
    assert blind.startswith("nothing was touched: ")
    assert live.leader is not None
    assert live.leader.poll() is None
    live.qdel()
    live.finish(live.wait())


def test_a_pass_has_a_cap(instance: Instance) -> None:
    """A mistake of ours removes so many things and no more before somebody sees it."""
    good = instance.config.read_text()
    instance.configure("[reaper]\ngrace_s = 3600\nperiod_s = 3600\ncap = 2\n")
    assert works(instance)
    wait_until("the job is gone, which a pass would find", lambda: not instance.present())
    try:
        for index in range(5):
            (instance.run_dir / "jobs" / f"{index}.gone").touch()
        done = json.loads(instance.command("reap", "--json").stdout)
        rest = len(list((instance.run_dir / "jobs").iterdir()))
    finally:
        for index in range(5):
            (instance.run_dir / "jobs" / f"{index}.gone").unlink(missing_ok=True)
        instance.configure(good)

    assert (len(done["findings"]), done["reaped"], rest) == (5, 2, 3)
