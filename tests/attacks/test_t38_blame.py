"""T38: what a user asks for is never taken for the node's fault: one job must not empty node after node."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from pbsdock.protocol import wire
from pbsdock.protocol.link import Link
from pbsdock.rm.torque import Resources
from pbsdock.trial import request
from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import is_healthy, works

pytestmark = pytest.mark.engine
_NOT_UNDERSTOOD = "pbsdock: what the job asks for with qsub -l cannot be understood: "
_NO_SIZE = "=9223372036854775807gb is no size that a node can have, and what Torque makes of a negative size or one it"
STRANGE = {
    "mem=9223372036854775807gb": f"pbsdock: mem{_NO_SIZE}",
    "vmem=9223372036854775807gb": f"pbsdock: vmem{_NO_SIZE}",
    "pmem=9223372036854775807gb": f"pbsdock: pmem{_NO_SIZE}",
    "pvmem=9223372036854775807gb": f"pbsdock: pvmem{_NO_SIZE}",
    "mem=-1gb": f"{_NOT_UNDERSTOOD}mem: '-1gb' is not a size; ",
    "mem=": f"{_NOT_UNDERSTOOD}mem: '' is not a size; ",
    "mem=1gw1": f"{_NOT_UNDERSTOOD}mem: '1gw1' is not a size; ",
    "mem=" + "9" * 400: f"{_NOT_UNDERSTOOD}mem: '999",
    "walltime=-1": f"{_NOT_UNDERSTOOD}walltime: '-1' is not a time; ",
    "walltime=" + "9" * 5000: f"{_NOT_UNDERSTOOD}walltime: '999",
    "nodes=1:ppn=-1": f"{_NOT_UNDERSTOOD}'ppn=-1' in nodes=",
    "nodes=1:ppn=x": f"{_NOT_UNDERSTOOD}'ppn=x' in nodes=",
    "nodes=:::": f"{_NOT_UNDERSTOOD}':::' is not a nodes request",
    "nodes=1:gpus=" + "9" * 30: f"{_NOT_UNDERSTOOD}'gpus=999",
}
HARMLESS = (
    "walltime=2562047788015215:30:07",
    "ncpus=9223372036854775807",
    "ncpus=-3",
    "nodes=1:ppn=99999999999999",
    "nodes=9223372036854775807",
    "nodes=1:gpus=9223372036854775807",
    "mem=64mb,vmem=9223372036854775807gb",
    "mem=16mw",
    "x" * 3000,
)


@pytest.fixture
def as_mom(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for mom hands on what it is given, unread, as mom does."""
    monkeypatch.setattr(request, "resource_text", lambda asked: asked)
    monkeypatch.setattr(request, "parse_resource_list", lambda _: Resources())
    monkeypatch.setattr(request, "rlimits", lambda _: {})


@pytest.mark.usefixtures("as_mom")
@pytest.mark.parametrize("resources", STRANGE)
def test_strange_requests(instance: Instance, resources: str) -> None:
    """A sentence at the job; the node is not flagged, and nothing is left."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho started\n", resources=resources)

    assert (done.prologue_status, done.exit_status, done.stdout) == (0, 125, b""), done.stderr
    assert done.stderr.decode().startswith(STRANGE[resources])
    assert done.node_down is None
    assert is_healthy(instance)
    assert instance.left() == []


@pytest.mark.usefixtures("as_mom")
@pytest.mark.parametrize("resources", HARMLESS)
def test_large_and_harmless(instance: Instance, resources: str) -> None:
    """What bounds nothing here, or less than the node has anyway, is no reason not to run."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho started\n", resources=resources)

    assert (done.prologue_status, done.exit_status, done.stdout) == (0, 0, b"started\n"), done.stderr
    assert is_healthy(instance)


@pytest.mark.usefixtures("as_mom")
def test_no_list_of_a_billion_gpus(instance: Instance) -> None:
    """A number of a request becomes no list of that length."""
    good = instance.config.read_text()
    instance.configure("[devices]\ngpus = true\n")
    try:
        done = instance.run(f"#!/bin/sh\n#DOCKER --gpus all {IMAGE}\ntrue\n", resources="nodes=1:gpus=99999999999")
    finally:
        instance.configure(good)

    assert (done.prologue_status, done.exit_status) == (0, 125)
    assert b"--gpus: 99999999999 GPUs on one node is more than any has; ask for fewer" in done.stderr
    assert is_healthy(instance)


