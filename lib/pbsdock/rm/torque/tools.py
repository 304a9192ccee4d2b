"""Where Torque's client programs are on this node."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import psutil

_USUAL = ("/usr/local/bin", "/usr/bin", "/opt/torque/bin")


def moms_prefixes() -> list[str]:
    """Where root's running pbs_moms were installed; Torque puts its clients into ``bin`` below the same prefix."""
    found = []
    for process in psutil.process_iter(["name", "exe", "uids"]):
        info = process.info
        if info["name"] == "pbs_mom" and info["exe"] and info["uids"] and info["uids"].real == 0:
            found.append(os.path.dirname(os.path.dirname(info["exe"])))
    return found


def find(name: str, client_dir: str = "", prefixes: Callable[[], Iterable[str]] = moms_prefixes) -> str:
    """The path of one that can be run: in *client_dir*, if the site names one, else where Torque is usually, else
    beside the running mom's own program. "" if there is none."""
    for directory in [client_dir] if client_dir else _USUAL:
        if os.access(path := os.path.join(directory, name), os.X_OK):
            return path
    if client_dir:
        return ""
    return next((path for prefix in prefixes() if os.access(path := f"{prefix}/bin/{name}", os.X_OK)), "")
