"""One emulated node, as seen from this host: its files, its processes, its engine."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbsdock.core.paths import Paths
from pbsdock.trial.forwarding import forward
from pbsdock.trial.process import Process, Spec, spawn

_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "LC_ALL": "C.UTF-8"}
_ANSWER_S = 5.0
_ENSURE = """import sys; sys.path.insert(0, {lib!r})
from pbsdock.hook.client import hook
hook()"""


def ensure_agent(paths: Paths) -> list[str]:
    """The command that starts a node's agent, as a hook of root's does, and waits until it answers. Pure."""
    code = _ENSURE.format(lib=str(paths.lib))
    where = ("--paths", str(paths.home / "paths.json"), "--run-dir", str(paths.run_dir))
    return [str(paths.python), "-I", "-S", "-c", code, *where, "ensure-agent"]


@dataclass(kw_only=True, eq=False)
class EmulatedNode:
    """A sister. Paths are the same as on this host; what is behind those of its own is not."""

    name: str
    address: str
    number: int  # 2 ...
    log: Path  # of its engine; a path of this host
    engine_socket: Path  # in the node
    requests: socket.socket  # its launcher's
    pid: int = 0  # of its first process, as this host numbers it
    mom: threading.Lock = field(default_factory=threading.Lock)  # held while its pbs_mom is busy and answers nobody
    _forwarded: list[socket.socket] = field(default_factory=list)

    def path(self, path: Path | str) -> Path:
        """A path in the node, as this host can open it.

        Directories are the same on all nodes, so links are followed here: from there they would lead out of the node.
        """
        where = Path(path)
        return Path(f"/proc/{self.pid}/root") / os.path.realpath(where.parent).lstrip("/") / where.name

    def spawn(self, spec: Spec, before: Callable[[int], None] | None = None) -> Process:
        """Start a process in the node; ``pid`` of what is returned is this host's number for it."""
        return spawn(spec, before, self.requests)

    def run(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the node, as root, and collect what it prints."""
        command = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "--", *argv]
        chosen: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "cwd": "/", "env": _ENV}
        return subprocess.run(command, **{**chosen, **options})

    def docker(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run this host's docker client against the node's engine."""
        return self.run(["docker", "-H", f"unix://{self.engine_socket}", *arguments], **options)

    def forward(self, port: int) -> None:
        """Have 127.0.0.1:*port* in the node lead to the same port of this host's, for example a registry's."""
        self._forwarded.append(forward(self.pid, port))

    # -- its daemons --------------------------------------------------------------------------------------------------

    def start_engine(self, settings: Path) -> None:
        """Start containerd and dockerd; *settings* is dockerd's configuration file."""
        run = "/run/pbsdock-try"
        self.path(run).mkdir(exist_ok=True)
        self.path(f"{run}/containerd.toml").write_text(
            f'version = 2\nroot = "/var/lib/containerd"\nstate = "{run}/containerd"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{run}/containerd.sock"\n'
        )
        self.path(self.engine_socket.parent).mkdir(parents=True, exist_ok=True)
        self._daemon("containerd", "--config", f"{run}/containerd.toml")
        self._daemon(
            "dockerd",
            f"--config-file={settings}",
            f"--containerd={run}/containerd.sock",
            f"--exec-root={run}/docker",
            f"--pidfile={run}/docker.pid",
            f"--host=unix://{self.engine_socket}",
            "--data-root=/var/lib/docker",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent={self.cgroup}",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-masq=false",
        )

    @property
    def cgroup(self) -> str:
        """The parent of its engine's containers."""
        return f"pbsdock-try-{self.number}"

    def _daemon(self, *argv: str) -> None:
        program = next(
            (found for where in _ENV["PATH"].split(":") if os.access(found := f"{where}/{argv[0]}", os.X_OK)), argv[0]
        )
        with open(self.log, "ab") as log:
            process = self.spawn(
                Spec(
                    program=program,
                    argv=argv,
                    env=_ENV,
                    cwd="/",
                    umask=0o022,
                    uid=0,
                    gid=0,
                    groups=(0,),
                    fds={1: log.fileno(), 2: log.fileno()},
                )
            )
        if process.error:
            raise OSError(process.error)

    def engine_answers(self) -> bool:
        """Whether the engine is up."""
        with socket.socket(socket.AF_UNIX) as door, suppress(OSError):
            door.settimeout(_ANSWER_S)
            door.connect(str(self.path(self.engine_socket)))
            door.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return door.recv(64).split(b" ")[1:2] == [b"200"]
        return False

    def start_agent(self, paths: Paths) -> None:
        """Start the node's agent, as an init system would, and wait until it answers. Raises RuntimeError."""
        done = self.run(ensure_agent(paths))
        if done.returncode:
            raise RuntimeError(f"the agent of {self.name} does not start: {done.stdout}{done.stderr}".rstrip())

    def copy_image(self, image: str, engine_here: str) -> bool:
        """Have *image*, a name or an id of this host's engine at unix socket *engine_here*, on the node too.

        Its id stays, and its tags; not the digests of the registry it came from. False: it is not here. Raises
        RuntimeError.
        """
        here = ["docker", "-H", f"unix://{engine_here}"]
        asked = [*here, "image", "inspect", "--format", "{{.Id}}{{range .RepoTags}} {{.}}{{end}}", image]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        if found.returncode:
            return False
        image_id, *tags = found.stdout.split()
        if self.docker("image", "inspect", "--format", "x", *tags, image_id).returncode == 0:
            return True
        with subprocess.Popen([*here, "save", *(tags or [image_id])], stdout=subprocess.PIPE) as saving:
            loaded = self.docker("load", "-q", stdin=saving.stdout)
        if saving.returncode or loaded.returncode:
            raise RuntimeError(f"{image} cannot be copied to {self.name}: {loaded.stderr.strip()}")
        return True

    def close(self) -> None:
        """Close what this process has open of the node; its end is the keeper's."""
        for listener in self._forwarded:
            listener.close()
        self.requests.close()
