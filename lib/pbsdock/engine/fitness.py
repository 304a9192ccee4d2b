"""Whether an engine, by what it says of itself in ``GET /info``, can run jobs as they are planned. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pbsdock.core.errors import NodeFault


def check(info: Mapping[str, Any], runtime: str) -> None:
    """Raises NodeFault with a sentence for the admin: another node may run the job, so it is queued again.

    *runtime* is ``engine.runtime``, empty for the engine's own default.
    """
    # "name=userns", in engines of old without "name=" (Docker Engine API, SystemInfo.SecurityOptions)
    if any(str(one).split(",")[0] in ("name=userns", "userns") for one in info.get("SecurityOptions") or []):
        raise NodeFault(
            "userns-remap",
            "the Docker engine maps user ids (userns-remap), so a job would not be its owner on the host's files;"
            " take userns-remap out of the engine's daemon.json",
        )
    known = sorted(info.get("Runtimes") or {})
    if runtime and runtime not in known:
        raise NodeFault(
            "runtime-missing",
            f"engine.runtime = {runtime!r} is no runtime of the Docker engine; it has {', '.join(known) or 'none'}",
        )
