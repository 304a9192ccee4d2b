"""Sites that are not like ours: long names, large numbers, many groups, closed homes, odd bytes, another time zone."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import HOST_IMAGE, IMAGE, ROOT, USERS, Instance

pytestmark = pytest.mark.engine
ODD = "pbsdock.odd-user"
_GROUPS = tuple(f"pbsdock-g{number}" for number in range(300))


@pytest.fixture(scope="module")
def odd() -> str:
    """A user with a dot and a dash, a uid above 65535 and 300 groups; kept for the next run, as the others are."""
    try:
        pwd.getpwnam(ODD)
    except KeyError:
        subprocess.run(["useradd", "--badname", "-m", "-u", "170123", "-s", "/bin/sh", ODD], check=True)
    known = {one.gr_name for one in grp.getgrall()}
    for number, name in enumerate(_GROUPS):
        if name not in known:
            subprocess.run(["groupadd", "-g", str(200000 + number), name], check=True)
    if len(os.getgrouplist(ODD, pwd.getpwnam(ODD).pw_gid)) <= len(_GROUPS):
        subprocess.run(["usermod", "-a", "-G", ",".join(_GROUPS), ODD], check=True)
    return ODD


@pytest.fixture
def closed_home() -> Iterator[Path]:
    """A home whose owner alone may enter it, as on a mount on which root is nobody."""
    home = Path(pwd.getpwnam(USERS[0]).pw_dir)
    before = home.stat().st_mode
    home.chmod(0o700)
    yield home
    home.chmod(before)


def test_long_names(instance: Instance) -> None:
    """Job names of 64 characters, long queues, long server names: file, cgroup and container names stay whole."""
    done = instance.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\necho $PBS_JOBNAME\n",
        name="n" * 64,
        queue="q" * 15,
        job_id="1234567." + "s" * 63 + ".example.org",
    )
    assert done.stdout == b"n" * 64 + b"\n", done.stderr
    assert instance.left() == []


def test_a_user_of_another_kind(instance: Instance, odd: str) -> None:
    """Name, uid and all 300 groups are the same inside as on the host, and the home is theirs."""
    body = "id -un; id -u; id -G | tr ' ' '\\n' | sort -n | sha256sum; id -G | wc -w; echo x >~/mine; stat -c '%U %u' ~/mine\n"
    bare = instance.run(f"#!/bin/bash\n{body}", user=odd)
    done = instance.run(f"#!/bin/bash\n#DOCKER {IMAGE}\n{body}".replace("/bin/bash", "/bin/sh"), user=odd)

    assert bare.stdout.splitlines()[3] == b"301"
    assert done.stdout == bare.stdout, done.stderr


def test_a_home_only_its_owner_enters(instance: Instance, closed_home: Path) -> None:
    """Paths below it are looked at and held as the user; what the engine does as root does not have to enter it."""
    subprocess.run(["mkdir", "-p", "-m", "700", f"{closed_home}/deep/er"], user=USERS[0], check=True)
    done = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME/deep/er:/data --workdir /data {IMAGE}\npwd; touch x && ls\n")

    assert done.stdout == b"/data\nx\n", done.stderr


def test_bytes_that_are_no_text(instance: Instance) -> None:
    """Values, arguments and directories that are not UTF-8 go along as they are."""
    home = os.fsencode(pwd.getpwnam(USERS[0]).pw_dir)
    subprocess.run(["mkdir", "-p", home + b"/caf\xe9"], user=USERS[0], check=True)
    odd = os.fsdecode(b"caf\xe9")
    done = instance.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\n".encode()
        + b"cd caf\xe9 && echo $GOOD && pwd | od -An -c | tr -d ' \\n'; echo $BAD | od -An -c | tr -d ' \\n'\n",
        variables={"BAD": odd, "GOOD": "yes", "UTF": "caf\u00e9"},
        name=odd,
        work_dir=f"{os.fsdecode(home)}/{odd}",
    )
    assert done.stdout.startswith(b"yes\n"), done.stderr
    assert done.stdout.count(b"caf351") == 2
    assert not [one for one in instance.events(done.job_id) if one["event"] == "env.dropped"]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/St_Johns", ":/etc/localtime", "nonsense"])
def test_time_zones(instance: Instance, zone: str) -> None:
    """The job's own TZ goes along; the stream's times stay UTC."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {HOST_IMAGE}\necho $TZ\n", variables={"TZ": zone})

    assert done.stdout == f"{zone}\n".encode()
    assert {one["ts"][-1] for one in instance.trail(done.job_id)} == {"Z"}


def test_a_tmpdir_where_nothing_can_be_executed(instance: Instance, scratch: Path) -> None:
    """Hooks and agent execute nothing there, and the job's TMPDIR is mounted as it is."""
    top = scratch / "noexec"
    top.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,nosuid,mode=755", "none", str(top)], check=True)
    try:
        done = instance.run(
            f"#!/bin/sh\n#DOCKER {IMAGE}\necho 'echo no' >$TMPDIR/x; chmod +x $TMPDIR/x; $TMPDIR/x 2>/dev/null || echo refused\n",
            tmpdir=str(top),
        )
        assert instance.left() == []
    finally:
        subprocess.run(["umount", str(top)], check=True)
    assert done.stdout == b"refused\n", done.stderr


SQUASHED = "pbsdock-squashed"


@pytest.fixture
def squashed(scratch: Path) -> Iterator[Path]:
    """The home of a user of that name, on a file system on which root is nobody."""
    backing, top = scratch / "export", scratch / "nfs"
    for one in (backing, top):
        one.mkdir(exist_ok=True)
    home = top / SQUASHED
    try:
        pwd.getpwnam(SQUASHED)
    except KeyError:
        subprocess.run(["useradd", "-M", "-s", "/bin/sh", SQUASHED], check=True)
    subprocess.run(["usermod", "-d", str(home), SQUASHED], check=True)
    entry = pwd.getpwnam(SQUASHED)
    (backing / SQUASHED).mkdir(mode=0o700, exist_ok=True)
    os.chown(backing / SQUASHED, entry.pw_uid, entry.pw_gid)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.squashed", str(backing), str(top)], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"mounted\n"
        yield home
    finally:
        subprocess.run(["umount", "-l", str(top)], check=True)
        server.kill()
        server.wait()


def test_a_home_where_root_is_nobody(instance: Instance, squashed: Path) -> None:
    """Home, work directory and volumes: looked at, held and given to the engine without root's rights on them."""
    with pytest.raises(PermissionError):
        os.listdir(squashed)
    subprocess.run(["mkdir", "-p", "-m", "700", str(squashed / "deep/er")], user=SQUASHED, group=SQUASHED, check=True)
    body = "pwd; id -un; echo x >here; cat ~/deep/er/here; stat -c '%U %a' here; cd ~; ls; exit 4\n"
    volume = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME/deep/er:/data --workdir /data {IMAGE}\n{body}", user=SQUASHED)
    plain = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}", user=SQUASHED, work_dir=str(squashed / "deep/er"))
    missing = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME/deep/none:/data {IMAGE}\ntrue\n", user=SQUASHED)

    assert (volume.exit_status, volume.stderr) == (4, b"")
    assert volume.stdout == f"/data\n{SQUASHED}\nx\n{SQUASHED} 600\ndeep\n".encode()
    assert (plain.exit_status, plain.stderr) == (4, b"")
    assert plain.stdout.splitlines()[0] == os.fsencode(squashed)
    assert missing.exit_status == 125
    assert missing.stderr.endswith(b"/deep/none cannot be mounted: No such file or directory (looked at as the user)\n")
    assert instance.left() == []
