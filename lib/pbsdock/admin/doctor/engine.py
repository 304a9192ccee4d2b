"""``pbsdock doctor engine``: known vulnerabilities of the engine, who can use its socket, who can change our files."""

from __future__ import annotations

import grp
import os
import re
import stat
from collections.abc import Iterator, Mapping

from packaging.version import Version

from pbsdock.admin.doctor import advisories
from pbsdock.admin.doctor.report import Finding
from pbsdock.config.tables import Config
from pbsdock.config.trust import untrusted
from pbsdock.core.errors import NodeFault
from pbsdock.core.paths import Paths
from pbsdock.engine import fitness
from pbsdock.engine.base import ContainerEngine, EngineCapabilities

# Upstream's version with its mark of a pre-release, which a distribution writes with "~"; the rest is a distribution's.
_UPSTREAM = re.compile(r"(v?\d+\.\d+\.\d+)(?:[-~]((?:alpha|beta|rc)\.?\d+))?")


def examine(
    paths: Paths, config: Config, engine: ContainerEngine, capabilities: EngineCapabilities
) -> Iterator[Finding]:
    """All of them, in the order in which they matter. Raises HookError, EngineError, OSError."""
    settings = config.engine
    yield from judge_fitness(capabilities, settings.runtime, config.security.seccomp)
    yield from judge_versions(engine.components())
    yield from judge_socket(settings.socket)
    yield from judge_paths(paths)


def parse_version(text: str) -> tuple[Version, str] | None:
    """``1.1.5+ds1`` -> 1.1.5, ``+ds1``: upstream's version, and what a distribution has put behind it."""
    found = _UPSTREAM.match(text)
    return (Version(found[1] + (found[2] or "")), text[found.end() :]) if found else None


def judge_versions(components: Mapping[str, str]) -> Iterator[Finding]:
    """Compare with the advisories. Pure. Distributions backport fixes: their versions pass, with the CVEs named."""
    table = advisories.load(advisories.ENGINE)
    for name in dict.fromkeys(row.component for row in table):
        text = components.get(name, "")
        parsed = parse_version(text)
        if parsed is None:
            yield Finding(name, "version", False, f"{text!r} cannot be read; compare it with docs/security.md by hand")
            continue
        version, rest = parsed
        unmended = [row for row in table if row.component == name and row.affects(version)]
        names = ", ".join(f"{row.name} ({row.what})" for row in unmended)
        if not unmended:
            yield Finding(name, "version", True, f"{text} has none of the known escapes")
        elif rest:
            yield Finding(name, "version", True, f"{text} is a distribution's: see to its own mending of {names}")
        else:
            yield Finding(name, "version", False, f"{text} has {names}")


def judge_fitness(engine: EngineCapabilities, runtime: str, seccomp: str) -> Iterator[Finding]:
    """Whether it can run jobs at all; *runtime* is ``engine.runtime``, *seccomp* ``security.seccomp``. Pure."""
    try:
        fitness.check(engine, runtime, seccomp)
    except NodeFault as error:
        yield Finding("Engine", "fitness", False, error.sentence)
        return
    name = runtime or engine.default_runtime or "its default runtime"
    yield Finding("Engine", "fitness", True, f"jobs run with {name}, user ids are the host's")


def judge_socket(path: str) -> Iterator[Finding]:
    """Who can use the engine's socket, and so become root on this node. Raises OSError."""
    found = os.stat(path)
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o006:
        yield Finding("socket", "mode", False, f"{path} is open to everybody (mode {mode:04o}); use chmod o-rw")
        return
    try:
        group = grp.getgrgid(found.st_gid)
        name, members = group.gr_name, group.gr_mem
    except KeyError:
        name, members = str(found.st_gid), []
    if found.st_gid and mode & 0o060 and members:
        yield Finding(
            "socket", "group", False, f"{', '.join(members)} can be root by group {name}; take them out of it"
        )
        return
    yield Finding("socket", "mode", True, f"{path} is root's (mode {mode:04o}, group {name} has no members)")


def judge_paths(paths: Paths) -> Iterator[Finding]:
    """Whether anybody but root can change pbsdock's own files."""
    for problem in untrusted(paths):
        yield Finding("files", "trust", False, problem)
        return
    yield Finding("files", "trust", True, f"only root can change {paths.prefix} and {paths.config.parent}")
