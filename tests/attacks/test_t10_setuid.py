"""T10: an image made to hurt. What it says of itself, and what it has in it, gives its container nothing."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import Entry, disk, image, is_healthy, works

pytestmark = pytest.mark.engine
HOSTILE = f"{IMAGE.split('/', maxsplit=1)[0]}/hostile:1"
_BUSYBOX = Path("/bin/busybox").resolve().read_bytes()
# security.capability of a file, revision 2: cap_dac_override and cap_sys_admin, permitted and effective.
_ALL = bytes.fromhex("0100000202002000000000000000000000000000")
_ENTRIES = (
    Entry("bin/busybox.root", _BUSYBOX, 0o6755),
    Entry("bin/busybox.caps", _BUSYBOX, capability=_ALL),
    Entry("bin/su", _BUSYBOX, 0o4755),
    Entry("bin/docker-init", _BUSYBOX, 0o4755),
    Entry("etc/passwd", b"root::0:0::/:/bin/sh\npbsdock-a::0:0::/:/bin/sh\n", 0o666),
    Entry("etc/shadow", b"root:::::::\n", 0o666),
    Entry("etc/sudoers", b"ALL ALL=(ALL) NOPASSWD: ALL\n", 0o440),
    Entry("etc/group", f"root::0:{USERS[0]}\ndisk::6:{USERS[0]}\ndocker::999:{USERS[0]}\n".encode(), 0o666),
    Entry("etc/ld.so.preload", b"/evil.so\n"),
    Entry("w/disk", mode=0o666, kind=tarfile.BLKTYPE, device=disk()),
    Entry("w/mem", mode=0o666, kind=tarfile.CHRTYPE, device=(1, 1)),
    Entry("w/kmsg", mode=0o666, kind=tarfile.CHRTYPE, device=(1, 11)),
    Entry("dev/sda", mode=0o666, kind=tarfile.BLKTYPE, device=disk()),
)
_CHANGES = (
    'ENTRYPOINT ["/bin/echo","entry"]',
    'CMD ["x"]',
    "USER root",
    "WORKDIR /w",
    "VOLUME /data",
    "VOLUME /etc",
    f"VOLUME /home/{USERS[0]}",
    "VOLUME /run",
    "ENV LD_PRELOAD=/evil.so BASH_ENV=/evil ENV=/evil HOME=/root USER=root PATH=/bin",
    "HEALTHCHECK --interval=1s CMD touch /w/checked",
    "ONBUILD RUN touch /w/built",
    "EXPOSE 1-1000",
    "LABEL pbsdock.owner=x pbsdock.job=7.vm pbsdock.incarnation=x",
)


@pytest.fixture(scope="module", autouse=True)
def hostile(images: None) -> Iterator[None]:
    """busybox with a setuid copy and one with capabilities, device nodes, an /etc/passwd in which everybody is root,
    and every say an image has."""
    with image("hostile", _ENTRIES, _CHANGES, stop_signal="SIGCONT"):
        yield


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
    assert (uid, where, home, first) == (entry, f"/home/{USERS[0]}", f"/home/{USERS[0]}", "pbsdock-init")
    assert set(groups.split()) == set(held)  # the image's /etc/group adds none (CVE-2022-36109)


def test_names_are_the_hosts(instance: Instance) -> None:
    """The image's passwd, in which the user is root, is covered by ours, and ours cannot be written."""
    said = _says(
        instance, "grep -c ^root: /etc/passwd; grep ^pbsdock-a: /etc/passwd; echo x >>/etc/passwd || echo kept"
    )

    assert said.splitlines()[0] == "1"
    assert not said.splitlines()[1].startswith("pbsdock-a::0:")
    assert said.splitlines()[-1] == "kept"


