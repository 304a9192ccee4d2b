"""T4: what of the host a container can see, by any spelling, any link, and against a program that exchanges paths."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance
from tests.support.attack import Entry, image
from tests.support.threats import seconds

pytestmark = [pytest.mark.engine, pytest.mark.threat(26)]
HOME = Path(f"/home/{USERS[0]}")
REFUSED = (
    "/:/host",
    "/etc:/x",
    "/etc/shadow:/x",
    "/root:/x",
    "/proc:/x",
    "/proc/1/root:/x",
    "/proc/self/root:/x",
    "/sys:/x",
    "/dev:/x",
    "/dev/shm:/x",
    "/boot:/x",
    "/var/lib:/x",
    "/var/lib/docker:/x",
    "$HOME/../../etc:/x",
    "$HOME/../pbsdock-b:/x",
    "//etc:/x",
    "/./etc:/x",
    "/home:/x",
    "/home/pbsdock-b:/x",
    "$HOME/etc:/x",
    "$HOME/etc/passwd:/x",
    "$HOME/proc:/x",
    "$HOME/out/root:/x",
    "$HOME/pipe:/x",
    "$HOME/sock:/x",
    "$HOME/loop:/x",
    "$HOME/absent:/x",
    "relative:/x",
    "$HOME:/",
    "$HOME:/proc",
    "$HOME:/proc/1",
    "$HOME:/sys/fs",
    "$HOME:/dev",
    "$HOME:/etc",
    "$HOME:/etc/passwd",
    "$HOME:/x/../etc",
    "$HOME:relative",
    "SCRATCH2/data:/x",
    "SCRATCH/../SCRATCH2:/x",
    "SCRATCH/link:/x",
    "MOM:/x",
    "MOM/jobs:/x",
)


@pytest.fixture(scope="module")
def planted(users: tuple[str, ...]) -> Iterator[None]:
    """Links and odd files in the user's home."""
    links = {"etc": "/etc", "proc": "/proc/self/root", "out": "/", "loop": "loop"}
    with ExitStack() as undo:
        for name in (*links, "pipe", "sock"):
            (HOME / name).unlink(missing_ok=True)  # a run that was killed cannot tidy up
            undo.callback((HOME / name).unlink, missing_ok=True)
        for name, target in links.items():
            (HOME / name).symlink_to(target)
        os.mkfifo(HOME / "pipe", 0o666)
        door = undo.enter_context(socket.socket(socket.AF_UNIX))
        door.bind(str(HOME / "sock"))
        yield


@pytest.fixture
def site(instance: Instance, scratch: Path, planted: None) -> Path:
    """SCRATCH is open, SCRATCH2 beside it is not, mom's directory is opened by mistake."""
    for name in ("scratch", "scratch2/data"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    if not (scratch / "scratch/link").is_symlink():
        (scratch / "scratch/link").symlink_to(scratch / "scratch2")
    instance.configure(f'[mounts]\nallow = ["{scratch}/scratch", "{instance.mom_priv.parent}"]\n')
    return scratch


def test_no_other_path(instance: Instance, site: Path) -> None:
    """Each spelling is refused with a sentence, 125, nothing started."""
    began = []
    for volume in REFUSED:
        text = volume.replace("SCRATCH2", f"{site}/scratch2").replace("SCRATCH", f"{site}/scratch")
        done = instance.run(
            f"#!/bin/sh\n#DOCKER -v {text.replace('MOM', str(instance.mom_priv))} {IMAGE}\necho started\n"
        )
        if (done.exit_status, done.stdout) != (125, b"") or not done.stderr.startswith(b"pbsdock: STDIN:2:"):
            began.append((volume, done.exit_status, done.stdout, done.stderr))
    assert began == []


def test_the_open_ones_are_open(instance: Instance, site: Path) -> None:
    """Else the refusals above would prove nothing."""
    for volume in (f"{site}/scratch:/x", "$HOME:/x", "$HOME:/x:ro"):
        assert instance.run(f"#!/bin/sh\n#DOCKER -v {volume} {IMAGE}\nls /x\n").exit_status == 0


def _flip(stop: threading.Event, path: Path, secret: Path) -> None:
    """Make *path* in turn a plain directory and a link to *secret*, as fast as can be, without a moment in between."""
    real, link = path.with_name("real"), path.with_name("way")
    real.mkdir(exist_ok=True)
    link.symlink_to(secret)
    os.rename(real, path)
    code = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "a, b = (one.encode() for one in sys.argv[1:])\n"
        "while True:\n"
        "    libc.renameat2(-100, a, -100, b, 2)\n"  # RENAME_EXCHANGE, renameat2(2)
    )
    with subprocess.Popen(["/usr/bin/python3", "-c", code, str(path), str(link)], user=USERS[0]) as process:
        stop.wait()
        process.kill()


def test_a_path_that_changes_all_the_time(instance: Instance, scratch: Path, planted: None) -> None:
    """A link for a directory, exchanged without pause, and an image whose shell reads the mount before anybody looks.

    What the link leads to can be read by everybody once it is mounted; on the host its parent directory keeps users out.
    """
    secret = scratch / "closed/secret"
    secret.mkdir(parents=True)
    (secret / "text").write_text("TOPSECRET\n")
    secret.parent.chmod(0o700)
    place = HOME / "race"
    subprocess.run(["mkdir", str(place)], user=USERS[0], check=True)
    (place / "d").unlink(missing_ok=True)
    leak = HOME / "leaked"  # the job's own output is not handed out before the look
    shell = Entry(
        "bin/sh", f'#!/bin/busybox sh\n/bin/busybox cat /x/text >>{leak}\nexec /bin/busybox sh "$@"\n'.encode()
    )
    stop = threading.Event()
    flipper = threading.Thread(target=_flip, args=(stop, place / "d", secret))
    seen: dict[object, int] = {}
    leaked = 0
    with image("reader", [shell]) as reader:
        os.chown(place, *(os.stat(HOME).st_uid, os.stat(HOME).st_gid))
        flipper.start()
        try:
            until = time.monotonic() + seconds(15, 600)
            while time.monotonic() < until:
                done = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME/race/d:/x {reader}\ncat /x/text\n")
                seen[done.exit_status] = seen.get(done.exit_status, 0) + 1
                leaked += (done.stdout + (leak.read_bytes() if leak.exists() else b"")).count(b"TOPSECRET")
                leak.unlink(missing_ok=True)
        finally:
            stop.set()
            flipper.join()
            subprocess.run(["rm", "-rf", str(place), str(leak)], check=True)

    assert leaked == 0, (leaked, seen)
    assert seen.get(125, 0) > 0, seen  # the race was on: refusals were seen
    assert (instance.run_dir / "unhealthy").exists() is False
