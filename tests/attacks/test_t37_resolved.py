"""T37: policy by name, mount by link. What counts is where an opened path really is, for every origin of a mount; and a
mount that may be read only is so all the way down."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pbsdock.core.errors import Refusal
from pbsdock.core.pathrules import PathRules
from pbsdock.core.plan import Mount
from pbsdock.host import mounts, pins, syscalls
from pbsdock.trial import Trial
from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import as_user, is_healthy
from tests.support.threats import seconds

pytestmark = pytest.mark.engine
HOME = Path(f"/home/{USERS[0]}")
# Makes the directory DIRECTORY/NAME and a link to TARGET change places without pause, and says when it has begun.
_FLIP = """
import ctypes, os, sys
directory, name, target = sys.argv[1:]
os.makedirs(f"{directory}/{name}", exist_ok=True)
os.symlink(target, f"{directory}/link")
exchange = ctypes.CDLL(None).renameat2  # RENAME_EXCHANGE, renameat2(2)
print("begun", flush=True)
a, b = f"{directory}/{name}".encode(), f"{directory}/link".encode()
while True:
    exchange(-100, a, -100, b, 2)
"""


@contextmanager
def _exchanged(directory: Path, name: str, target: str) -> Iterator[Path]:
    """Yield a path of the user's that is a directory of theirs and a link to *target* in turn."""
    subprocess.run(["rm", "-rf", str(directory)], check=True)
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", _FLIP, str(directory), name, target], user=USERS[0], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        try:
            yield directory / name
        finally:
            process.kill()
    subprocess.run(["rm", "-rf", str(directory)], check=True)


def _our_mounts(instance: Instance) -> list[str]:
    """Those that the agent or a job could have left: others' tests and engines mount and unmount meanwhile."""
    places = (f"{instance.root.parent}/", f"{HOME}/")
    return sorted(point for point, _ in syscalls.mount_points() if point.startswith(places))


@pytest.mark.parametrize("origin", ["tmpdir", "home", "workdir", "volume"])
def test_the_opened_file_is_judged(users: tuple[str, ...], origin: str) -> None:
    """Thousands of looks at a path that is exchanged all the time: what comes of one is the user's own directory."""
    owner = HOME.stat()
    user = mounts.User(uid=owner.st_uid, gid=owner.st_gid, groups=())
    rules = PathRules(allow=(str(HOME),), tmpdir_by_user=True)
    found: set[str] = set()
    refused = 0
    with _exchanged(HOME / "race", "7.vm", "/") as path:
        until = time.monotonic() + seconds(1, 60)
        while time.monotonic() < until:
            one = Mount(source=str(path), target="/x", read_only=False, origin=origin, required=True)  # type: ignore[arg-type]
            try:
                (bound,), _ = mounts.resolve([one], user, rules)
            except Refusal:
                refused += 1
            else:
                found.add(bound.source)

    assert found <= {str(path)}
    assert found, "never seen as a directory: nothing was tried"
    assert refused > 10, "never seen as a link: nothing was tried"


def test_tmpdir_on_demand(instance: Instance, scratch: Path) -> None:
    """The host's root as TMPDIR of an on-demand start: never in a container, and no mount stays on the host."""
    place = (
        scratch / "t37-race"
    )  # not below what a container gets anyway, where a link leads to the container's own root
    place.mkdir()
    place.chmod(0o777)
    instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n")  # sees to an agent
    wait_until("nothing is left", lambda: not instance.left())
    before = _our_mounts(instance)
    tries, began, seen = 0, 0, ""
    until = time.monotonic() + seconds(8, 300)
    while time.monotonic() < until:
        tries += 1
        trial = Trial(instance.request(None))
        trial.prepare_files()
        trial.spool.record(os.getpid())
        with _exchanged(place / "race", trial.job_id, "/") as path:
            said = as_user(
                instance,
                """
                link = Link(sys.argv[1], 60.0)
                link.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/sh"], directive=sys.argv[4], cwd="/",
                                       env=[b"TMPDIR=" + sys.argv[3].encode()]))
                answer, fds = link.recv()
                while answer.op == "notice":
                    answer, fds = link.recv()
                print(answer.op)
                if fds:
                    for line in run_in(answer, fds, f"ls -d {sys.argv[3]}/proc {sys.argv[3]}/etc/passwd").splitlines():
                        print(repr(line))
            """,
                trial.job_id,
                str(path),
                IMAGE,
                user=USERS[0],
            )
        began += said[0] == "started"
        seen += "".join(one for one in said[1:] if "No such file" not in one)
        trial.finish(0)

    assert began > 0, "no start went through: nothing was tried"
    assert str(place) not in seen, seen
    wait_until("nothing is left", lambda: not instance.left())
    assert _our_mounts(instance) == before, (tries, began)
    assert is_healthy(instance)
    place.rmdir()


