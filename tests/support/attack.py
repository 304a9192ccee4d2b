"""What attackers have: a user's own programs on the node, and images made to hurt."""

from __future__ import annotations

import io
import os
import pwd
import subprocess
import tarfile
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from tests.conftest import IMAGE, USERS, Instance

ATTACKER = USERS[1]
_NAMES = IMAGE.split("/", maxsplit=1)[0]
_HEAD = (
    "import sys, os, socket, time, random; sys.path.insert(0, sys.argv.pop())\n"
    "from pbsdock.protocol import init, wire\nfrom pbsdock.protocol.link import Link, AgentGone\n"
)
_HEAD += """
def run_in(answer, fds, line):
    'What a shell says to a line, run by the first process as a run hook would have it.'
    door = init.Connection(f"/proc/self/fd/{fds[0]}/{init.SOCKET}", 30.0)
    null, (ours, theirs) = os.open(os.devnull, os.O_RDWR), os.pipe()
    argv, flags = [b"/bin/sh", b"-c", line.encode()], init.SESSION | init.LEADER
    door.run(init.Run(answer.text("name"), argv, answer.raw("env"), b"/", umask=18, flags=flags), (null, theirs, theirs))
    os.close(theirs)
    with open(ours, "rb") as file:
        return file.read()

"""


def library(instance: Instance) -> str:
    """Where the installed program's modules are; users can read them."""
    return str(next((instance.root / "opt/pbsdock/current/venv/lib").glob("python3*/site-packages")))


def begin_as(instance: Instance, code: str, *arguments: str, user: str = ATTACKER) -> subprocess.Popen[str]:
    """Start Python as a user who has the agent's socket in ``sys.argv[1]`` and *arguments* after it."""
    return subprocess.Popen(
        [
            "/usr/bin/python3",
            "-c",
            _HEAD + textwrap.dedent(code),
            str(instance.run_dir / "agent.sock"),
            *arguments,
            library(instance),
        ],
        user=user,
        group=pwd.getpwnam(user).pw_gid,
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )


def as_user(instance: Instance, code: str, *arguments: str, user: str = ATTACKER) -> list[str]:
    """Run it to its end; returns the lines it printed. It must not have failed by itself."""
    with begin_as(instance, code, *arguments, user=user) as process:
        said, wrong = process.communicate(timeout=120)
    assert (wrong, process.returncode) == ("", 0), wrong
    return said.splitlines()


def works(instance: Instance, user: str = USERS[0]) -> bool:
    """Whether an ordinary job of *user* runs."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ok\n", user=user)
    if done.stdout != b"ok\n":
        print(done)
    return done.stdout == b"ok\n"


def is_healthy(instance: Instance) -> bool:
    """Whether the node would take jobs: no user must be able to change that."""
    return not (instance.run_dir / "unhealthy").exists()


@dataclass(frozen=True)
class Entry:
    """One member of an image: a file with *data*, a link, a device, or a directory."""

    name: str
    data: bytes = b""
    mode: int = 0o755
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    device: tuple[int, int] = (0, 0)
    capability: bytes = b""  # the value of security.capability, capabilities(7)


@contextmanager
def image(name: str, entries: Iterable[Entry], changes: Iterable[str] = (), **committed: Any) -> Iterator[str]:
    """A local image of busybox and *entries*; *changes* are Dockerfile lines. Yields what a directive calls it."""
    whole = f"{_NAMES}/{name}:1"
    busybox = Path("/bin/busybox").resolve()
    applets = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries = list(entries)
    own = {one.name for one in entries}
    basis = [
        *(Entry(one, kind=tarfile.DIRTYPE) for one in ("bin", "etc", "dev")),
        *(Entry(one, mode=0o1777, kind=tarfile.DIRTYPE) for one in ("tmp", "w")),
        Entry("bin/busybox", busybox.read_bytes()),
        *(Entry(f"bin/{one}", kind=tarfile.SYMTYPE, target="busybox") for one in applets if one != "busybox"),
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for one in (*(entry for entry in basis if entry.name not in own), *entries):
            member = tarfile.TarInfo(one.name)
            member.type, member.mode, member.linkname, member.size = one.kind, one.mode, one.target, len(one.data)
            member.devmajor, member.devminor = one.device
            if one.capability:
                member.pax_headers["SCHILY.xattr.security.capability"] = one.capability.decode(
                    "utf-8", "surrogateescape"
                )
            archive.addfile(member, io.BytesIO(one.data))
    flags = [word for one in changes for word in ("-c", one)]
    subprocess.run(["docker", "import", *flags, "-", whole], input=buffer.getvalue(), capture_output=True, check=True)
    if committed:  # what no import can be told: arguments of docker.APIClient.create_container
        client = docker.from_env().api
        made = client.create_container(whole, "x", **committed)["Id"]
        client.commit(made, *whole.split(":"))
        client.remove_container(made, v=True)
        client.close()
    try:
        yield whole
    finally:
        subprocess.run(["docker", "rmi", "-f", whole], capture_output=True, check=False)


def disk() -> tuple[int, int]:
    """The device of the host's root file system."""
    device = os.stat("/").st_dev
    return os.major(device), os.minor(device)
