"""The host's cgroup version, init and cgroup driver, for the installer's output."""

from __future__ import annotations

import os
import re
import subprocess

from pbsdock.admin.setup.places import Places

_ANSWER_S = 60.0


def has_systemd() -> bool:
    """Whether systemd is the init (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def cgroup_parent(places: Places) -> str:
    """``[cgroup] parent`` of the configuration, if it says one; "" otherwise."""
    try:
        found = re.search(r'^parent = "(/[^"\n]*)"', places.policy.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def describe(places: Places, instance: str) -> str:
    """The installer's line about this host."""
    version = 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1
    return sentence(version, has_systemd(), _driver(), cgroup_parent(places), instance or "INSTANCE")


def sentence(version: int, systemd: bool, driver: str, parent: str, instance: str) -> str:
    """The line, by cgroup *version*, init, the engine's cgroup *driver* ("" if it does not answer). Pure."""
    head = f"this host: cgroup v{version}, {'systemd' if systemd else 'no systemd'}"
    if not driver:
        return f"{head}; the engine does not answer: its cgroup driver is found out when it does"
    if driver == "cgroupfs":
        return f"{head}, engine driver cgroupfs: jobs go below {parent}/{instance} in the cgroup tree"
    if (version, driver) == (2, "systemd"):
        return f"{head}, engine driver systemd: each job gets a slice below {instance}.slice"
    return (
        f"warning: this host: cgroup v{version} with engine driver {driver} is not supported;"
        " set native.cgroupdriver=cgroupfs"
    )


def _driver() -> str:
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{.CgroupDriver}}"],  # noqa: S607 - the engine's own command, by root's PATH
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
