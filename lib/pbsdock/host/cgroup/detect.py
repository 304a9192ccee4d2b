"""Choose the cgroup backend: found out from the engine and the host, never assumed."""

from __future__ import annotations

from pathlib import Path

from pbsdock.core.errors import NodeFault
from pbsdock.host.cgroup.base import JobCgroup
from pbsdock.host.cgroup.systemd import SystemdCgroup
from pbsdock.host.cgroup.v1 import V1Cgroup
from pbsdock.host.cgroup.v2 import V2Cgroup, is_unified


def choose(
    driver: str, version: int, *, root: str, parent: str = "", sysfs: Path = Path("/sys/fs/cgroup")
) -> JobCgroup:
    """Return the backend for the engine's *driver* (``cgroupfs``, ``systemd``) and cgroup *version*, and the host.

    *parent* is the site's wish where jobs go; a host that cannot follow it starts none. Raises NodeFault if they
    disagree.
    """
    unified = is_unified(sysfs)
    if unified != (version == 2):
        raise NodeFault(
            "cgroup-unknown",
            f"the engine says cgroup version {version}, but {sysfs} is version {'2' if unified else '1'}",
        )
    if parent and not (unified and driver == "cgroupfs"):
        raise NodeFault(
            "cgroup-unknown",
            f"[cgroup] parent = {parent!r} needs cgroup version 2 and the engine's driver cgroupfs; here it is version"
            f" {version} with {driver}",
        )
    if driver == "cgroupfs":
        return V2Cgroup(sysfs, root, parent) if unified else V1Cgroup(sysfs, root)
    if driver == "systemd" and unified:
        from pbsdock.host.cgroup.bus import SystemBus  # a D-Bus library is loaded where there is a bus to speak to

        return SystemdCgroup(sysfs, root, SystemBus())
    raise NodeFault(
        "cgroup-unknown",
        f"the engine's cgroup driver {driver!r} on cgroup version {version} is not supported; use cgroupfs, or systemd"
        " on version 2",
    )
