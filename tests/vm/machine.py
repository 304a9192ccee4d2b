"""A virtual machine with systemd, cgroup v2 and Docker, driven from outside: boot, command, hard reset, end.

QEMU translates every instruction (TCG). Hardware virtualisation is not used even where /dev/kvm opens: on machines that
are virtual themselves it may be slower, or die in the middle of a boot.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BOOT_S = 150.0
_COMMAND_LINE = (
    "console=ttyS0 quiet root=/dev/vda reboot=t systemd.unified_cgroup_hierarchy=1 mitigations=off"
    " apparmor=0"  # else every container fails: the kernel has AppArmor, the root no apparmor_parser (observed)
)


class MachineError(Exception):
    """The machine did not do as told; the text has the end of its console."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command in the machine printed, both streams in one, and its exit status."""

    status: int
    out: str


class Machine:
    """One running machine. Its disks are never changed: what it writes goes to a file that is gone when it ends."""

    def __init__(self, base: Path, package: Path, *, memory_mb: int = 2048) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pbsdock-vm.", dir="/var/tmp"))
        self.outbox = self.directory / "outbox"
        self.outbox.touch()
        os.truncate(self.outbox, 64 << 20)
        self._buffer = b""
        self.commands: list[str] = []  # what was run and how long it took
        self._number = 0
        self.boot_id = ""
        self._line = self._listen("line")
        self._monitor = self._listen("monitor")
        self.process = subprocess.Popen(
            [*_qemu(base, package, self.directory, memory_mb)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=(self.directory / "qemu.log").open("wb"), start_new_session=True,
        )
        try:
            self.line = self._accept(self._line)
            self.monitor = self._accept(self._monitor)
            self._qmp("qmp_capabilities")
            self.boot_id = self._ready()
        except BaseException:
            self.close()
            raise

    # -- what it does -------------------------------------------------------------------------------------------

    def run(self, command: str, timeout_s: float = 120.0) -> Result:
        """Run a line of bash in the machine."""
        self._number += 1
        began = time.monotonic()
        asked = {"id": self._number, "command": command, "timeout": timeout_s}
        self.line.sendall(json.dumps(asked).encode() + b"\n")
        deadline = time.monotonic() + timeout_s + 30.0
        while (answer := self._answer(deadline, f"an answer to: {command}")).get("id") != self._number:
            pass
        self.commands.append(f"{time.monotonic() - began:6.1f} s  {command[:150]!r} -> {answer['status']}")
        return Result(int(answer["status"]), str(answer["out"]))

    def check(self, command: str, timeout_s: float = 120.0) -> str:
        """The same, for what has to succeed; returns what it printed."""
        result = self.run(command, timeout_s)
        if result.status != 0:
            raise MachineError(f"`{command}` ended with {result.status}:\n{result.out}")
        return result.out

    def reset(self) -> None:
        """Pull the plug and put it in again: nothing in the machine is told, nothing that is not on disk survives."""
        before = self.boot_id
        self._qmp("system_reset")
        began = time.monotonic()
        self.boot_id = self._ready()
        self.commands.append(f"{time.monotonic() - began:6.1f} s  reset")
        if self.boot_id == before:
            raise MachineError("the machine is in the same boot as before it was reset")

    def fetch(self, paths: str, target: Path) -> None:
        """Copy files out of the machine, through a disk that holds nothing but an archive."""
        self.check(f"tar -c -C / --ignore-failed-read {paths} >/dev/vdc && sync", 60.0)
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-x", "-f", str(self.outbox), "-C", str(target)], check=True)

    def close(self) -> None:
        """End it, by its own process id, and remove what it wrote; its console stays where `keep` names a place."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for one in ("line", "monitor", "_line", "_monitor"):
            if hasattr(self, one):
                getattr(self, one).close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def console(self) -> str:
        """What the kernel and systemd said on the first serial line."""
        return (self.directory / "console.log").read_text(errors="replace")

    # -- how ----------------------------------------------------------------------------------------------------

    def _listen(self, name: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.directory / name))
        listener.listen(1)
        return listener

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(0.2)
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                said = (self.directory / "qemu.log").read_text(errors="replace")
                raise MachineError(f"QEMU ended with {self.process.returncode}: {said}")
            try:
                return listener.accept()[0]
            except TimeoutError:
                continue
        raise MachineError("QEMU did not open its serial line within 20 s")

    def _ready(self) -> str:
        deadline = time.monotonic() + _BOOT_S
        while "ready" not in (answer := self._answer(deadline, "the machine to boot")):
            pass
        return str(answer["ready"])

    def _answer(self, deadline: float, awaited: str) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            if self.process.poll() is not None:
                raise MachineError(f"QEMU ended with {self.process.returncode} before {awaited}:\n{self.console()[-4000:]}")
            self.line.settimeout(min(1.0, max(0.01, deadline - time.monotonic())))
            try:
                self._buffer += self.line.recv(65536)
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise MachineError(f"not in time: {awaited}\n{self.console()[-4000:]}") from None
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return dict(json.loads(line))
        except ValueError:
            return {}  # cut short by a reset

    def _qmp(self, command: str) -> None:
        """One command of the QEMU machine protocol (docs/interop/qmp-spec in QEMU's source)."""
        self.monitor.settimeout(10.0)
        self.monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
        said = b""
        while b'"return"' not in said:
            said += self.monitor.recv(65536)


def _qemu(base: Path, package: Path, directory: Path, memory_mb: int) -> list[str]:
    drives: list[str] = []
    for number, (path, options) in enumerate(
        ((base / "root.ext4", "snapshot=on,cache=unsafe"), (package, "snapshot=on,cache=unsafe"), (directory / "outbox", "cache=unsafe"))
    ):
        drives += ["-drive", f"file={path},format=raw,if=none,id=d{number},{options}"]
        drives += ["-device", f"virtio-blk-pci,drive=d{number}"]
    return [
        "/usr/bin/qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-m", str(memory_mb),
        "-machine", "pc", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max", "-smp", "2",
        "-kernel", str(base / "vmlinux"), "-initrd", str(base / "initrd.gz"), "-append", _COMMAND_LINE, *drives,
        "-serial", f"file:{directory}/console.log", "-chardev", f"socket,id=line,path={directory}/line",
        "-serial", "chardev:line", "-chardev", f"socket,id=monitor,path={directory}/monitor",
        "-mon", "chardev=monitor,mode=control",
    ]
