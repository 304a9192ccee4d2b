"""A look at the files of a process's own root: real processes in a root, and a mount namespace, of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pbsdock.agent.container_root import looking
from pbsdock.agent.programs import Identity, Image

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a root of its own needs root")
_OWNER = 12345
_CHROOT = """
import os, subprocess, sys
root = sys.argv[1]
if sys.argv[2:]:
    subprocess.run(["mount", "-t", "tmpfs", "t", root + "/data"], check=True)
    with open(root + "/data/inside", "w") as file:
        file.write("inside")
os.chroot(root)
os.chdir("/")
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def _rooted(root: Path, *, own_mounts: bool = False) -> Iterator[int]:
    """The pid of a process whose root that is."""
    unshare = ["unshare", "--mount", "--propagation", "private"] if own_mounts else []
    options = ["own"] if own_mounts else []
    with subprocess.Popen(
        [*unshare, sys.executable, "-c", _CHROOT, str(root), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid
        process.kill()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image's root, with a file of the host's beside it."""
    (tmp_path / "host-secret").write_text("secret of the host")
    found = tmp_path / "root"
    for name in ("bin", "etc", "data", "closed"):
        (found / name).mkdir(parents=True)
    (found / "bin/tool").write_bytes(b"#!/bin/sh\n" + b"x" * 10_000)
    os.chown(found / "bin/tool", _OWNER, 77)
    (found / "bin/tool").chmod(0o4751)
    return found


def test_what_is_told_of_a_file(root: Path) -> None:
    """Kind, mode, owner, and no more than its beginning; a directory has none."""
    with _rooted(root) as pid, looking(pid) as look:
        tool, directory = look("/bin/tool"), look("/bin")

    assert tool is not None
    assert (tool.kind, tool.mode, tool.uid, tool.gid, tool.link) == ("file", 0o4751, _OWNER, 77, "")
    assert tool.head == b"#!/bin/sh\n" + b"x" * 4086
    assert directory is not None
    assert (directory.kind, directory.mode, directory.head) == ("directory", 0o755, b"")


@pytest.mark.parametrize("path", ["/", "", "//", "/."])
def test_the_root_itself(root: Path, path: str) -> None:
    """However it is written, or nothing at all; never another."""
    root.chmod(0o711)
    with _rooted(root) as pid, looking(pid) as look:
        found = look(path)

    assert found is None if not path else (found is not None and (found.kind, found.mode) == ("directory", 0o711))


@pytest.mark.parametrize("path", ["/nothing", "/bin/tool/x", "/bin/" + "x" * 300, "/" + "a/" * 3000, "/bin/tool/"])
def test_what_is_not_there(root: Path, path: str) -> None:
    """Also below a file, and names that are too long."""
    with _rooted(root) as pid, looking(pid) as look:
        assert look(path) is None


def test_links_are_told_and_not_followed(root: Path) -> None:
    """Wherever they lead, at the end of a path or on its way; a program that resolves them stays inside."""
    secret = root.parent / "host-secret"
    links = {
        "out": str(secret),
        "up": "../../../../../../../../../../" + str(secret),
        "up-one": "../host-secret",
        "magic": f"/proc/{os.getpid()}/root{secret}",
        "loop": "loop",
        "directory": str(root.parent),
        "gone": "/nothing",
        "in": "bin/tool",
        "programs": "bin",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    with _rooted(root) as pid, looking(pid) as look:
        for name, target in links.items():
            found = look(f"/{name}")
            assert found is not None
            assert (found.kind, found.link, found.head) == ("link", target, b""), name
        assert look("/directory/host-secret") is None
        assert look("/directory/") is None
        assert look("/programs/tool") is None  # it is for who looks to follow it
        assert look("/bin/tool") is not None
        image = Image(look=look, who=Identity(uid=1, gids=frozenset()), mounted=[], machine="x86_64")
        causes = {name: image.cause(f"/{name}") for name in links}

    assert {name for name, cause in causes.items() if cause is None or cause.code != "no-such-program"} == {
        "in",
        "programs",
    }
    assert causes["in"] is not None
    assert "/bin/sh" in causes["in"].says


@pytest.mark.parametrize(
    "path", ["/../host-secret", "/bin/../../host-secret", "../host-secret", "/bin/../../../../etc"]
)
def test_dots_do_not_lead_out(root: Path, path: str) -> None:
    """Above a root is itself."""
    with _rooted(root) as pid, looking(pid) as look:
        found = look(path)

    assert found is None if "secret" in path else (found is not None and found.kind == "directory")


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_opened(root: Path) -> None:
    """A fifo that nobody writes to, a device, a socket: told at once, and nothing is read."""
    os.mkfifo(root / "fifo")
    os.mknod(root / "console", 0o20666, os.makedev(5, 1))
    with socket.socket(socket.AF_UNIX) as bound:
        place = os.open(root, os.O_PATH)
        bound.bind(f"/proc/self/fd/{place}/socket")
        os.close(place)
    began = time.monotonic()
    with _rooted(root) as pid, looking(pid) as look:
        for name in ("fifo", "console", "socket"):
            found = look(f"/{name}")
            assert found is not None
            assert (found.kind, found.head) == ("other", b""), name

    assert time.monotonic() - began < 5


def test_what_only_root_may_read(root: Path) -> None:
    """Its beginning is there: the kernel would run it for a user who may execute it."""
    tool = root / "closed/tool"
    tool.write_bytes(b"#!/bin/sh\n")
    tool.chmod(0o111)
    (root / "closed").chmod(0o000)
    with _rooted(root) as pid, looking(pid) as look:
        found = look("/closed/tool")

    assert found is not None
    assert (found.mode, found.head) == (0o111, b"#!/bin/sh\n")


def test_its_own_mounts_are_seen(root: Path) -> None:
    """As the process has them, and nobody else."""
    assert not (root / "data/inside").exists()
    with _rooted(root, own_mounts=True) as pid, looking(pid) as look:  # unshare has become the process itself
        found = look("/data/inside")

    assert found is not None
    assert found.head == b"inside"
    assert not (root / "data/inside").exists()


def test_a_path_is_looked_at_once(root: Path) -> None:
    """What has been judged is not exchanged behind it within one look."""
    with _rooted(root) as pid, looking(pid) as look:
        first = look("/bin/tool")
        (root / "bin/tool").unlink()
        assert look("/bin/tool") is first
        with looking(pid) as again:
            assert again("/bin/tool") is None


def test_no_descriptor_is_left(root: Path) -> None:
    """Of neither the root nor what was looked at."""
    before = len(os.listdir("/proc/self/fd"))
    with _rooted(root) as pid:
        open_now = len(os.listdir("/proc/self/fd"))
        with looking(pid) as look:
            for path in ("/bin/tool", "/bin", "/nothing", "/bin/tool/x"):
                look(path)
        assert len(os.listdir("/proc/self/fd")) == open_now

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_that_is_over(root: Path) -> None:
    """There is nothing to look at."""
    with _rooted(root) as pid:
        pass
    with pytest.raises(OSError, match="No such file"), looking(pid):
        raise AssertionError("unreachable")
