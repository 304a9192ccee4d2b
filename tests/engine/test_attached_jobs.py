"""Jobs of a site without a first process of pbsdock's own: the engine starts their shell and passes on the streams."""

from __future__ import annotations

import os

import pytest

from tests.conftest import HOST_IMAGE, IMAGE, USERS, Instance, wait_until

pytestmark = pytest.mark.engine


@pytest.fixture
def site(instance: Instance) -> Instance:
    """One that has chosen so; the fixture puts the configuration back."""
    instance.configure("[engine]\nfirst_process = false\n")
    return instance


def test_a_job_without_a_first_process(site: Instance) -> None:
    """Streams, exit status, umask, limits, a variable that the engine cannot carry, tasks, a terminal, a program that is
    not there; nothing is left."""
    body = 'umask; ulimit -v; cat /proc/1/comm; echo err >&2; printf %s "$BAD" | wc -c; exit 5'
    resources = "nodes=1:ppn=1,walltime=01:00:00,pvmem=900mb"
    done = site.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}\n", resources=resources, variables={"BAD": "\udcff"})
    assert (done.exit_status, done.stderr) == (5, b"err\n")
    assert done.stdout.split() == [b"0077", b"921600", b"sh", b"0"]
    assert [one["names"] for one in site.events(done.job_id) if one["event"] == "env.dropped"] == ["BAD"]

    trial = site.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready; sleep 30\n")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    read, write = os.pipe()
    task = trial.task(["/bin/sh", "-c", "echo task; cat /proc/1/comm; exit 6"], write)
    os.close(write)
    with open(read, "rb") as file:
        assert file.read() == b"task\nsh\n"
    assert task.wait(20) == 6
    trial.qdel()
    assert trial.finish(trial.wait()).exit_status == 271

    refused = site.run(f"#!/nowhere/x\n#DOCKER {IMAGE}\ntrue\n")
    assert (refused.exit_status, refused.stdout) == (125, b"")
    assert b"has no /nowhere/x, which the script's first line names" in refused.stderr
    assert site.left() == []


def test_a_terminal_without_a_first_process(site: Instance) -> None:
    """By the engine's own."""
    trial = site.begin(None, USERS[0], variables={"PBSDOCK": HOST_IMAGE}, window=(31, 97), shell="/bin/sh")
    os.write(trial.terminal or -1, b"stty size; exit 9\r")
    status = trial.wait()
    said = trial.finish(status).stdout

    assert status == 9
    assert b"31 97" in said
