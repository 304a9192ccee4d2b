"""Emulated nodes beside this host: brought up, found by name, ended."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pbsdock.config.tables import load as load_config
from pbsdock.core.paths import Paths
from pbsdock.trial import keeper, launcher
from pbsdock.trial.namespaces import EmulatedNode
from pbsdock.trial.request import BadRequest, mom_config

_DIRECTORY, _STEM = "/var/tmp", "pbsdock-nodes."  # noqa: S108 - mkdtemp makes it; what is in /tmp is the node's own
_CLIENT = "init/pbsdsh"
_INTERFACE = "pbsdock-try"  # and the number of its subnet
_SUBNETS = tuple(f"10.213.{number}" for number in range(1, 255))
_PREFIX = 24
_UP_S = 60.0
_DOWN_S = 60.0
_OWN_TREES = ("/tmp", "/run")  # noqa: S108 - trees that each node has of its own
_KEPT = ("/run/munge",)  # of this host's /run: nodes of a site share munge's key
_ENGINE_SETTINGS = ("insecure-registries", "runtimes", "default-runtime", "storage-driver", "default-ulimits")


class Cluster:
    """This host, the mother, and emulated nodes around one installed instance. Needs root.

    Each node has its own host name, network, mounts, IPC and process numbers; its own /tmp, /run, /dev/shm, mom_priv,
    spool and aux directories, engine, and agent of the same version under an instance name of its own. The rest is
    shared.
    """

    def __init__(self, paths: Paths, names: Sequence[str]) -> None:
        """*names*: host names of the nodes to emulate. Nothing is started before ``open``."""
        self.paths = paths
        self.names = tuple(names)
        self.mother = socket.gethostname()
        self.nodes: list[EmulatedNode] = []
        self.directory = Path()
        self.engine_here = ""
        self._keeper: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def client_dir(self) -> Path:
        """Where pbsdsh is; the same on all nodes."""
        return self.directory / "bin"

    def node(self, name: str) -> EmulatedNode:
        """The emulated node of this name. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def __enter__(self) -> Cluster:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Bring all nodes up, with engine and agent. Raises BadRequest if that cannot be done here."""
        try:
            self._open()
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            self.close()
            raise error if isinstance(error, BadRequest) else BadRequest(f"nodes cannot be emulated: {error}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all nodes, and wait until nothing is left of them."""
        if self._control is not None:
            self._control.close()
            self._control = None
        for node in self.nodes:
            node.close()
        if self._keeper is not None:
            self._keeper.wait(_DOWN_S)
            self._keeper = None

    def copy_image(self, image: str) -> bool:
        """Have an image of this host's engine on all nodes; False if it is not here. Raises RuntimeError."""
        return all([node.copy_image(image, self.engine_here) for node in self.nodes])

    # -- the start ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._refuse_shared()
        self.engine_here = load_config(self.paths.config).engine.socket
        self.directory = Path(tempfile.mkdtemp(prefix=_STEM, dir=_DIRECTORY))
        self.directory.chmod(0o755)
        has_client = self._put_client()
        subnet = _free_subnet()
        interface = f"{_INTERFACE}{subnet.rpartition('.')[2]}"
        launchers = []
        for number, name in enumerate(self.names, 2):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            launchers.append(theirs)
            node = EmulatedNode(
                name=name,
                address=f"{subnet}.{number}",
                number=number,
                log=self.directory / f"{number}" / "engine.log",
                engine_socket=Path(self.engine_here).parent.resolve() / Path(self.engine_here).name,
                requests=ours,
            )
            self.nodes.append(node)
        plan = {
            "stem": _STEM,
            "interface": interface,
            "prefix": _PREFIX,
            "launcher": str(Path(launcher.__file__)),
            "env": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            "nodes": [
                self._plan(node, theirs.fileno(), f"{subnet}.1")
                for node, theirs in zip(self.nodes, launchers, strict=True)
            ],
        }
        (self.directory / "plan.json").write_text(json.dumps(plan))
        pids = self._start_keeper([theirs.fileno() for theirs in launchers])
        for node, theirs, pid in zip(self.nodes, launchers, pids, strict=True):
            theirs.close()
            node.pid = pid
        for command in (["addr", "add", f"{subnet}.1/{_PREFIX}", "dev", interface], ["link", "set", interface, "up"]):
            subprocess.run(["/usr/bin/env", "ip", *command], check=True)
        _in_parallel([lambda node=node: self._start_daemons(node) for node in self.nodes])  # type: ignore[misc]
        if not has_client:  # jobs that start no tasks can be tried all the same
            print("pbsdock try: jobs find no pbsdsh, since the installation found no C compiler (cc)", file=sys.stderr)

    def _refuse_shared(self) -> None:
        for path in (self.paths.home, self.paths.python, self.paths.config, self.paths.mom_priv, Path(sys.executable)):
            if any(path.is_relative_to(tree) for tree in _OWN_TREES):
                raise BadRequest(
                    f"nodes cannot be emulated: each has a {path.parts[1]} of its own, and {path} is there"
                )
        if not shutil.which("ip") or not shutil.which("nsenter"):
            raise BadRequest("nodes cannot be emulated: ip (iproute2) and nsenter (util-linux) are needed")

    def _put_client(self) -> bool:
        """Put pbsdsh there, if this installation has one."""
        self.client_dir.mkdir()
        self.client_dir.chmod(0o755)
        with suppress(FileNotFoundError):
            shutil.copy(self.paths.lib / "pbsdock" / _CLIENT, self.client_dir / "pbsdsh")
            return True
        return False

    def _start_keeper(self, launchers: Sequence[int]) -> list[int]:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(self.directory), str(theirs.fileno())],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *launchers],
                start_new_session=True,
            )
        self._control.settimeout(_UP_S)
        with self._control.makefile("rb") as file:
            said = json.loads(file.readline() or b'{"error": "nodes cannot be emulated: their keeper has died"}')
        if "error" in said:
            raise BadRequest(said["error"])
        return [int(pid) for pid in said["pids"]]

    def _start_daemons(self, node: EmulatedNode) -> None:
        settings = self.directory / f"{node.number}" / "daemon.json"
        settings.write_text(json.dumps(_engine_settings()))
        node.start_engine(settings)
        deadline = time.monotonic() + _UP_S
        while not node.engine_answers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the engine of {node.name} does not answer:\n{node.log.read_text()[-2000:]}")
            time.sleep(0.02)
        node.start_agent(self.paths)

    # -- what each has of its own -------------------------------------------------------------------------------------

    def _plan(self, node: EmulatedNode, requests: int, mother: str) -> dict[str, object]:
        """A node as the keeper makes it; its own directories are filled here."""
        top = self.directory / f"{node.number}"
        top.mkdir(mode=0o700)
        paths, tmpdir = self.paths, mom_config(self.paths.mom_priv).get("tmpdir")
        instance = f"{paths.instance}-{node.number}"
        binds: list[tuple[str, str]] = []

        def own(target: Path, fill: Callable[[Path], None] | None = None) -> None:
            source = top / f"{len(binds)}"
            source.mkdir()
            if fill is not None:
                fill(source)
            _like(target, source)
            binds.append((str(source), str(target)))

        def own_file(target: Path, text: str) -> None:
            source = top / f"{len(binds)}"
            source.write_text(text)
            source.chmod(0o644)
            binds.append((str(source), str(target)))

        own(Path("/tmp"))  # noqa: S108
        home = paths.mom_priv.parent
        for target in (paths.run_dir, paths.state_dir, paths.log_dir, home / "spool", home / "aux"):
            target.mkdir(parents=True, exist_ok=True)
            own(target)
        own(Path("/var/lib/docker"))
        own(Path("/var/lib/containerd"))
        own(Path("/etc/docker"), _copy_engine_files)
        if tmpdir:
            own(Path(tmpdir))
        own(paths.config.parent, lambda copy: _copy_tree(paths.config.parent, copy))
        (Path(binds[-1][0]) / "instance").write_text(f"{instance}\n")
        own(paths.mom_priv, lambda copy: _copy_mom_priv(paths.mom_priv, copy))
        places = paths.home / "paths.json"
        own_file(places, json.dumps({**json.loads(places.read_text()), "instance": instance}))
        hosts = [f"{mother} {self.mother}", *(f"{other.address} {other.name}" for other in self.nodes)]
        own_file(Path("/etc/hosts"), "\n".join(["127.0.0.1 localhost", *hosts, ""]))
        if Path("/etc/hostname").exists():
            own_file(Path("/etc/hostname"), f"{node.name}\n")
        return {
            "name": node.name,
            "address": node.address,
            "launcher": requests,
            "kept": [kept for kept in _KEPT if Path(kept).is_dir()],
            "binds": binds,
            "cgroups": [instance, node.cgroup],
        }


