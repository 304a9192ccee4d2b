"""The job's own directories: where it was submitted, and where it starts. In the container they are the same places
under the same names, or the user is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.pathrules import PathRules, below
from pbsdock.core.plan import Mount, Plan
from pbsdock.core.record import Record
from pbsdock.engine.spec import Call
from pbsdock.host import mounts
from pbsdock.rm.base import Words

_CURE = "submit the job from a directory of your own or below your home, or ask your site to add it to [mounts] allow"


def submitted_from(
    work_dir: str | None, plan: Plan, bound: Sequence[Bound], rules: PathRules
) -> tuple[list[Bound], str]:
    """What is to be mounted beside *bound* where the directory of qsub is in the home by name, but elsewhere by a link.

    The second is why it is not mounted, "" if it is or need not be.
    """
    in_home = any(mount.origin == "home" for mount in plan.mounts) and below(work_dir or "/", plan.home)
    if not work_dir or not in_home or ".." in work_dir.split("/"):
        return [], ""
    return mounts.reach(work_dir, bound, mounts.User.of(plan), rules)


def tell(
    plan: Plan,
    skipped: Iterable[tuple[Mount, str]],
    in_home: str,
    script: bytes | None,
    words: Words,
    notify: Callable[[str], None],
) -> None:
    """One line for a directory of qsub that is not in the container. One that is not on this node is missed by a bare
    job as well: it is told where the script speaks of it."""
    reasons = [plan.work_dir_closed, in_home, *(reason for mount, reason in skipped if mount.origin == "workdir")]
    for reason in filter(None, reasons):
        is_absent = reason.endswith(mounts.UNREADABLE)
        if not is_absent:
            notify(f"the directory of {words.submit} is not in the container: {reason}; {_CURE}")
        elif script is not None and words.work_dir_variable.encode() in script:
            notify(f"the work directory is not in the container: {reason}")
        return


def at_start(record: Record, call: Call, words: Words, *, is_running: bool = False) -> tuple[Call, list[Bound]]:
    """The call with the directory the job starts in, and the mounts it needs for that: what `qsub -d` names is known to
    the run hook alone.

    The engine would make one that is missing, as root, in what is mounted of the host; and a job that starts elsewhere
    than it was told to writes into the wrong place. Raises Refusal.
    """
    plan, bound = record.planned, list(record.facts.bound)
    if plan.workdir or call.cwd == "/":
        return call, bound
    user = mounts.User.of(plan)
    is_plain = call.cwd.startswith("/") and ".." not in call.cwd.split("/")
    why = "its name is not text"
    if is_plain and any(below(call.cwd, mount.target) for mount in bound):
        if mounts.missing([call.cwd], bound, user) is None:
            return call, bound
        why = "it does not exist there"
    elif is_plain and mounts.is_same(call.cwd, plan.home, user):
        return replace(call, cwd="/"), bound  # the home is not mounted, and was not asked for
    elif is_plain and (rules := record.facts.path_rules) is not None and not is_running:
        extra, why = mounts.reach(_name(call, words, user), bound, user, rules)
        if extra and not why:
            return call, [*bound, *extra]
    elif is_plain:
        why = "the job's container was started without it"
    raise Refusal(
        "start-directory",
        f"the job is to start in {call.cwd}, which is not in the container: {why}; nothing was started."
        f" {_CURE.capitalize()}; or name another directory with #DOCKER --workdir PATH",
    )


def _name(call: Call, words: Words, user: mounts.User) -> str:
    """The start directory as the user wrote it: by the kernel's name alone a link on the way would be missing."""
    environment = dict(call.environment)
    for name in words.start_variables:
        written = os.path.normpath(environment.get(name, ""))
        if written.startswith("/") and mounts.is_same(call.cwd, written, user):
            return written
    return call.cwd
