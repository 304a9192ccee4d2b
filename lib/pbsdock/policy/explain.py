"""Which rule of the site's file counted for a job, and in which line it stands. Pure.

It says afterwards why :func:`pbsdock.policy.decide.decide` came to its plan or its refusal; nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pbsdock.config.lines import Place
from pbsdock.config.tables import Config
from pbsdock.core.errors import HookError
from pbsdock.core.plan import Plan
from pbsdock.core.sizes import human
from pbsdock.core.trail import Decision
from pbsdock.directive.parse import Directive
from pbsdock.policy.decide import Owner, effective, image_matches, override_of
from pbsdock.rm.base import Job

_MOST_TEXT = 300  # characters of a value
_SHOWN = 6  # mounts
# The code of a refusal -> the keys whose values can be behind it, the first that the file has counts.
_BEHIND: Mapping[str, tuple[str, ...]] = {
    "bad-directive": ("directive.late",),
    "bucket-not-allowed": ("s3.allow",),
    "bucket-read-only": ("s3.allow",),
    "gpus-not-offered": ("devices.gpus",),
    "image-access-denied": ("images.user_logins", "engine.docker_config"),
    "image-not-allowed": ("images.allow",),
    "image-not-pinned": ("images.require_digest",),
    "image-not-present": ("images.pull",),
    "image-too-large": ("images.max_bytes",),
    "memory-too-large": ("limits.max_memory", "limits.reserve_memory"),
    "mount-not-allowed": ("mounts.allow", "mounts.deny", "mounts.home"),
    "mount-read-only": ("mounts.allow", "mounts.home"),
    "network-not-allowed": ("network.allow",),
    "on-demand-off": ("interactive.allow",),
    "pull-not-allowed": ("images.pull",),
    "pull-too-slow": ("images.total_s", "images.inactivity_s", "prologue.alarm_s"),
    "shm-too-large": ("limits.max_shm", "limits.max_memory"),
    "user-not-allowed": ("users.allow_groups", "users.deny", "users.min_uid"),
    "variable-not-allowed": ("env.deny",),
}
# Refusals for which a key that the file does not have is no reason: the node itself was.
_ONLY_WHERE_SET = frozenset({"bad-directive", "memory-too-large", "pull-too-slow", "shm-too-large"})


@dataclass(frozen=True, slots=True)
class Rules:
    """The site's configuration with the line of every key, as of when the agent read it."""

    config: Config = field(default_factory=Config)
    lines: Mapping[Place, int] = field(default_factory=dict)

    def decided(self, job: Job, directive: Directive, plan: Plan) -> tuple[Decision, ...]:
        """What was decided for a job that got this plan, most telling first."""
        made = [*self._override(job), *self._image(job, directive, plan), *self._limits(job, directive, plan)]
        made.append(self._asked_or(job, "network", plan.network, directive.network, "--network", "network.default"))
        targets = [mount.target for mount in plan.mounts]
        shown = ", ".join(targets[:_SHOWN]) + (f" and {len(targets) - _SHOWN} more" if len(targets) > _SHOWN else "")
        made.append(self._by(job, "mounts", shown or "none", "mounts.allow" if directive.volumes else "mounts.home"))
        return tuple(made)

    def refused(self, owner: Owner, error: HookError) -> tuple[Decision, ...]:
        """Which rule was behind a refusal; nothing where none of the site's was."""
        named = error.facts.get("rule")
        keys = (str(named),) if named else _BEHIND.get(error.code, ())
        lines = {key: self._line(owner, key) for key in keys}
        key = next((key for key in keys if lines[key]), keys[0] if keys else "")
        if not key or (not lines[key] and error.code in _ONLY_WHERE_SET):
            return ()
        item = error.facts.get("item")
        line = self._line(owner, key, item if isinstance(item, int) else None)
        return (*self._override(owner), Decision(what="refused by", value=error.code, rule=key, line=line))

    # -- the parts of a decision ----------------------------------------------------------------------------------

    def _override(self, owner: Owner) -> Iterator[Decision]:
        index = override_of(self.config, owner)
        if index is not None:
            place = ("override", index)
            yield Decision(what="override", value=f"number {index + 1}", rule="override", line=self.lines.get(place, 0))

    def _image(self, job: Job, directive: Directive, plan: Plan) -> Iterator[Decision]:
        patterns = effective(self.config, job).images.allow
        index = next((i for i, pattern in enumerate(patterns) if image_matches(directive.image, pattern)), None)
        yield self._by(job, "image", plan.image, "images.allow", index)
        yield self._asked_or(job, "pull", plan.pull, directive.pull, "--pull", "images.pull")

    def _limits(self, job: Job, directive: Directive, plan: Plan) -> Iterator[Decision]:
        limits, grant = plan.limits, job.grant
        memory = "all of the node's" if limits.memory_bytes is None else human(limits.memory_bytes)
        if grant.memory_bytes is not None:
            yield Decision(what="memory", value=memory, rule=f"{job.words.request} {grant.memory_from}")
        else:
            keys = ("limits.default_memory", "limits.max_memory", "limits.reserve_memory")
            key = next((key for key in keys if self._line(job, key)), keys[0])
            yield self._by(job, "memory", memory, key)
        cpus = f"CPUs {limits.cpuset}" if limits.cpuset else "not limited"
        if limits.cpu_millis is not None:
            cpus = f"{limits.cpu_millis / 1000:g} of the node's"
        yield self._by(job, "cpu", cpus, "limits.cpu")
        yield self._by(job, "pids", str(limits.pids), "limits.pids")
        size = human(limits.shm_bytes)
        asked = None if directive.shm_size is None else str(directive.shm_size)
        yield self._asked_or(job, "shm", size, asked, "--shm-size", "limits.shm")

    def _asked_or(self, job: Job, what: str, value: str, asked: str | None, option: str, key: str) -> Decision:
        if asked is None:
            return self._by(job, what, value, key)
        return Decision(what=what, value=value[:_MOST_TEXT], rule=option)

    def _by(self, job: Job, what: str, value: str, key: str, item: int | None = None) -> Decision:
        return Decision(what=what, value=value[:_MOST_TEXT], rule=key, line=self._line(job, key, item))

    def _line(self, owner: Owner, key: str, item: int | None = None) -> int:
        """The line of a key for a job's owner, or of one item of its list; 0 if the file does not have it."""
        place: tuple[Any, ...] = tuple(key.split("."))
        index = override_of(self.config, owner)
        for top in ((("override", index),) if index is not None else ()) + ((),):
            if (line := self.lines.get((*top, *place))) is not None:
                return line if item is None else self.lines.get((*top, *place, item), line)
        return 0
