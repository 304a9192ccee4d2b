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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vm.monitor import Monitor

_BOOT_S = 300.0
# The machine says every five seconds that it is alive: so long nothing at all means that it is not.
_SILENT_S = 120.0
_LATE = 2.0  # a guest's second may last longer than ours where processors are scarce
# Never thread=multi: a kernel that changes its own code while another processor runs it, as it does for the first CPU
# quota, sends QEMU before 8.1 astray ("accel/tcg: Always lock pages before translation" in its history). The machine
# then stands still without a word (observed with 7.2: within seconds of setting and lifting a quota, 4 times out of 4;
# with thread=single not in 10,000 times). One thread takes both of the machine's processors in turn and is hardly slower.
_ACCELERATOR = "tcg,thread=single,tb-size=512"
# Without cmpxchg16b: an interrupt right after it finds garbage in the flags (observed with QEMU 7.2: kernel 6.12, whose memory
# allocator uses it all the time, panicked in __kmalloc_cache_noprof with EFLAGS 011e53e2).
_PROCESSOR = "max,-cx16"
_COMMAND_LINE = (
    "console=ttyS0 quiet root=/dev/vda reboot=t systemd.unified_cgroup_hierarchy=1 mitigations=off"
    " apparmor=0"  # else every container fails: the kernel has AppArmor, the root no apparmor_parser (observed)
    " unknown_nmi_panic"  # so that a machine that stands still can be asked where
)


class MachineError(Exception):
    """The machine did not do as told."""


