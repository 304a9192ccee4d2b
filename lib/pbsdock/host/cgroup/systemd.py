"""cgroup v2 with Docker's systemd driver: a slice per job, its limits set through systemd only.

Raw writes into a slice's files do not last: the first daemon-reload puts systemd's own values back (observed). The
unit names follow systemd.unit(5), "String Escaping for Inclusion in Unit Names".
"""

from __future__ import annotations

import string
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from pbsdock.core.errors import NodeFault
from pbsdock.core.plan import Limits
from pbsdock.host.cgroup.base import check_name, cpu_list, memory_pair, names_in, remove_tree
from pbsdock.host.cgroup.v2 import V2Tree

_PLAIN = frozenset(string.ascii_letters + string.digits + "_.:")

_CALL_S = 10.0
_LONGEST = 255 - len(".slice")  # UNIT_NAME_MAX less the NUL (systemd's unit-name.h), and a directory's name
_INFINITY = 0xFFFF_FFFF_FFFF_FFFF  # no limit, in a property of type t

Property = tuple[str, tuple[str, Any]]  # name, (D-Bus signature, value)


class Bus(Protocol):
    """The three calls on systemd's manager that are needed; each returns when the job it queued is done."""

    def start_slice(self, unit: str, properties: Sequence[Property], deadline_s: float) -> None:
        """StartTransientUnit, or SetUnitProperties if it runs already. Raises OSError."""

    def stop(self, unit: str, deadline_s: float) -> None:
        """StopUnit; fine if there is none. Raises OSError."""


def escape(text: str) -> str:
    r"""Escape one part of a unit name: ``16-0.vm`` becomes ``16\x2d0.vm``."""
    return "".join(
        character if character in _PLAIN else "".join(f"\\x{byte:02x}" for byte in character.encode())
        for character in text
    )


class SystemdCgroup(V2Tree):
    """The backend for the systemd driver: ``<root>-<job>.slice`` below ``<root>.slice``."""

    def __init__(self, sysfs: Path, root: str, bus: Bus) -> None:
        super().__init__(sysfs)
        self.prefix = escape(root)
        self.bus = bus
        self._root = threading.Lock()  # no job may be started while the slice above all jobs is stopped

    def unit(self, name: str) -> str:
        """The job's slice.

        A name with so many dashes that its escapes do not fit has colons in their place: no job's name has any.
        """
        head, escaped = f"{self.prefix}-", escape(check_name(name))
        return f"{head}{escaped if len(head + escaped) <= _LONGEST else name.replace('-', ':')}.slice"

    def directory(self, name: str) -> Path:
        """Where systemd puts it."""
        return self.sysfs / f"{self.prefix}.slice" / self.unit(name)

    def cgroup_parent(self, name: str) -> str:
        """What Docker takes: the slice's name."""
        return self.unit(name)

    def create(self, name: str, limits: Limits) -> None:
        """Start the slice with its limits and read back what the kernel holds."""
        try:
            with self._root:
                self.bus.start_slice(self.unit(name), properties(limits), _CALL_S)
        except OSError as error:
            raise NodeFault("cgroup-failed", f"slice {self.unit(name)} cannot be started: {error}") from error
        self.verify(name, limits)

    def remove(self, name: str, deadline_s: float) -> None:
        """Kill first: StopUnit would wait 90 s for a container that ignores TERM (observed).

        Nobody but us removes a slice, also not the one above all jobs, so the last job takes that along.
        """
        if not self.kill(name, deadline_s):
            raise NodeFault("cgroup-busy", f"processes in {self.unit(name)} survive being killed")
        try:
            self.bus.stop(self.unit(name), deadline_s)
        except OSError as error:
            raise NodeFault("cgroup-busy", f"slice {self.unit(name)} cannot be stopped: {error}") from error
        _await_gone(self.directory(name), self.unit(name), deadline_s)
        self._remove_root(deadline_s)

    def _remove_root(self, deadline_s: float) -> None:
        top = self.sysfs / f"{self.prefix}.slice"
        with self._root:
            if names_in(top) or not top.exists():
                return
            try:
                self.bus.stop(top.name, deadline_s)
            except OSError:
                return  # the next job uses it, and the last one after that tries again

    def names(self) -> list[str]:
        """The jobs' slices, unescaped."""
        head, tail = f"{self.prefix}-", ".slice"
        return [
            unescape(unit[len(head) : -len(tail)]).replace(":", "-")
            for unit in names_in(self.sysfs / f"{self.prefix}.slice")
            if unit.startswith(head) and unit.endswith(tail)
        ]


def _await_gone(directory: Path, unit: str, deadline_s: float) -> None:
    """systemd's answer comes before the kernel has let the last process go; a sub-cgroup made by hand would stay."""
    deadline = time.monotonic() + deadline_s
    while directory.exists():
        if time.monotonic() > deadline:
            raise NodeFault("cgroup-busy", f"slice {unit} was stopped but is still there")
        with suppress(NodeFault):
            remove_tree(directory, 0.0)
        time.sleep(0.005)


def unescape(text: str) -> str:
    """Undo :func:`escape`."""
    data, index = bytearray(), 0
    while index < len(text):
        if text.startswith("\\x", index):
            data.append(int(text[index + 2 : index + 4], 16))
            index += 4
        else:
            data += text[index].encode()
            index += 1
    return data.decode()


def properties(limits: Limits) -> list[Property]:
    """systemd.resource-control(5) properties of a slice; CPUQuotaPerSecUSec is microseconds per second."""
    memory, both = memory_pair(limits)
    swap = None if memory is None or both is None else both - memory
    wanted: list[Property] = [
        ("TasksMax", ("t", limits.pids)),
        ("MemoryAccounting", ("b", True)),
        ("CPUAccounting", ("b", True)),
        ("IOAccounting", ("b", True)),
        ("MemoryMax", ("t", _INFINITY if memory is None else memory)),
        ("MemorySwapMax", ("t", _INFINITY if swap is None else swap)),
        ("CPUQuotaPerSecUSec", ("t", _INFINITY if limits.cpu_millis is None else limits.cpu_millis * 1000)),
    ]
    if limits.cpuset:
        wanted.append(("AllowedCPUs", ("ay", _bitmap(cpu_list(limits.cpuset)))))
    return wanted


def _bitmap(cpus: frozenset[int]) -> bytes:
    """systemd's CPU set on the bus: bit n of byte n // 8."""
    total = sum(1 << cpu for cpu in cpus)
    return total.to_bytes((total.bit_length() + 7) // 8, "little")
