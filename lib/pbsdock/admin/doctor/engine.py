"""``pbsdock doctor engine``: what of this node's engine, and of our own files, others could use against it."""

from __future__ import annotations

import grp
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pbsdock.admin.doctor.report import Judged
from pbsdock.config.trust import untrusted
from pbsdock.core.paths import Paths

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(.*)")
Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Advisory:
    """A hole of a component a hostile image or job could use, and the first version of each series without it."""

    component: str  # as the engine calls it among its components
    name: str
    what: str
    fixed: tuple[Version, ...]  # ascending; a series after the last one has it too


# From the projects' own advisories. Those of the archive calls, of swarm, build and AuthZ plugins are left out on
# purpose: pbsdock uses none of them.
ADVISORIES = (
    Advisory("runc", "CVE-2019-5736", "a container overwrites runc itself", ((1, 0, 0),)),
    Advisory("runc", "CVE-2021-30465", "a mount target exchanged for a link", ((1, 0, 0),)),
    Advisory("runc", "CVE-2024-21626", "a descriptor of the host's in the working directory", ((1, 1, 12), (1, 2, 0))),
    Advisory(
        "runc",
        "CVE-2025-31133, -52565, -52881",
        "masked paths and /dev/console exchanged for links",
        ((1, 2, 8), (1, 3, 3), (1, 4, 0)),
    ),
    Advisory(
        "containerd", "CVE-2020-15257", "the shim's socket reached through the host's network", ((1, 3, 9), (1, 4, 3))
    ),
    Advisory(
        "containerd",
        "CVE-2022-23648",
        "files of the host through an image's volumes",
        ((1, 4, 13), (1, 5, 10), (1, 6, 1)),
    ),
    Advisory("Engine", "CVE-2021-21285", "a manifest that stops the engine", ((19, 3, 15), (20, 10, 3))),
    Advisory("Engine", "CVE-2021-41091", "the engine's directories entered by users", ((20, 10, 9),)),
    Advisory("Engine", "CVE-2022-36109", "supplementary groups of the image", ((20, 10, 18),)),
)


def parse_version(text: str) -> tuple[Version, str] | None:
    """``1.1.5+ds1`` -> (1, 1, 5), ``+ds1``: what follows the numbers is a distribution's, or a release candidate's."""
    found = _VERSION.match(text)
    return ((int(found[1]), int(found[2]), int(found[3])), found[4]) if found else None


def has(version: Version, advisory: Advisory) -> bool:
    """Whether an upstream release of this version has the hole."""
    series = [one for one in advisory.fixed if one[:2] == version[:2]]
    return version < series[0] if series else version[:2] < advisory.fixed[-1][:2]


def judge_versions(components: Mapping[str, str]) -> Iterator[Judged]:
    """Compare with the advisories. Pure. A distribution mends its own versions: those are named, not condemned."""
    for name in dict.fromkeys(one.component for one in ADVISORIES):
        text = components.get(name, "")
        parsed = parse_version(text)
        if parsed is None:
            yield Judged(name, "version", False, f"{text!r} cannot be read; compare it with docs/security.md by hand")
            continue
        version, rest = parsed
        open_ = [one for one in ADVISORIES if one.component == name and has(version, one)]
        names = ", ".join(f"{one.name} ({one.what})" for one in open_)
        if not open_:
            yield Judged(name, "version", True, f"{text} has none of the known escapes")
        elif rest and not rest.startswith("-rc"):
            yield Judged(name, "version", True, f"{text} is a distribution's: see to its own mending of {names}")
        else:
            yield Judged(name, "version", False, f"{text} has {names}")


def judge_socket(path: str) -> Iterator[Judged]:
    """Who can reach the engine's socket, which is to be root on this node."""
    found = os.stat(path)
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o006:
        yield Judged("socket", "mode", False, f"{path} is open to everybody (mode {mode:04o}); use chmod o-rw")
        return
    try:
        group = grp.getgrgid(found.st_gid)
        name, members = group.gr_name, group.gr_mem
    except KeyError:
        name, members = str(found.st_gid), []
    if found.st_gid and mode & 0o060 and members:
        yield Judged("socket", "group", False, f"{', '.join(members)} can be root by group {name}; take them out of it")
        return
    yield Judged("socket", "mode", True, f"{path} is root's (mode {mode:04o}, group {name} has no members)")


def judge_paths(paths: Paths) -> Iterator[Judged]:
    """Whether others than root could exchange what runs as root."""
    for problem in untrusted(paths):
        yield Judged("files", "trust", False, problem)
        return
    yield Judged("files", "trust", True, f"only root can change {paths.prefix} and {paths.config.parent}")
