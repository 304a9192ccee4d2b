"""A job's mounts, pinned for as long as the engine needs them to start its container."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pbsdock.agent.protocols import Emits
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.plan import Plan
from pbsdock.host import mounts, pins

_CHANGED = (errno.ESTALE, errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EACCES)


@contextmanager
def pinned(events: Emits, directory: Path, plan: Plan, bound: Sequence[Bound]) -> Iterator[list[Bound]]:
    """The mounts with their pins, which are in *directory* until this is left.

    Raises Refusal for one that is not what was checked any more, NodeFault if one cannot be pinned.
    """
    pins.remove(directory)  # of an agent that was lost while it started the job
    try:
        yield _make(directory, plan, bound)
    finally:
        try:
            pins.remove(directory)
        except OSError as error:  # the reaper and the release try again
            events.emit("agent.error", level="error", where="pins", reason=f"{directory.name}: {error}")


def _make(directory: Path, plan: Plan, bound: Sequence[Bound]) -> list[Bound]:
    user = mounts.User.of(plan)
    of_root = {mount.target for mount in plan.mounts if mount.origin == "nodefile"}
    try:
        return pins.make([(mount, None if mount.target in of_root else user) for mount in bound], directory)
    except OSError as error:
        raise pin_error(error) from None


def pin_error(error: OSError) -> NodeFault | Refusal:
    """Whose fault it is that a mount cannot be pinned. Pure."""
    if error.errno not in _CHANGED:
        return NodeFault("pin-failed", f"{error.filename} cannot be mounted: {error.strerror}")
    return Refusal("mount-changed", f"{error.filename} was exchanged after it had been checked; nothing was started")
