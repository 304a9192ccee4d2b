"""Whether an engine, by what it says of itself, can run jobs as they are planned. Pure."""

from __future__ import annotations

from pbsdock.core.errors import NodeFault
from pbsdock.engine.base import EngineCapabilities


def check(engine: EngineCapabilities, runtime: str, seccomp: str) -> None:
    """Raises NodeFault with a sentence for the admin: another node may run the job, so it is queued again.

    *runtime* is ``engine.runtime``, empty for the engine's own default, *seccomp* ``security.seccomp``.
    """
    if seccomp.startswith("/") and not engine.has_seccomp:
        raise NodeFault(
            "no-seccomp",
            f"security.seccomp = {seccomp!r}, but the Docker engine or its kernel has no seccomp, and it would start no"
            ' container with a profile; "hpc" and "engine" do without there',
        )
    if engine.maps_user_ids:
        raise NodeFault(
            "userns-remap",
            "the Docker engine maps user ids (userns-remap), so a job would not be its owner on the host's files;"
            " take userns-remap out of the engine's daemon.json",
        )
    if runtime and runtime not in engine.runtimes:
        raise NodeFault(
            "runtime-missing",
            f"engine.runtime = {runtime!r} is no runtime of the Docker engine; it has"
            f" {', '.join(engine.runtimes) or 'none'}",
        )
