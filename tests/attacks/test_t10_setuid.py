"""An image made to hurt: what it says of itself gives its container nothing (T1, T5, T10, T11, T12, T17, T19, T23)."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance

pytestmark = pytest.mark.engine
HOSTILE = f"{IMAGE.split('/', maxsplit=1)[0]}/hostile:1"
_APPLETS = ("sh", "id", "cat", "grep", "echo", "ls", "touch", "mount", "mknod", "chroot", "sleep", "env", "kill", "dd", "setsid")
_CHANGES = (
    'ENTRYPOINT ["/bin/echo","entry"]', 'CMD ["x"]', "USER root", "WORKDIR /w", "VOLUME /data",
    "ENV LD_PRELOAD=/evil.so BASH_ENV=/evil ENV=/evil HOME=/root USER=root PATH=/bin",
    "HEALTHCHECK --interval=1s CMD touch /w/checked",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def hostile(images: None) -> Iterator[None]:
    """busybox with a setuid copy, device nodes, an /etc/passwd in which everybody is root, and every say an image has."""
    busybox = Path("/bin/busybox").resolve().read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("w", 0o777), ("tmp", 0o1777), ("dev", 0o755)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        for name, mode, data in (
            ("bin/busybox", 0o755, busybox), ("bin/busybox.root", 0o6755, busybox),
            ("etc/passwd", 0o666, b"root::0:0::/:/bin/sh\npbsdock-a::0:0::/:/bin/sh\n"),
            ("etc/group", 0o666, f"root::0:{USERS[0]}\ndisk::6:{USERS[0]}\n".encode()),
        ):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
        for name in _APPLETS:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
        entry = tarfile.TarInfo("w/disk")
        entry.type, entry.mode, entry.devmajor, entry.devminor = tarfile.BLKTYPE, 0o666, *_disk()
        archive.addfile(entry)
    changes = [word for one in _CHANGES for word in ("-c", one)]
    subprocess.run(["docker", "import", *changes, "-", HOSTILE], input=buffer.getvalue(), capture_output=True, check=True)
    yield
    subprocess.run(["docker", "rmi", "-f", HOSTILE], capture_output=True, check=False)


def _disk() -> tuple[int, int]:
    device = os.stat("/").st_dev
    return os.major(device), os.minor(device)


def _says(instance: Instance, body: str) -> str:
    done = instance.run(f"#!/bin/sh\n#DOCKER {HOSTILE}\n{body}\n")
    assert b"pbsdock:" not in done.stderr, done.stderr
    return done.stdout.decode()


def test_entrypoint_user_and_directory_are_not_the_images(instance: Instance) -> None:
    """The job's script runs, as the job's owner, in their home: the image has no say in it."""
    said = _says(instance, "id -u; id -G; pwd; echo $HOME; cat /proc/1/comm")
    uid, groups, where, home, first = said.splitlines()

    entry = subprocess.run(["id", "-u", USERS[0]], capture_output=True, text=True, check=True).stdout.strip()
    held = subprocess.run(["id", "-G", USERS[0]], capture_output=True, text=True, check=True).stdout.split()
    assert (uid, where, home, first) == (entry, f"/home/{USERS[0]}", f"/home/{USERS[0]}", "sh")
    assert set(groups.split()) == set(held)  # the image's /etc/group adds none (CVE-2022-36109)


def test_names_are_the_hosts(instance: Instance) -> None:
    """The image's passwd, in which the user is root, is covered by ours, and ours cannot be written."""
    said = _says(instance, "grep -c ^root: /etc/passwd; grep ^pbsdock-a: /etc/passwd; echo x >>/etc/passwd || echo kept")

    assert said.splitlines()[0] == "1"
    assert not said.splitlines()[1].startswith("pbsdock-a::0:")
    assert said.splitlines()[-1] == "kept"


def test_setuid_programs_give_nothing(instance: Instance) -> None:
    """A setuid and setgid root program runs as the user, with no capability anywhere."""
    said = _says(instance, "/bin/busybox.root grep -E '^(Uid|Gid|Cap|NoNewPrivs|Seccomp:)' /proc/self/status")
    fields = dict(line.split(":\t", 1) for line in said.splitlines())

    assert "0" not in fields["Uid"].split()
    assert "0" not in fields["Gid"].split()
    assert {fields[one] for one in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_kernel_is_out_of_reach(instance: Instance) -> None:
    """No device of the host, no mount, no node, no cgroup, no kernel setting, however it is tried."""
    said = _says(instance, """
dd if=/w/disk of=/dev/null count=1 2>/dev/null && echo read the disk
mknod /w/mine b 254 0 2>/dev/null && echo made a device
mount -t tmpfs none /w 2>/dev/null && echo mounted
chroot / sh -c : 2>/dev/null && echo chrooted
for file in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/cgroup.procs /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do
  (echo 1 >$file) 2>/dev/null && echo wrote $file
done
ls /dev | grep -E '^(sd|vd|nvme|dm-|mem$|kmsg$|fuse$)'
ls /var/run/docker.sock /run/docker.sock 2>/dev/null
echo end""")  # fmt: skip

    assert said == "end\n"


def test_health_checks_and_volumes_leave_nothing(instance: Instance) -> None:
    """The image's health check never runs, and its anonymous volume goes with the container."""
    before = subprocess.run(["docker", "volume", "ls", "-q"], capture_output=True, check=True).stdout
    assert _says(instance, "sleep 2; ls /w/checked 2>/dev/null; echo end") == "end\n"
    assert instance.left() == []
    assert subprocess.run(["docker", "volume", "ls", "-q"], capture_output=True, check=True).stdout == before


def test_nothing_of_ours_in_its_environment(instance: Instance) -> None:
    """The host's loader variables, PATH and our own switches do not come in from the job's environment."""
    done = instance.run(
        f"#!/bin/sh\n#DOCKER {HOSTILE}\nenv\n",
        variables={"LD_AUDIT": "/a.so", "LD_PRELOAD": "/b.so", "DOCKER_HOST": "tcp://x", "HARMLESS": "1"},
    )
    names = dict(line.split("=", 1) for line in done.stdout.decode().splitlines() if "=" in line)

    assert names["HARMLESS"] == "1"
    assert names["PATH"] == "/bin"
    assert names.get("LD_PRELOAD") == "/evil.so"  # the image's own: it hurts nobody but its user
    assert not {"LD_AUDIT", "DOCKER_HOST"} & set(names)


def test_what_it_leaves_running_dies_with_the_job(instance: Instance) -> None:
    """Daemons in sessions of their own, deaf to every signal that can be ignored, do not outlive the script."""
    began = time.monotonic()
    done = instance.run(
        f"#!/bin/sh\n#DOCKER {HOSTILE}\nfor i in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP INT; sleep 300' & done\necho gone\n"
    )

    assert (done.exit_status, done.stdout) == (0, b"gone\n")
    assert time.monotonic() - began < 20
    assert instance.left() == []


def test_fork_bomb_stays_in_its_job(instance: Instance) -> None:
    """Processes are bounded: a job that forks without end fails by itself, and the next one runs."""
    good = instance.config.read_text()
    instance.configure("[limits]\npids = 64\n")
    try:
        done = instance.run(
            f"#!/bin/sh\n#DOCKER {HOSTILE}\nn=0; while [ $n -lt 500 ]; do sleep 30 & n=$((n+1)); done; echo all\n"
        )
        assert b"all" not in done.stdout
        assert instance.left() == []
        assert _says(instance, "echo next") == "next\n"
    finally:
        instance.configure(good)
