"""The network interfaces of this host that lead to nothing but its own containers and machines."""

from __future__ import annotations

import os
from pathlib import Path

_CLASS = Path("/sys/class/net")


def virtual_bridges(net: Path = _CLASS) -> tuple[str, ...]:
    """The names of bridges without any port of a device, sorted: docker0 and the like, which have the same addresses on
    every node. One with a network card in it is how the host is reached."""
    try:
        names = sorted(os.listdir(net))
    except OSError:
        return ()
    return tuple(name for name in names if (net / name / "bridge").is_dir() and not _has_device(net, name))


def _has_device(net: Path, bridge: str) -> bool:
    try:
        ports = os.listdir(net / bridge / "brif")
    except OSError:
        return False
    return any((net / port / "device").exists() or (net / port / "bonding").exists() for port in ports)
