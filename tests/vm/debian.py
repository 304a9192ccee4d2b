"""A throw-away Debian without a machine: the root of one in namespaces of its own, where nothing reaches a network."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

_HOLD = """
set -e
mount -t tmpfs none "$2/changes"
mkdir "$2/changes/upper" "$2/changes/work"
mount -t overlay none -o "lowerdir=$1,upperdir=$2/changes/upper,workdir=$2/changes/work" "$2/root"
mount -t proc none "$2/root/proc"
mount --bind /dev "$2/root/dev"
mount -t tmpfs -o mode=755 none "$2/root/run"
touch "$2/ready"
exec sleep infinity
"""


class Debian:
    """Root is *base*'s, what is changed is thrown away with :meth:`close`, and so is every process."""

    def __init__(self, base: Path) -> None:
        self._work = Path(tempfile.mkdtemp(prefix="pbsdock-deb.", dir="/var/tmp"))
        for name in ("changes", "root"):
            (self._work / name).mkdir()
        self._holder = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--pid",
                "--net",
                "--fork",
                "--kill-child",
                "bash",
                "-c",
                _HOLD,
                "-",
                str(base),
                str(self._work),
            ]
        )
        deadline = time.monotonic() + 20
        while not (self._work / "ready").exists():
            if self._holder.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError("the namespaces of a Debian cannot be made")
            time.sleep(0.05)
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        self._first = int(children.read_text().split()[0])

    @property
    def enter(self) -> list[str]:
        """What is before a command that is to run in it."""
        return ["nsenter", "-t", str(self._first), "-m", "-p", "-n", "chroot", str(self._work / "root")]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell in it, as root, without a terminal; standard error goes to standard output."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        return subprocess.run(
            [*self.enter, "/bin/sh", "-c", command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def check(self, command: str) -> str:
        """The same; what it said. It must not fail."""
        done = self.run(command)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def put(self, name: str, text: str) -> None:
        """A file in it."""
        self.check(f"mkdir -p $(dirname {name}); cat >{name} <<'END-OF-IT'\n{text}END-OF-IT")

    def take(self, file: Path) -> None:
        """Copy *file* into its ``/root``."""
        root = Path(f"/proc/{self._first}/root{self._work}/root/root")
        shutil.copy(file, root)

    def close(self) -> None:
        """Its first process takes all others along."""
        self._holder.send_signal(signal.SIGKILL)
        self._holder.wait()
        shutil.rmtree(self._work, ignore_errors=True)
