"""T3: the engine's socket is root on the node: no user reaches it, neither from the node nor from a container."""

from __future__ import annotations

import grp
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance

pytestmark = pytest.mark.engine
_SOCKET = Path("/var/run/docker.sock")


def test_users_have_no_right_on_it() -> None:
    """Not by its mode, not by its group: the tests' users run jobs in containers all the same."""
    found = _SOCKET.stat()
    group = grp.getgrgid(found.st_gid)

    assert found.st_uid == 0
    assert not stat.S_IMODE(found.st_mode) & 0o007
    assert not set(USERS) & set(group.gr_mem)
    code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(_SOCKET)!r})"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code],
        user=USERS[0],
        group=USERS[0],
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize(
    "volume",
    [
        "/var/run/docker.sock:/s",
        "/run/docker.sock:/s",
        "/run:/r",
        "/var/run:/r",
        "/var:/v",
        "/run/containerd:/c",
        "/:/host",
        "$HOME/sock:/s",
        "$HOME/rundir:/r",
        "$HOME/rundir/docker.sock:/s",
    ],
)
def test_no_mount_of_it(instance: Instance, volume: str) -> None:
    """By its name, by a directory that holds it, by a link of the user's: refused, nothing started."""
    home = Path(f"/home/{USERS[0]}")
    for name, target in (("sock", "/var/run/docker.sock"), ("rundir", "/run")):
        (home / name).symlink_to(target)
    try:
        done = instance.run(f"#!/bin/sh\n#DOCKER -v {volume} {IMAGE}\necho started\n")
    finally:
        for name in ("sock", "rundir"):
            (home / name).unlink()

    assert (done.exit_status, done.stdout) == (125, b"")
    assert b"cannot be mounted" in done.stderr


def test_nothing_in_a_container_leads_to_it(instance: Instance) -> None:
    """No path inside is the host's socket, and its name in the abstract namespace of a shared network is none."""
    done = instance.run(
        f"#!/bin/sh\n#DOCKER --network host {IMAGE}\nfind / -xdev -name '*.sock' 2>/dev/null\n"
        "grep -ac 'docker.sock' /proc/net/unix\ngrep -a '@.*containerd' /proc/net/unix\necho end\n"
    )
    # Seen in the list of a shared network namespace, which is a name and no way to it; containerd's shims listened on
    # abstract sockets, which are one, before 1.3.9 (CVE-2020-15257).
    assert done.stdout.decode().splitlines()[-1] == "end"
    assert "containerd" not in done.stdout.decode()
    assert ".sock\n" not in done.stdout.decode()


def test_the_agents_socket_is_no_second_one(instance: Instance) -> None:
    """The door everybody may knock at speaks no HTTP: what the engine would answer ends the connection."""
    assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n").exit_status == 0
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect(str(instance.run_dir / "agent.sock"))
        one.sendall(b"GET /containers/json HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            answer = one.recv(100)
        except ConnectionResetError:
            answer = b""
        assert answer == b""
