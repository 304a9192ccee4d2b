"""The run hook in C: that jobs and tasks have it, that it is not to be told from the one in Python, and what it is for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.admin.setup import first_process
from pbsdock.trial import Trial
from tests.conftest import HOST_IMAGE, IMAGE, INSTALLED, USERS, Instance, wait_until

pytestmark = pytest.mark.engine
_MOST_KIB = 1024  # of a hook that waits; the interpreter takes eight times as much


def _program(instance: Instance) -> Path:
    return next(instance.home.glob("venv/lib/python3*/site-packages/pbsdock")) / first_process.RUN.name


@pytest.fixture(params=["c", "python"])
def kind(request: pytest.FixtureRequest, instance: Instance) -> Iterator[str]:
    """The installation with the program, and without it, as on a host that has no compiler."""
    program = _program(instance)
    if request.param == "c":
        yield request.param
        return
    if INSTALLED:
        pytest.skip("nothing of what the system has installed is removed")
    aside = program.with_name("aside")
    program.rename(aside)
    yield request.param
    aside.rename(program)


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


def test_ends_and_environments(instance: Instance, kind: str) -> None:
    """What a job and a task see is what the one in Python has them see, but for what names the hook itself."""
    variables = {"a-b.c": "1 2", "BASH_FUNC_hi%%": "() {  echo hi\n}", "RAW": "\udcff\udcfe", "EMPTY": ""}
    script = f"#!/bin/sh\n#DOCKER {HOST_IMAGE}\ncat /proc/$$/environ >seen.{kind}; umask >>seen.{kind}; exit 7\n"
    done = instance.run(script, variables=variables, umask=0o027)
    home = Path(f"/home/{USERS[0]}")
    seen = (home / f"seen.{kind}").read_bytes()
    (home / f"seen.{kind}").unlink()

    assert done.exit_status == 7
    names = {line.partition(b"=")[0]: line for line in seen.split(b"\0") if b"=" in line}
    assert names[b"RAW"] == b"RAW=\xff\xfe"
    assert names[b"a-b.c"] == b"a-b.c=1 2"
    assert names[b"BASH_FUNC_hi%%"] == b"BASH_FUNC_hi%%=() {  echo hi\n}"
    assert names[b"EMPTY"] == b"EMPTY="
    assert b"_" not in names or b"pbsdock-run" not in names[b"_"]
    assert seen.endswith(b"0027\n")


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
