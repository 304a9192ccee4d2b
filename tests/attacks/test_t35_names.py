"""T35, T36: no name that can be guessed and planted before us, nothing left open to all, no mount that leaks."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance, wait_until

pytestmark = pytest.mark.engine


def _open_to_others(top: Path) -> list[str]:
    found = []
    for path in (top, *top.rglob("*")):
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode) or "/spool" in str(path) or stat.S_ISSOCK(facts.st_mode):
            continue
        if facts.st_mode & 0o022 and path.name != "spool":
            found.append(f"{path} {stat.S_IMODE(facts.st_mode):o}")
    return found


def test_nothing_is_writable_by_others(instance: Instance) -> None:
    """Of the whole installation, while a job runs in it; the socket alone takes everybody's messages."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 60\n")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    # Pins are the user's own directories, behind a directory nobody else can enter.
    open_ = [
        one
        for part in ("etc", "opt", "var", "run/pbsdock/jobs", "run/pbsdock/work")
        for one in _open_to_others(instance.root / part)
    ]
    closed = [
        stat.S_IMODE((instance.root / one).stat().st_mode) & 0o077
        for one in ("run/pbsdock/work", "run/pbsdock/pins", "var/lib/pbsdock", "var/lib/pbsdock/jobs")
    ]
    trial.qdel()
    trial.finish(trial.wait())

    assert open_ == []
    assert closed == [0, 0, 0, 0]


def test_nothing_is_made_in_shared_directories(instance: Instance) -> None:
    """A job leaves /tmp, /var/tmp and /dev/shm as they were: there is no name there to plant a link at."""
    places = ("/tmp", "/var/tmp", "/dev/shm")
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 1\n")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    held = [
        os.readlink(f"/proc/{pid}/fd/{fd}")
        for pid in instance.agent_pids()
        for fd in os.listdir(f"/proc/{pid}/fd")
        if os.path.islink(f"/proc/{pid}/fd/{fd}")
    ]
    made = [
        one
        for place in places
        for one in Path(place).rglob("*pbsdock*")
        if one.lstat().st_mtime > trial.spool.start_time
        and not one.is_relative_to(instance.root.parent)
        and trial.job_id in one.name
    ]
    trial.finish(trial.wait())

    assert [one for one in held if one.startswith(places) and not one.startswith(str(instance.root))] == []
    assert made == []


def test_a_link_planted_where_we_write(instance: Instance) -> None:
    """The markers' and the records' directories are root's alone, so nobody plants one; the event stream follows none."""
    target = Path(f"/home/{USERS[0]}/planted")
    stream = instance.events_file
    kept = stream.rename(stream.with_suffix(".kept"))
    stream.symlink_to(target)
    try:
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ran\n")
    finally:
        stream.unlink()
        kept.rename(stream)
    assert done.stdout == b"ran\n"
    assert not target.exists()


@pytest.mark.threat(36)
def test_mounts_do_not_travel(instance: Instance, scratch: Path) -> None:
    """What is mounted on the host while a job runs stays out of it, what is mounted inside stays in, and taking the
    job's mounts away takes none of the host's."""
    home = Path(f"/home/{USERS[0]}")
    for name in ("before", "after"):
        (home / name).mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(home / "before")], check=True)
    subprocess.run(["mount", "--make-shared", str(home / "before")], check=True)  # as systemd has every mount
    (home / "before/deep").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(home / "before/deep")], check=True)
    try:
        trial = instance.begin(
            f"#!/bin/sh\n#DOCKER {IMAGE}\ngrep -c ' shared:' /proc/self/mountinfo; grep /home/ /proc/self/mountinfo | grep -c ' master:'\necho ready\n"
            "while [ ! -e go ]; do sleep 0.1; done; grep -c after /proc/self/mountinfo\nmount -t tmpfs none /tmp 2>/dev/null && echo mounted\n"
        )
        wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
        subprocess.run(["mount", "-t", "tmpfs", "none", str(home / "after")], check=True)
        (home / "go").touch()
        done = trial.finish(trial.wait())
        assert instance.left() == []
        mounted = Path("/proc/self/mountinfo").read_text()
    finally:
        for name in ("before", "after"):
            subprocess.run(["umount", "-R", str(home / name)], check=False)
            (home / name).rmdir()
        (home / "go").unlink(missing_ok=True)

    assert done.stdout == b"0\n0\nready\n0\n"
    assert f" {home}/before " in mounted
    assert f" {home}/before/deep " in mounted
    assert f" {home}/after " in mounted
    assert str(instance.run_dir) not in mounted
