"""The process that holds the emulated nodes of a trial, and clears away what they leave.

A program of its own, run by path with the standard library alone. Its network namespace is the switch between the
nodes, and it outlives who started it: however that one ends, its end of the control socket closes, and then every node
is killed and its directories, cgroups and lines in /etc/hosts are removed. If the keeper itself is killed the kernel
kills the nodes with it, and the next keeper removes the rest. One at a time on a host: they share names and addresses.

A node is a set of namespaces (UTS, network, mount, IPC, PID) with a first process that only waits for orphans: when it
dies the kernel kills all that is in the node, and mounts and interfaces go with the last of it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LOCK = "/run/lock/pbsdock-try-nodes"
HOSTS = Path("/etc/hosts")
MARK = "# an emulated node of pbsdock try"
_CGROUPS = "/sys/fs/cgroup"
_NEWNS, _NEWUTS, _NEWIPC, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
_BIND, _REC, _SLAVE, _SHARED = 0x1000, 0x4000, 0x80000, 0x100000
_NOSUID_NODEV = 0x2 | 0x4
_PDEATHSIG = 1
_LOOK_MS = 1000  # how often it looks whether its parent is still there
_BUSY_S = 10.0  # how long a cgroup or a directory may stay busy after its last process

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    texts = (source, target, kind)
    _checked(f"mount {target}", _libc.mount(*(t.encode() for t in texts), ctypes.c_ulong(flags), data.encode() or None))


def _die_with_parent() -> None:
    _checked("prctl", _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _ip(lines: list[str]) -> None:
    command = ["/usr/bin/env", "ip", "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, stdout=sys.stderr)


# -- a node -----------------------------------------------------------------------------------------------------------


def _mounts(node: dict[str, Any]) -> None:
    """What a node has of its own. Mounts spread inside, as on a host of systemd's, and never outward."""
    _mount("none", "/", flags=_REC | _SLAVE)
    _mount("none", "/", flags=_REC | _SHARED)
    _mount("proc", "/proc", "proc")
    _mount("tmpfs", "/dev/shm", "tmpfs", _NOSUID_NODEV, "mode=1777")  # noqa: S108 - mounted here
    kept = [(where, os.open(where, os.O_PATH)) for where in node["kept"]]
    _mount("tmpfs", "/run", "tmpfs", _NOSUID_NODEV, "mode=755")
    os.mkdir("/run/lock")
    os.chmod("/run/lock", 0o1777)  # noqa: S103 - as everywhere
    for where, fd in kept:
        os.makedirs(where, exist_ok=True)
        _mount(f"/proc/self/fd/{fd}", where, flags=_BIND | _REC)
        os.close(fd)
    for source, target in node["binds"]:
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        _mount(source, target, flags=_BIND)


def _wait_for_orphans() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.2)


def _first_process(plan: dict[str, Any], node: dict[str, Any], ready: int, go: int) -> None:
    """Process 1 of a node."""
    _die_with_parent()
    _mounts(node)
    socket.sethostname(node["name"])
    os.write(ready, b"m")
    if not os.read(go, 1):
        os._exit(1)
    _ip(["link set lo up", f"addr add {node['address']}/{plan['prefix']} dev eth0", "link set eth0 up"])
    if os.fork() == 0:
        os.set_inheritable(node["launcher"], True)
        os.execve(sys.executable, [sys.executable, "-I", "-S", plan["launcher"], str(node["launcher"])], plan["env"])
    os.close(node["launcher"])
    os.write(ready, b"n")
    os.close(ready)
    os.close(go)
    _wait_for_orphans()