def _like(original: Path, copy: Path) -> None:
    """Give *copy* owner and mode of *original*; root's and 0755 if there is none."""
    with suppress(FileNotFoundError):
        found = original.stat()
        os.chown(copy, found.st_uid, found.st_gid)
        copy.chmod(stat.S_IMODE(found.st_mode))
        return
    copy.chmod(0o755)


def _copy_tree(original: Path, copy: Path) -> None:
    """Copy what is below a directory, with owners and modes; sockets and the like are left out."""
    for path in original.iterdir():
        target = copy / path.name
        if path.is_symlink():
            target.symlink_to(path.readlink())
        elif path.is_dir():
            target.mkdir()
            _copy_tree(path, target)
            _like(path, target)
        elif path.is_file():
            shutil.copyfile(path, target)
            _like(path, target)


def _copy_engine_files(copy: Path) -> None:
    """Certificates of registries and the like; not the key that an engine's identity comes from."""
    original = Path("/etc/docker")
    if original.is_dir():
        _copy_tree(original, copy)
        (copy / "key.json").unlink(missing_ok=True)


def _copy_mom_priv(original: Path, copy: Path) -> None:
    """Hooks and configuration; no jobs."""
    _copy_tree(original, copy)
    shutil.rmtree(copy / "jobs", ignore_errors=True)
    (copy / "jobs").mkdir()
    (copy / "jobs").chmod(0o751)


def _engine_settings() -> dict[str, object]:
    """Those of this host's dockerd that a pull or a container depends on; where it keeps things is the engine's own."""
    try:
        here = json.loads(Path("/etc/docker/daemon.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: here[name] for name in _ENGINE_SETTINGS if name in here}


def _free_subnet() -> str:
    command = ["/usr/bin/env", "ip", "-4", "route", "show", "table", "all"]
    routes = subprocess.run(command, capture_output=True, text=True, check=True)
    for subnet in _SUBNETS:
        if f"{subnet}." not in routes.stdout:
            return subnet
    raise BadRequest("nodes cannot be emulated: all networks of 10.213.0.0/16 are in use here")


def _in_parallel(steps: Sequence[Callable[[], None]]) -> None:
    """Take all steps at once; the first error is raised when all have ended."""
    errors: list[BaseException] = []

    def take(step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=take, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