@pytest.mark.parametrize("program", ["busybox.root", "busybox.caps"])
def test_setuid_programs_give_nothing(instance: Instance, program: str) -> None:
    """A setuid and setgid root program, and one with file capabilities, run as the user with no capability anywhere."""
    said = _says(
        instance, f"/bin/{program} grep -E '^(Uid|Gid|Cap|NoNewPrivs|Seccomp:)' /proc/self/status || echo not run"
    )
    if program == "busybox.caps" and said == "not run\n":
        return  # the kernel executes no file with capabilities that are out of bounds (capabilities(7))
    fields = dict(line.split(":\t", 1) for line in said.splitlines())

    assert "0" not in fields["Uid"].split()
    assert "0" not in fields["Gid"].split()
    assert {fields[one] for one in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_kernel_is_out_of_reach(instance: Instance) -> None:
    """No device of the host, no mount, no node, no cgroup, no kernel setting, however it is tried."""
    said = _says(
        instance,
        """
dd if=/w/disk of=/dev/null count=1 2>/dev/null && echo read the disk
mknod /w/mine b 254 0 2>/dev/null && echo made a device
mount -t tmpfs none /w 2>/dev/null && echo mounted
chroot / sh -c : 2>/dev/null && echo chrooted
for file in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/cgroup.procs /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do
  (echo 1 >$file) 2>/dev/null && echo wrote $file
done
ls /dev | grep -E '^(sd|vd|nvme|dm-|mem$|kmsg$|fuse$)'
ls /var/run/docker.sock /run/docker.sock 2>/dev/null
echo end""",
    )

    assert said == "end\n"


def test_health_checks_and_volumes_leave_nothing(instance: Instance) -> None:
    """The image's health check never runs, and its anonymous volume goes with the container."""
    before = subprocess.run(["docker", "volume", "ls", "-q"], capture_output=True, check=True).stdout
    assert _says(instance, "sleep 2; ls /w/checked 2>/dev/null; echo end") == "end\n"
    assert instance.left() == []
    assert subprocess.run(["docker", "volume", "ls", "-q"], capture_output=True, check=True).stdout == before


@pytest.mark.threat(31)
def test_device_nodes_in_the_image(instance: Instance) -> None:
    """A node the image brought along opens nothing, wherever it lies and whatever its mode."""
    said = _says(
        instance,
        "for one in /w/disk /w/mem /w/kmsg /dev/sda; do dd if=$one of=/dev/null count=1 2>/dev/null && echo $one; done; echo end",
    )

    assert said == "end\n"


@pytest.mark.threat(31)
@pytest.mark.parametrize("line", ["#DOCKER {0}\necho ready; sleep 60", "docker run {0} sh -c 'echo ready; sleep 60'"])
def test_device_nodes_from_outside(instance: Instance, line: str) -> None:
    """A node the image brought along opens nothing for its owner's processes on the host either, whom no device cgroup
    binds and who may look into /proc/PID/root. Here it is /dev/zero; it could be the host's disk."""
    with image("nodes", [Entry("w/zero", mode=0o666, kind=tarfile.CHRTYPE, device=(1, 5))]) as nodes:
        instance.start_agent()
        trial = instance.begin(f"#!/bin/sh\n{line.format(nodes)}\n")
        wait_until("it runs", lambda: b"ready" in trial.out_path.read_bytes())
        wait_until("its command runs", _with_a_node)
        inside = _with_a_node()
        tried = subprocess.run(
            ["head", "-c1", "--", *(f"{path}/root/w/zero" for path in inside)],
            user=USERS[0],
            group=USERS[0],
            capture_output=True,
            text=True,
            check=False,
        )
        seen = subprocess.run(
            ["ls", f"{inside[0]}/root/w"], user=USERS[0], group=USERS[0], capture_output=True, check=False
        )
        trial.qdel()
        trial.finish(trial.wait())

    assert seen.stdout == b"zero\n"  # its owner may look: what is in the way is the mount
    assert (tried.returncode, tried.stdout) == (1, "")
    assert "Permission denied" in tried.stderr


def _with_a_node() -> list[Path]:
    sleeping = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if _read(path) == b"sleep\x0060\x00"]
    return [path for path in sleeping if (path / "root/w/zero").exists()]


def _read(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def test_su_and_sudo_give_nothing(instance: Instance) -> None:
    """Programs that trust the image's own passwd, shadow and sudoers stay the user."""
    said = _says(
        instance,
        "for p in su docker-init; do echo id -u | /bin/$p - root 2>/dev/null; done; chown 0 /w 2>/dev/null && echo chowned; id -u",
    )

    assert said == subprocess.run(["id", "-u", USERS[0]], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "variables", [{"A": "x" * 200_000}, {f"A{i}": "y" * 30_000 for i in range(120)}], ids=["one", "many"]
)
def test_an_environment_that_cannot_be_executed(instance: Instance, variables: dict[str, str]) -> None:
    """More than the kernel takes (execve(2), E2BIG) ends that job with a sentence, not the node."""
    with image("huge", [], environment=variables) as huge:
        done = instance.run(f"#!/bin/sh\n#DOCKER {huge}\necho started\n")

    assert done.exit_status in (1, 125)
    assert done.stdout == b""
    assert done.stderr != b""
    assert is_healthy(instance)
    assert works(instance)


@pytest.mark.parametrize("name", ["etc", "home", "run", "bin", "tmp"])
def test_directories_that_are_links(instance: Instance, scratch: Path, name: str) -> None:
    """Where an image has a link in the place of a directory, what is mounted there stays inside the container."""
    landing = scratch / "landing"
    landing.mkdir(exist_ok=True)
    entries = (
        [Entry(name, kind=tarfile.SYMTYPE, target=f"/proc/self/root/../../../..{landing}")]
        if name != "bin"
        else [Entry("etc/passwd", kind=tarfile.SYMTYPE, target="/../../../../etc/passwd-from-image")]
    )
    with image("links", entries) as links:
        done = instance.run(f"#!/bin/sh\n#DOCKER {links}\necho $$ >/etc/mine; id -un\n")

    assert list(landing.iterdir()) == []
    assert done.exit_status in (0, 125), done.stderr
    assert not Path("/etc/passwd-from-image").exists()
    assert is_healthy(instance)
