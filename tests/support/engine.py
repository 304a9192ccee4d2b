"""A Docker engine of one's own, to be stopped, hung, killed and restarted while everybody else's runs on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import wait_until

# crun refuses a host where both versions of cgroups have controllers; so it is not shown the second. No more than that is
# between it and the engine.
_CRUN = """#!/bin/sh
[ -d /sys/fs/cgroup/unified ] || exec crun "$@"
exec unshare --mount --propagation=private sh -c 'umount /sys/fs/cgroup/unified; exec crun "$@"' - "$@"
"""


def crun(program: Path) -> Path:
    """Write *program*, which is crun for ``dockerd --add-runtime`` also where both versions of cgroups are in use."""
    program.write_text(_CRUN)
    program.chmod(0o755)
    return program


class OwnEngine:
    """A second dockerd in a network namespace of its own (else it would take the first one's bridge away).

    *inside* is the command that puts it there, *networks* what it is told of networks. Its containerd is a process beside
    it, as Debian's packages have it: one that dockerd starts by itself costs a killed dockerd 15 s at its next start.
    """

    def __init__(
        self,
        root: Path,
        inside: Sequence[str] = ("unshare", "--net"),
        networks: Sequence[str] = ("--bridge=none", "--iptables=false"),
    ) -> None:
        self.root = root
        self.inside, self.networks = inside, networks
        self.socket = root / "docker.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.containerd: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        self._launch(options)
        wait_until("the second engine answers", lambda: self._up(options), 60)

    def _up(self, options: tuple[str, ...]) -> bool:
        """After a kill a new dockerd may give up waiting for its containerd: then once more, as an init system does."""
        assert self.process is not None
        if self.process.poll() is not None:
            self._launch(options)
        return self.answers()

    def _launch(self, options: tuple[str, ...]) -> None:
        self.root.mkdir(exist_ok=True)
        if self.containerd is None:
            self._launch_containerd()
        self.process = self._spawn(
            "dockerd",
            "--data-root",
            f"{self.root}/data",
            "--exec-root",
            f"{self.root}/exec",
            "-p",
            f"{self.root}/pid",
            "-H",
            f"unix://{self.socket}",
            "--containerd",
            f"{self.root}/containerd.sock",
            *self.networks,
            *options,
        )

    def _launch_containerd(self) -> None:
        (self.root / "containerd.toml").write_text(
            f'version = 2\nroot = "{self.root}/containerd"\nstate = "{self.root}/containerd-state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.root}/containerd.sock"\n'
        )
        self.containerd = self._spawn("containerd", "--config", f"{self.root}/containerd.toml")
        wait_until("its containerd listens", lambda: (self.root / "containerd.sock").exists(), 30)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with open(self.root / "log", "ab") as log:
            return subprocess.Popen(
                [*self.inside, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def answers(self) -> bool:
        return self.docker("version").returncode == 0

    def docker(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", *arguments], capture_output=True, check=False, **options
        )

    def stop(self) -> None:
        """Stop dockerd alone, as a restart of it does."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)

    def unmake(self) -> None:
        """Stop all of it, as far as it was started."""
        for process in (self.process, self.containerd):
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        assert self.process is not None
        os.kill(int((self.root / "pid").read_text()), signal.SIGKILL)
        self.process.wait(30)

    def ask(self, path: str) -> object:
        """What a GET of the Engine API answers, without anybody's client in between."""
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(30)
            door.connect(str(self.socket))
            door.sendall(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            parts = list(iter(lambda: door.recv(65536), b""))
        return json.loads(b"".join(parts).partition(b"\r\n\r\n")[2])

    @property
    def pid(self) -> int:
        """dockerd's own."""
        return int((self.root / "pid").read_text())

    def freeze(self) -> None:
        """Let it hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)
