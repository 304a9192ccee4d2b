"""T21: a job id is a job id: no path, no pattern, no second line; and one that comes back is another job."""

from __future__ import annotations

import subprocess

import pytest

from tests.conftest import IMAGE, USERS, Instance
from tests.support.attack import as_user, is_healthy, works

pytestmark = pytest.mark.engine
NONE = (
    "../../etc/passwd",
    "7.vm/../8.vm",
    "",
    "*",
    "?",
    "7.vm\nforged",
    "7.vm\x1b[2J",
    "7" * 5000,
    "1[].vm[2]",
    "[0-9]",
    ".",
    "..",
    "7.vm\0",
    "-7.vm",
    "7.-vm",
    "\u0667.vm",
    "7 .vm",
    "7.vm;id",
    "$(id).vm",
    "7.v\u00e9",
    "7." + "v" * 300,
)


@pytest.mark.parametrize("job", NONE)
def test_at_the_socket(instance: Instance, job: str) -> None:
    """Refused for every request, and the event stream has no line that is not ours."""
    assert works(instance)
    before = len(instance.events_file.read_text().splitlines())
    said = as_user(
        instance,
        """
        link = Link(sys.argv[1], 5.0)
        for op in ("start", "signal", "rejoin", "resize", "eof", "adopted"):
            link.send(wire.Message(op, job=bytes.fromhex(sys.argv[2]), argv=[b"/bin/sh"], rows=9, columns=9, signal=9,
                                   directive=b"busybox"))
            answer, fds = link.recv()
            print(answer.op, len(fds))
    """,
        job.replace("\0", "\x01").encode().hex(),
    )

    assert set(said) == {"refused 0"}
    for line in instance.events_file.read_text().splitlines()[before:]:
        assert line.startswith('{"ts":"')


@pytest.mark.parametrize("job", [one for one in NONE if "\0" not in one and len(one) < 400][::3])
@pytest.mark.parametrize("hook", ["prologue", "epilogue", "prologue.parallel", "epilogue.parallel"])
def test_at_the_hooks(instance: Instance, hook: str, job: str) -> None:
    """Mom would never pass one; if it did, no marker, no record, nothing outside of our directories, and no loop."""
    script = instance.mom_priv / "jobs/strange.SC"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
    ends = ["1", "nodes=1", "", "batch", "", "0"] if hook == "epilogue" else ["nodes=1", "batch", ""]
    done = subprocess.run(
        [str(instance.mom_priv / hook), job, USERS[0], USERS[0], "x", *ends, str(script)],
        capture_output=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/bin:/bin"},
    )
    script.unlink()

    # A prologue ends it, since it would be the same on every node; the node is as well as before.
    assert done.returncode == (1 if hook == "prologue" else 0), done.stderr
    assert is_healthy(instance)
    assert instance.present() == []


@pytest.mark.parametrize(
    "job",
    [
        "4711[0].vm",
        "4711[99999].vm.example.org",
        "4711-3.vm",
        "4711." + "v" * 60 + ".example.org",
        "4711.head_node",
        "4711[3].vm.my_alias",
        "4711.vm:15011",
        "4711." + "v" * 250,
    ],
)
def test_long_and_bracketed_ids_work(instance: Instance, job: str) -> None:
    """What Torque does send is served: brackets and long server names are names of files and cgroups too."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho $PBS_JOBID\n", job_id=job)

    assert done.stdout.decode() == f"{job}\n", done.stderr
    assert instance.left() == []


def test_an_id_that_comes_back(instance: Instance) -> None:
    """After a server reset the same number is another job: nothing of the old one reaches it, nor the other way."""
    first = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho first\n", job_id="4242.vm")
    second = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nid -un; echo second\n", user=USERS[1], job_id="4242.vm")

    assert (first.stdout, second.stdout) == (b"first\n", f"{USERS[1]}\nsecond\n".encode())
    incarnations = {one["incarnation"] for one in instance.events("4242.vm") if "incarnation" in one}
    assert len(incarnations) == 2
