"""What policy is told of this host, by whoever asks it."""

from __future__ import annotations

import os

from pbsdock.core.pathrules import ClosedPaths
from pbsdock.core.paths import Paths
from pbsdock.host.facts import host_memory
from pbsdock.policy.decide import HostFacts
from pbsdock.rm.base import ResourceManager


def closed_paths(paths: Paths, rm: ResourceManager, engine_root: str) -> ClosedPaths:
    """The paths that are not given to containers; *engine_root* is the engine's own directory, "" if not known."""
    own = (*rm.closed.sealed, paths.run_dir, paths.state_dir, paths.log_dir, paths.config.parent)
    sealed = [str(path) for path in (*((engine_root,) if engine_root else ()), *own)]
    return ClosedPaths(guarded=rm.closed.guarded, sealed=tuple(sealed))


def host_facts(name: str, closed: ClosedPaths) -> HostFacts:
    """This execution host, which the site calls *name*."""
    return HostFacts(node=name, memory_bytes=host_memory(), cpus=len(os.sched_getaffinity(0)), closed=closed)