@pytest.mark.usefixtures("as_mom")
def test_a_plain_job_is_none_of_ours(instance: Instance) -> None:
    """A comment that looks like a directive is looked at, and then the job is mom's alone, whatever it asks for."""
    done = instance.run("#!/bin/sh\n#docker is not what this is about\necho plain\n", resources="mem=-1gb")

    assert (done.exit_status, done.stdout) == (0, b"plain\n"), done.stderr


class Strange:
    """A job as mom would start it, again and again."""

    def __init__(self, instance: Instance, job: str, user: str) -> None:
        self.instance, self.job, self.user = instance, job, user
        self.script = instance.mom_priv / f"jobs/{job}.SC"
        self.script.parent.mkdir(exist_ok=True)
        self.script.write_text(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
        self.script.chmod(0o700)
        entry = pwd.getpwnam(USERS[0])
        os.chown(self.script, entry.pw_uid, entry.pw_gid)

    def arguments(self) -> list[str]:
        return [self.job, self.user, "g", "x", "nodes=1", "batch", "", str(self.script)]

    def prologue(self) -> int:
        return subprocess.run(
            [str(self.instance.mom_priv / "prologue"), *self.arguments()],
            capture_output=True,
            check=False,
            timeout=60,
            env={"PATH": "/usr/bin:/bin"},
        ).returncode

    def start(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.instance.root / "opt/pbsdock/hooks/run"), "/bin/sh"],
            user=USERS[0],
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": "/usr/bin:/bin", "PBS_JOBID": self.job},
            stdin=subprocess.DEVNULL,
        )

    def end(self) -> None:
        subprocess.run(
            [
                str(self.instance.mom_priv / "epilogue"),
                self.job,
                self.user,
                "g",
                "x",
                "1",
                "mem=-1gb",
                "",
                "batch",
                "",
                "125",
                str(self.script),
            ],
            capture_output=True,
            check=False,
            timeout=60,
            env={"PATH": "/usr/bin:/bin"},
        )
        self.script.unlink()


def test_a_user_nobody_knows(instance: Instance) -> None:
    """It may be a name service that is late: queued again twice, then refused; an agent's restart forgets nothing."""
    assert works(instance)
    wait_until("its job is released", lambda: not instance.left())  # what an agent has promised goes with it
    job = Strange(instance, "880.vm", "nobody-knows-me")
    try:
        first = [job.prologue(), job.prologue()]
        instance.kill_agent()
        third = job.prologue()
        said = job.start()
    finally:
        job.end()

    assert (first, third) == ([2, 2], 0)
    assert said.returncode == 125
    assert said.stderr.startswith("pbsdock: preparing job 880.vm on ")
    assert "has failed 3 times for one reason: user 'nobody-knows-me' of job 880.vm is not known here" in said.stderr
    assert is_healthy(instance)
    assert instance.left() == []


def test_a_job_no_agent_answers_about(instance: Instance) -> None:
    """An agent that answers a ping is no reason to flag the node; its third silence about one job is that job's."""
    assert works(instance)
    job = Strange(instance, "881.vm", USERS[0])
    answers = []
    try:
        for _ in range(3):
            link = Link(f"{instance.run_dir}/agent.sock", 10.0)
            link.send(wire.Message("failed", argv=[one.encode() for one in job.arguments()]))
            answers.append(link.recv()[0].op)
            link.close()
        said = job.start()
    finally:
        job.end()

    assert answers == ["fault", "fault", "prepared"]
    assert (said.returncode, "gave no answer about the job" in said.stderr) == (125, True)
    assert is_healthy(instance)


def test_an_engine_that_is_away_is_the_nodes(instance: Instance) -> None:
    """The other way round: what the look confirms takes the node down, counts against no job, and heals by itself."""
    good = instance.config.read_text()
    instance.configure(f'[engine]\nsocket = "{instance.root}/no-engine.sock"\ntimeout_s = 1\n')
    job = Strange(instance, "882.vm", USERS[0])
    try:
        codes = [job.prologue() for _ in range(4)]
        flag = (instance.run_dir / "unhealthy").read_text()
        counted = Path(instance.state_dir / "attempts.json")
        text = counted.read_text() if counted.exists() else ""
    finally:
        job.end()
        instance.config.write_text(good)
        instance.kill_agent()
        (instance.run_dir / "unhealthy").unlink(missing_ok=True)

    assert codes == [2, 2, 2, 2]
    assert flag.startswith("the Docker engine does not answer: ")
    assert "882.vm" not in text
    assert works(instance)