class MachineLost(MachineError):
    """The machine ended or says nothing any more: no fault of what is tested in it. The text is what could be found out."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command in the machine printed, both streams in one, and its exit status (124: its time was up)."""

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
        self._heard = time.monotonic()
        self.commands: list[
            str
        ] = []  # what was run and how long it took; what was asked again and again, the last time
        self._asked = ""
        self._number = 0
        self.boot_id = ""
        self.lost = False
        self._doors = {name: self._listen(name) for name in ("line", "monitor")}
        self.process = subprocess.Popen(
            [*_qemu(base, package, self.directory, memory_mb)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / "qemu.log").open("wb"),
            start_new_session=True,
        )
        try:
            self.line = self._accept("line")
            self.monitor = Monitor(self._accept("monitor"))
            self.boot_id = self._ready()
        except BaseException:
            self.close()
            raise

    # -- what it does -------------------------------------------------------------------------------------------

    def run(self, command: str, timeout_s: float = 120.0) -> Result:
        """Run a line of bash in the machine, which kills it and answers when its time is up."""
        self._number += 1
        self._hear()
        began = time.monotonic()
        asked = {"id": self._number, "command": command, "timeout": timeout_s}
        self.line.sendall(json.dumps(asked).encode() + b"\n")
        deadline = time.monotonic() + _LATE * timeout_s + _SILENT_S
        while (answer := self._answer(deadline, f"an answer to: {command}")).get("id") != self._number:
            pass
        self._note(command[:150], time.monotonic() - began, f" -> {answer['status']}")
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
        self.monitor.ask("system_reset")
        began = time.monotonic()
        self.boot_id = self._ready()
        self._note("reset", time.monotonic() - began)
        if self.boot_id == before:
            raise MachineError("the machine is in the same boot as before it was reset")

    def connect(self, address: str, port: int) -> None:
        """Plug in a network on which *address* (HOST:PORT) is a port of this host's loopback; nothing else is reached."""
        forward = f"tcp:{address}-cmd:{shutil.which('busybox')} nc 127.0.0.1 {port}"
        self.monitor.ask("netdev_add", type="user", id="net", restrict=True, guestfwd=[{"str": forward}])
        self.monitor.ask("device_add", driver="virtio-net-pci", netdev="net")

    def fetch(self, paths: str, target: Path) -> None:
        """Copy files out of the machine, through a disk that holds nothing but an archive."""
        self.check(f"tar -c -C / --ignore-failed-read {paths} >/dev/vdc && sync", 60.0)
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-x", "-f", str(self.outbox), "-C", str(target)], check=True)

    def close(self) -> None:
        """End it, by its own process id, and remove what it wrote."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for door in (*self._doors.values(), *(getattr(self, one) for one in ("line", "monitor") if hasattr(self, one))):
            door.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def console(self) -> str:
        """What the kernel and systemd said on the first serial line."""
        return (self.directory / "console.log").read_text(errors="replace")

    # -- how ----------------------------------------------------------------------------------------------------

    def _note(self, what: str, seconds: float, status: str = "") -> None:
        if what == self._asked:
            self.commands.pop()
        self._asked = what
        self.commands.append(f"{seconds:6.1f} s  {what!r}{status}")

    def _listen(self, name: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.directory / name))
        listener.listen(1)
        return listener

    def _accept(self, name: str) -> socket.socket:
        listener = self._doors[name]
        listener.settimeout(0.2)
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                said = (self.directory / "qemu.log").read_text(errors="replace")
                raise MachineError(f"QEMU ended with {self.process.returncode}: {said}")
            try:
                return listener.accept()[0]
            except TimeoutError:
                continue
        raise MachineError(f"QEMU did not connect to {name} within 60 s")

    def _ready(self) -> str:
        self._heard = time.monotonic() + _BOOT_S - _SILENT_S  # it is not alive before it has booted
        while "ready" not in (answer := self._answer(time.monotonic() + _BOOT_S, "the machine to boot")):
            pass
        return str(answer["ready"])

    def _hear(self) -> None:
        """Read what it has said while nobody listened."""
        self.line.settimeout(0.0)
        with suppress(BlockingIOError):
            while data := self.line.recv(65536):
                self._buffer += data
        self._heard = time.monotonic()

    def _answer(self, deadline: float, awaited: str) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            now = time.monotonic()
            if self.lost or self.process.poll() is not None or now - self._heard > _SILENT_S:
                raise MachineLost(f"{self._autopsy()}\nawaited: {awaited}")
            if now > deadline:
                raise MachineError(f"the machine lives, but not in time: {awaited}\n{self.console()[-4000:]}")
            self.line.settimeout(1.0)
            with suppress(TimeoutError):
                self._buffer += self.line.recv(65536)
                self._heard = time.monotonic()
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return dict(json.loads(line))
        except ValueError:
            return {}  # cut short by a reset

    def _autopsy(self) -> str:
        """How it was lost: where its processors are, and what its kernel says to an interrupt that it cannot mask."""
        if self.lost:
            return "the machine was lost before"
        self.lost = True
        console = self.directory / "console.log"
        if self.process.poll() is not None:
            said = (self.directory / "qemu.log").read_text(errors="replace")
            return f"QEMU ended with {self.process.returncode}: {said}\nconsole:\n{console.read_text(errors='replace')[-4000:]}"
        try:
            seen = self.monitor.examine()
        except (OSError, ValueError) as error:
            seen = f"QEMU does not answer either: {error!r}"
        threads = sorted(Path(f"/proc/{self.process.pid}/task").glob("*/stat"))
        running = "\n".join(" ".join(one.read_text().split()[:16]) for one in threads)
        return (
            f"the machine has said nothing for {_SILENT_S:g} s\nQEMU's threads (proc(5), stat):\n{running}\n{seen}\n"
            f"console:\n{self.console()[-8000:]}"
        )


def _qemu(base: Path, package: Path, directory: Path, memory_mb: int) -> list[str]:
    drives: list[str] = []
    for number, (path, options) in enumerate(
        (
            (base / "root.ext4", "snapshot=on,cache=unsafe"),
            (package, "snapshot=on,cache=unsafe"),
            (directory / "outbox", "cache=unsafe"),
        )
    ):
        drives += ["-drive", f"file={path},format=raw,if=none,id=d{number},{options}"]
        drives += ["-device", f"virtio-blk-pci,drive=d{number}"]
    return [
        "/usr/bin/qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-m",
        str(memory_mb),
        "-machine",
        "pc",
        "-accel",
        _ACCELERATOR,
        "-cpu",
        _PROCESSOR,
        "-smp",
        "2",
        "-kernel",
        str(base / "vmlinux"),
        "-initrd",
        str(base / "initrd.gz"),
        "-append",
        _COMMAND_LINE,
        *drives,
        "-serial",
        f"file:{directory}/console.log",
        "-chardev",
        f"socket,id=line,path={directory}/line",
        "-serial",
        "chardev:line",
        "-chardev",
        f"socket,id=monitor,path={directory}/monitor",
        "-mon",
        "chardev=monitor,mode=control",
    ]