@pytest.fixture
def site(instance: Instance, scratch: Path) -> Iterator[Path]:
    """BASE/scratch is open but for scratch/admin, BASE/ref may be read; the user has links to them, and a mount in home."""
    base = scratch / "t37"
    with ExitStack() as undo:
        _empty_home()  # a run that was killed cannot tidy up
        undo.callback(_empty_home)
        _furnish(base)
        instance.configure(f'[mounts]\nallow = ["{base}/scratch", "{base}/ref:ro"]\ndeny = ["{base}/scratch/admin"]\n')
        yield base


def _furnish(base: Path) -> None:
    for name in ("scratch/admin", "ref/data"):
        (base / name).mkdir(parents=True, exist_ok=True)
        (base / name).chmod(0o777)
    for one in (base / "scratch", base / "ref"):
        one.chmod(0o777)
    (base / "scratch/admin/secret").write_text("SECRET\n")
    for name, target in {"t37-all": base / "scratch", "t37-ref": base / "ref", "t37-deep": base / "ref/data"}.items():
        (HOME / name).symlink_to(target)
    below = HOME / "below"
    owner = HOME.stat()
    below.mkdir()
    syscalls.mount("tmpfs", str(below), "tmpfs", syscalls.MS_NODEV, f"uid={owner.st_uid},gid={owner.st_gid},mode=0755")
    (below / "inner").mkdir()
    syscalls.mount("tmpfs", str(below / "inner"), "tmpfs", 0, f"uid={owner.st_uid},gid={owner.st_gid},mode=0755")


def _empty_home() -> None:
    below = HOME / "below"
    for point in (below / "inner", below):
        if point.is_mount():
            syscalls.unmount(str(point))
    if below.exists():
        below.rmdir()
    for name in ("t37-all", "t37-ref", "t37-deep"):
        (HOME / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        ("$HOME/t37-all:/x", "it contains BASE/scratch/admin, which this site closed"),
        ("$HOME/t37-all/admin:/x", "this site keeps BASE/scratch/admin closed"),
        ("$HOME/t37-ref:/x", "can be mounted for reading only; write "),
        ("$HOME/t37-deep:/x", "can be mounted for reading only; write "),
    ],
)
def test_a_link_opens_nothing(instance: Instance, site: Path, volume: str, reason: str) -> None:
    """The whole rule holds for where a link leads: below, containing, and for reading only."""
    done = instance.run(f"#!/bin/sh\n#DOCKER -v {volume} {IMAGE}\ncat /x/admin/secret /x/secret; echo new >/x/made\n")

    assert (done.exit_status, done.stdout) == (125, b"")
    assert reason.replace("BASE", str(site)) in done.stderr.decode()
    assert not (site / "ref/made").exists()


def test_a_link_to_what_is_open_works(instance: Instance, site: Path) -> None:
    """Else the refusals would prove nothing."""
    done = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME/t37-ref:/x:ro -v $HOME/t37-all/../all/u:/y {IMAGE}\nls /x\n")
    assert b"'..'" in done.stderr
    (site / "scratch/u").mkdir(exist_ok=True)
    done = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME/t37-ref:/x:ro -v $HOME/t37-all/u:/y {IMAGE}\nls /x; ls -d /y\n")
    assert (done.stdout, done.exit_status) == (b"data\n/y\n", 0), done.stderr


