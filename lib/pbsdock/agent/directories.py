"""The directory a job begins in, looked for as its user before the engine is asked: that would make it, as root."""

from __future__ import annotations

from collections.abc import Sequence

from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.plan import Plan
from pbsdock.host import mounts


def check_workdir(plan: Plan, bound: Sequence[Bound]) -> None:
    """The directive's directory, which what was staged in may have made. Raises Refusal."""
    if lost := mounts.missing([plan.workdir or "/"], bound, mounts.User.of(plan)):
        path, inside = lost
        raise Refusal("no-such-directory", f"{path} does not exist in {inside.source} after files were staged in")
