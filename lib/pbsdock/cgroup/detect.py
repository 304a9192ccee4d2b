"""Choose the cgroup backend: found out from the engine and the host, never assumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pbsdock.cgroup.base import JobCgroup
from pbsdock.cgroup.systemd import SystemdCgroup
from pbsdock.cgroup.v1 import V1Cgroup
from pbsdock.cgroup.v2 import V2Cgroup
from pbsdock.errors import NodeFault


def choose(engine_info: Mapping[str, Any], *, root: str, sysfs: Path = Path("/sys/fs/cgroup")) -> JobCgroup:
    """Return the backend for what ``docker info`` says and the host has. Raises NodeFault if they disagree."""
    driver = str(engine_info.get("CgroupDriver", ""))
    version = str(engine_info.get("CgroupVersion", "1"))
    unified = (sysfs / "cgroup.controllers").exists()
    if unified != (version == "2"):
        raise NodeFault(
            "cgroup-unknown",
            f"the engine says cgroup version {version}, but {sysfs} is version {'2' if unified else '1'}",
        )
    if driver == "cgroupfs":
        return V2Cgroup(sysfs, root) if unified else V1Cgroup(sysfs, root)
    if driver == "systemd" and unified:
        from pbsdock.cgroup.bus import SystemBus  # a D-Bus library is loaded where there is a bus to speak to

        return SystemdCgroup(sysfs, root, SystemBus())
    raise NodeFault(
        "cgroup-unknown",
        f"the engine's cgroup driver {driver!r} on cgroup version {version} is not supported; use cgroupfs, or systemd"
        " on version 2",
    )