_WRITE = "for one in /x /x/below /x/below/inner; do echo new >$one/made && echo wrote $one; done\n"


def test_read_only_all_the_way_down(instance: Instance, site: Path) -> None:
    """What is mounted below a volume for reading only is not to be written to either; without :ro it is."""
    done = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME:/x:ro {IMAGE}\n{_WRITE}")
    assert done.stdout == b"", done.stdout
    done = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME:/x {IMAGE}\n{_WRITE}rm /x/made\n")
    assert done.stdout == b"wrote /x\nwrote /x/below\nwrote /x/below/inner\n", done.stderr


def test_home_for_reading_only(instance: Instance, site: Path) -> None:
    """``home = "ro"`` holds for what is mounted below it."""
    instance.configure('[mounts]\nhome = "ro"\n')
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{_WRITE.replace('/x', '$HOME')}")

    assert (done.stdout, done.exit_status) == (b"", 1), done.stdout


def test_read_only_where_the_kernel_is_older(site: Path) -> None:
    """Linux before 5.12 has no mount_setattr: each mount is made read-only by itself, and keeps its other flags."""
    place = site / "old kernel"
    place.mkdir()
    syscalls.bind(str(HOME), str(place), recursive=True)
    try:
        syscalls.remount_read_only(str(place))
        found = {point: options for point, options in syscalls.mount_points() if point.startswith(str(place))}
    finally:
        syscalls.unbind(str(place))
        place.rmdir()

    assert sorted(found) == [str(place), f"{place}/below", f"{place}/below/inner"]
    assert all(options[0] == "ro" for options in found.values())
    assert "nodev" in found[f"{place}/below"]


def test_no_origin_is_exempt(instance: Instance, scratch: Path) -> None:
    """Neither the site's own mounts nor mom's TMPDIR bring the root, or what contains what is closed."""
    for source in ("/", "/var", "/run", str(instance.root), str(instance.run_dir), str(instance.state_dir / "jobs")):
        instance.configure(f'[mounts]\nalways = ["{source}:/x"]\n')
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nls /x\n")
        assert (done.exit_status, done.stdout) == (125, b""), (source, done.stdout)
        assert f"{source} cannot be mounted: ".encode() in done.stderr, done.stderr


def test_pins_that_were_left_are_swept(instance: Instance) -> None:
    """Several mounts on one place, and one below a pin: the reaper takes them all and goes through none."""
    instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n")
    wait_until("nothing is left", lambda: not instance.left())
    before = _our_mounts(instance)
    place = instance.run_dir / "pins/7.vm.aa/0"
    place.mkdir(parents=True)
    (HOME / "kept").touch()
    for _ in range(2):
        syscalls.bind(str(HOME), str(place), recursive=True)
    assert len(pins.left(instance.run_dir / "pins")) == 2
    told = instance.command("doctor", "mounts")
    assert (told.returncode, "2 mounts of 7.vm.aa stay" in told.stdout) == (1, True), told.stdout + told.stderr

    wait_until("the reaper has taken them", lambda: "7.vm.aa" not in instance.command("reap").stdout)

    assert (HOME / "kept").exists()
    assert _our_mounts(instance) == before
    assert instance.command("doctor", "mounts").returncode == 0
    (HOME / "kept").unlink()


@pytest.mark.parametrize(
    "cwd", ["/etc", "/var/lib", "/root", f"/home/{USERS[1]}", "/tmp", "/proc/1/root/root", "/dev/shm"]
)
def test_a_start_directory_that_was_invented(instance: Instance, cwd: str) -> None:
    """The run hook says where the job starts: it opens what qsub from there would, and nothing starts elsewhere."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n"))
    trial.prepare_files()
    assert trial.prologue() == 0
    trial.spool.record(os.getpid())
    said = as_user(
        instance,
        """
        link = Link(sys.argv[1], 60.0)
        link.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/sh"], cwd=sys.argv[3], env=[]))
        answer, fds = link.recv()
        print(answer.op, answer.text("code"))
    """,
        trial.job_id,
        cwd,
        user=USERS[0],
    )
    trial.finish(0)

    assert said == ["refused start-directory"]
    assert instance.left() == []
