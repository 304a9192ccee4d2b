"""T7: root reads one file of the user's, once and without being led elsewhere, and writes none.

Mom's own directory of scripts is root's, so a user cannot exchange the script there while it is read; here root puts
in its place what a user would.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, USERS, Instance

pytestmark = pytest.mark.engine


def _link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def _hard_link(path: Path, secret: Path) -> None:
    os.link(secret, path)


def _pipe(path: Path, _secret: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, _secret: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # its name is too long for sun_path otherwise
        one.bind(path.name)
        os.chdir("/")


def _device(path: Path, _secret: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: it has no end


def _directory(path: Path, _secret: Path) -> None:
    path.mkdir()


def _of_another(path: Path, secret: Path) -> None:
    path.write_bytes(secret.read_bytes())
    os.chown(path, 0xFFF0, 0xFFF0)


@pytest.mark.parametrize("swap", [_link, _hard_link, _pipe, _socket, _device, _directory, _of_another])
def test_a_script_that_is_something_else(instance: Instance, swap: Callable[[Path, Path], None]) -> None:
    """Refused within moments, and nothing of what it leads to is read into record, event or output."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n"))
    trial.prepare_files()
    secret = instance.mom_priv / "jobs/secret"
    secret.write_text(f"#!/bin/sh\n#DOCKER {IMAGE} TOPSECRET\n")
    trial.script_path.unlink()
    swap(trial.script_path, secret)
    began = time.monotonic()
    trial.prologue()
    took = time.monotonic() - began
    if trial.script_path.is_dir():
        trial.script_path.rmdir()
    told = [one for one in instance.events(trial.job_id) if one["event"] == "job.refused"]
    done = trial.finish(125)
    secret.unlink()

    assert took < 20
    # What the shell's grep finds no directive in never comes to the agent: the job runs bare, as its user.
    if swap in (_link, _hard_link, _of_another):
        assert [one["code"] in ("script-unreadable", "script-unsafe") for one in told] == [True]
    else:
        assert told == []
    assert b"TOPSECRET" not in done.stdout + done.stderr + instance.events_file.read_bytes()


def test_root_leaves_nothing_in_a_home(instance: Instance) -> None:
    """After jobs that mount it in every way, no file below the user's home is anybody else's."""
    home = Path(f"/home/{USERS[0]}")
    subprocess.run(["mkdir", "-p", f"{home}/in/side"], user=USERS[0], check=True)
    for options in (
        "-v $HOME/in:/x/y",
        "-v $HOME/in:$HOME/in/side",
        "--workdir $HOME/in",
        "--read-only -v $HOME/in:/data",
    ):
        assert instance.run(f"#!/bin/sh\n#DOCKER {options} {IMAGE}\ntrue\n").exit_status == 0

    foreign = subprocess.run(["find", str(home), "!", "-user", USERS[0]], capture_output=True, text=True, check=True)
    assert foreign.stdout == ""


@pytest.mark.parametrize("options", ["--workdir /shared/made", "-v $HOME:/shared/made", "--tmpfs /shared/made/deep"])
def test_root_makes_nothing_where_the_user_may_not(instance: Instance, scratch: Path, options: str) -> None:
    """The engine makes a missing directory as root: not in a directory of the host's that is only mounted."""
    shared = scratch / "shared"
    shared.mkdir(exist_ok=True)
    good = instance.config.read_text()
    instance.configure(f'[mounts]\nalways = ["{shared}:/shared"]\n')
    try:
        instance.run(f"#!/bin/sh\n#DOCKER {options} {IMAGE}\ntrue\n")
        found = list(shared.iterdir())
    finally:
        instance.configure(good)
    assert found == []


def test_a_directory_the_run_hook_names(instance: Instance, scratch: Path) -> None:
    """The same by the run hook's word for its working directory, which is the user's."""
    shared = scratch / "shared"
    shared.mkdir(exist_ok=True)
    good = instance.config.read_text()
    instance.configure(f'[mounts]\nalways = ["{shared}:/shared"]\n')
    try:
        trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n"))
        trial.prepare_files()
        assert trial.prologue() == 0
        trial.spool.record(None)
        from tests.support.attack import as_user

        as_user(
            instance,
            """
            for cwd in (b"/shared/made", b"/shared/../shared/made", sys.argv[3].encode() + b"/../../shared/made"):
                link = Link(sys.argv[1], 20.0)
                link.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/sleep", b"30"], cwd=cwd))
                link.recv()
        """,
            trial.job_id,
            f"/home/{USERS[0]}",
            user=USERS[0],
        )
        trial.finish(0)
        found = list(shared.iterdir())
    finally:
        instance.configure(good)
    assert found == []
