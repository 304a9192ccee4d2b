"""The run hook in C: that jobs and tasks have it, that it is not to be told from the one in Python, and what it is for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pbsdock.admin.setup import first_process
from pbsdock.trial import Trial
from tests.conftest import HOST_IMAGE, IMAGE, INSTALLED, USERS, Instance, wait_until

pytestmark = pytest.mark.engine
_MOST_KIB = 1024  # of a hook that waits; the interpreter takes eight times as much


def _program(instance: Instance) -> Path:
    return next(instance.home.glob("venv/lib/python3*/site-packages/pbsdock")) / first_process.RUN.name


@contextmanager
def _only(instance: Instance, kind: str) -> Iterator[None]:
    """The installation with the program, or without it, as on a host that has no compiler."""
    program = _program(instance)
    if kind == "c":
        yield
        return
    if INSTALLED:
        pytest.skip("nothing of what the system has installed is removed")
    aside = program.with_name("aside")
    program.rename(aside)
    try:
        yield
    finally:
        aside.rename(program)


@pytest.fixture(params=["c", "python"])
def kind(request: pytest.FixtureRequest, instance: Instance) -> Iterator[str]:
    """Which run hook there is."""
    with _only(instance, request.param):
        yield request.param


def _ready(instance: Instance, body: str, **options: object) -> Trial:
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}\n", **options)
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    return trial


def _is(pid: int, kind: str) -> bool:
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    return name == "pbsdock-run" if kind == "c" else name.startswith("python3")


def test_who_waits(instance: Instance, kind: str) -> None:
    """For the job and for a task; with little memory where it is the program."""
    trial = _ready(instance, "echo ready; sleep 60")
    read, write = os.pipe()
    task = trial.task(["/bin/sh", "-c", "echo begun; sleep 60"], write)
    os.close(write)
    assert os.read(read, 6) == b"begun\n"
    os.close(read)
    assert trial.leader is not None
    for pid in (trial.leader.pid, task.pid):
        assert _is(pid, kind)
        found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found is not None
        assert (int(found.group(1)) < _MOST_KIB) == (kind == "c")
    trial.qdel()
    assert trial.finish(trial.wait()).exit_status == 271


def test_ends_and_environments(instance: Instance) -> None:
    """What a job sees of its environment, byte for byte, its directory and umask, and its end are the same with either."""
    variables = {"a-b.c": "1 2", "BASH_FUNC_hi%%": "() {  echo hi\n}", "RAW": "\udcff\udcfe", "EMPTY": "", "set": "x"}
    script = f"#!/bin/bash\n#DOCKER {HOST_IMAGE}\nLC_ALL=C sort -z /proc/$$/environ; pwd; umask; exit 7\n"
    seen = {}
    for kind in ("c", "python"):
        with _only(instance, kind):
            done = instance.run(script, shell="/bin/bash", variables=variables, umask=0o027, job_id="4711.vm")
        assert (done.exit_status, done.stderr) == (7, b"")
        seen[kind] = done.stdout

    assert seen["c"] == seen["python"]
    for line in (b"RAW=\xff\xfe", b"a-b.c=1 2", b"BASH_FUNC_hi%%=() {  echo hi\n}", b"EMPTY="):
        assert line in seen["c"].split(b"\0")
    assert seen["c"].endswith(b"0027\n")


def test_a_site_without_a_first_process(instance: Instance) -> None:
    """The program hands over to the interpreter, for the job and for a task; nothing was started twice."""
    instance.configure("[engine]\nfirst_process = false\n")
    trial = _ready(instance, "echo ready; sleep 60")
    read, write = os.pipe()
    task = trial.task(["/bin/sh", "-c", "echo begun; sleep 60"], write)
    os.close(write)
    with open(read, "rb", buffering=0) as file:
        assert file.read(6) == b"begun\n"
    assert trial.leader is not None
    assert _is(trial.leader.pid, "python")
    assert _is(task.pid, "python")
    trial.qdel()
    trial.finish(trial.wait())

    assert [one["event"] for one in instance.events(trial.job_id)].count("job.started") == 1


def test_a_terminal_has_the_interpreter(instance: Instance) -> None:
    """Which relays it."""
    trial = instance.begin(None, USERS[0], variables={"PBSDOCK": HOST_IMAGE}, window=(31, 97), shell="/bin/sh")
    assert trial.leader is not None
    pid = trial.leader.pid
    wait_until("the hook is the interpreter", lambda: _is(pid, "python"))
    os.write(trial.terminal or -1, b"stty size; exit 9\r")
    status = trial.wait()
    said = trial.finish(status).stdout

    assert status == 9
    assert b"31 97" in said