class _Node:
    """A node as the keeper sees it: the parent of its first process, and that one's number on this host."""

    def __init__(self, plan: dict[str, Any], node: dict[str, Any], others: list[int]) -> None:
        self.plan, self.node = plan, node
        self._ready, ready = os.pipe()
        go, self._go = os.pipe()
        number, said = os.pipe()
        self.parent = os.fork()
        if self.parent == 0:
            try:
                for fd in (self._ready, self._go, number, *others):
                    os.close(fd)
                self._unshare(ready, go, said)
            except BaseException as error:
                print(f"pbsdock: the node {node['name']} cannot be made: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(1)
        for fd in (ready, go, said, node["launcher"]):
            os.close(fd)
        self.pid = int(os.read(number, 32) or b"0")
        os.close(number)

    def _unshare(self, ready: int, go: int, said: int) -> None:
        _die_with_parent()
        _checked("unshare", _libc.unshare(_NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET))
        pid = os.fork()
        if pid == 0:
            os.close(said)
            _first_process(self.plan, self.node, ready, go)
            os._exit(1)
        os.write(said, str(pid).encode())
        for fd in (ready, go, said, self.node["launcher"]):
            os.close(fd)
        os.waitpid(pid, 0)

    def step(self) -> None:
        """Wait until the node has come a step further. Raises RuntimeError if it has ended instead."""
        if not os.read(self._ready, 1):
            raise RuntimeError(f"the node {self.node['name']} has not come up")

    def connected(self) -> None:
        """Tell the node that it has its interface."""
        os.write(self._go, b"g")

    def kill(self) -> None:
        """Kill all of it, and wait until it is gone."""
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os.waitpid(self.parent, 0)


# -- traces on this host ----------------------------------------------------------------------------------------------


def _set_hosts(lines: list[str]) -> None:
    """Have these lines, and no older ones of ours, at the end of /etc/hosts."""
    text = HOSTS.read_text(errors="surrogateescape")
    kept = [line for line in text.splitlines() if not line.endswith(MARK)]
    new = "".join(f"{line}\n" for line in [*kept, *(f"{line} {MARK}" for line in lines)])
    if new.rstrip() != text.rstrip():
        HOSTS.write_text(new, errors="surrogateescape")  # in place: it may be a mount point


def _remove_cgroups(names: list[str]) -> None:
    """Remove cgroups of these names, wherever they are."""
    deadline = time.monotonic() + _BUSY_S
    for top, below, _ in os.walk(_CGROUPS):
        for name in [name for name in below if name in names]:
            below.remove(name)
            for directory, _, _ in os.walk(os.path.join(top, name), topdown=False):
                _remove_cgroup(directory, deadline)


def _remove_cgroup(directory: str, deadline: float) -> None:
    while True:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        else:
            return


def _remove_directory(directory: str) -> None:
    deadline = time.monotonic() + _BUSY_S
    while os.path.exists(directory):
        shutil.rmtree(directory, ignore_errors=True)
        if time.monotonic() > deadline:
            return


def _clear(directory: Path) -> None:
    """Remove what a cluster has left on this host."""
    try:
        plan = json.loads((directory / "plan.json").read_bytes())
    except (OSError, ValueError):
        plan = {}
    _remove_cgroups([name for node in plan.get("nodes", []) for name in node["cgroups"]])
    _remove_directory(str(directory))


# -- the keeper -------------------------------------------------------------------------------------------------------


def _bring_up(plan: dict[str, Any], parent: int, control: socket.socket, nodes: list[_Node]) -> None:
    _checked("unshare", _libc.unshare(_NEWNET))  # the switch
    for node in plan["nodes"]:
        nodes.append(
            _Node(
                plan,
                node,
                [control.fileno(), *(n["launcher"] for n in plan["nodes"] if n["launcher"] > node["launcher"])],
            )
        )
    links = ["link add switch type bridge", "link set switch up"]
    for number, end in enumerate([f"{plan['interface']} netns {parent}", *(f"eth0 netns {n.pid}" for n in nodes)]):
        links += [f"link add port{number} type veth peer name {end}", f"link set port{number} master switch up"]
    for each in nodes:
        each.step()
    _ip(links)
    for each in nodes:
        each.connected()
    for each in nodes:
        each.step()
    _set_hosts([f"{node['address']} {node['name']}" for node in plan["nodes"]])


def main(directory: Path, number: int) -> int:
    """Make what the plan in *directory* says, report it on descriptor *number*, hold it until that is closed."""
    parent = os.getppid()
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    control = socket.socket(fileno=number)
    plan = json.loads((directory / "plan.json").read_bytes())
    nodes: list[_Node] = []
    said: dict[str, object]
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            control.sendall(b'{"error": "another pbsdock try --nodes is under way on this host; wait for its end"}\n')
            _remove_directory(str(directory))
            return 1
        for other in directory.parent.glob(f"{plan['stem']}*"):
            if other != directory:
                _clear(other)
        try:
            _bring_up(plan, parent, control, nodes)
            said = {"pids": [node.pid for node in nodes]}
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            said = {"error": f"the nodes cannot be emulated here: {error}"}
        try:
            control.sendall(json.dumps(said).encode() + b"\n")
            poller = select.poll()
            poller.register(control, select.POLLIN)
            while not poller.poll(_LOOK_MS) and os.getppid() == parent:
                continue
        except OSError:
            pass
        for node in nodes:
            node.kill()
        with suppress(subprocess.SubprocessError):  # else it would go a moment after the keeper
            _ip(["link del port0"])
        _set_hosts([])
        _clear(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
