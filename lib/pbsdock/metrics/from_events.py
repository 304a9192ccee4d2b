"""What each event means for the metrics: a table, and the function that reads it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_MS = 0.001


@dataclass(frozen=True, slots=True)
class Field:
    """A label's value is that of the event's field *name*; *spelled* has other spellings of some values."""

    name: str
    spelled: tuple[tuple[str, str], ...] = ()

    def of(self, fields: Mapping[str, Any]) -> str:
        value = str(fields.get(self.name) or "unknown")
        return dict(self.spelled).get(value, value)


@dataclass(frozen=True, slots=True)
class Update:
    """A step of a counter, or an observation of a histogram.

    *amount* names the field it is of, which counts *scale* each; without one it is 1.
    """

    metric: str
    labels: tuple[tuple[str, Field | str], ...] = ()
    amount: str = ""
    scale: float = 1.0


def _by(metric: str, *names: str, amount: str = "") -> Update:
    """Labels that are called as the event's fields are."""
    return Update(metric, tuple((name, Field(name)) for name in names), amount)


def _phase(name: Field | str) -> Update:
    return Update("phase_duration_seconds", (("phase", name),), "ms", _MS)


def _pulls(result: str) -> Update:
    return Update("image_pulls", (("result", result),))


_STAGE = Field("direction", (("in", "stage-in"), ("out", "stage-out")))
FROM_EVENTS: dict[str, tuple[Update, ...]] = {
    "agent.error": (_by("agent_errors"),),
    "agent.stuck": (_by("agent_hangs"),),
    "cgroup.created": (_phase("cgroup"),),
    "client.refused": (_by("client_refusals"),),
    "container.oom": (_by("jobs_out_of_memory"),),
    "credentials.minted": (_by("credentials_minted", "store"), _phase("credentials")),
    "credentials.refreshed": (_by("credentials_refreshed", "store"),),
    "credentials.revoked": (_by("credentials_revoked", "store"),),
    "engine.lost": (_by("engine_losses"),),
    "events.dropped": (_by("events_dropped", amount="count"),),
    "events.limited": (_by("events_limited", amount="count"),),
    "image.failed": (
        _pulls("failed"),
        _by("image_pull_failures", "code"),
    ),
    "image.mirror_failed": (_by("image_mirror_failures", "code"),),
    "image.present": (_by("image_cache_hits"),),
    "image.pulled": (
        _pulls("pulled"),
        _by("image_pulled_bytes", amount="size_bytes"),
        _phase("pull"),
    ),
    "image.pulling": (Update("phase_duration_seconds", (("phase", "pull-queue"),), "waited_ms", _MS),),
    "image.queued": (_by("image_pulls_queued", "why"),),
    "image.removed": (
        _by("images_removed", "why"),
        _by("images_removed_bytes", amount="size_bytes"),
    ),
    "image.retry": (_by("image_pull_retries", "code"),),
    "job.fault": (_by("job_faults", "code"),),
    "job.finished": (
        _by("jobs_finished", "outcome"),
        _by("job_cpu_seconds", amount="cpu_seconds"),
        _by("job_run_seconds", amount="run_s"),
    ),
    "job.planned": (_by("jobs_planned"),),
    "job.ready": (_phase("prepare"),),
    "job.refused": (_by("jobs_refused", "code"),),
    "job.started": (_by("jobs_started"), _phase("start")),
    "node.unhealthy": (_by("node_out_of_service", "code"),),
    "orphan.reaped": (_by("orphans_reaped", "kind"),),
    "release.done": (_by("releases"), _phase("release")),
    "release.failed": (_by("release_failures"),),
    "stage.done": (
        _by("staged_bytes", "direction", amount="bytes"),
        _by("staged_files", "direction", amount="files"),
        _phase(_STAGE),
    ),
    "stage.failed": (_by("staging_failures", "direction", "code"),),
    "store.failed": (_by("store_failures", "store", "code"),),
    "task.started": (_by("tasks_started"),),
    "child.started": (_by("children_started"),),
    "child.refused": (_by("children_refused", "code"),),
}


def updates(event: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    """(metric, labels, amount) of every step that an event means; one whose amount is not known is left out."""
    for update in FROM_EVENTS.get(event, ()):
        amount = fields.get(update.amount) if update.amount else 1
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount < 0:
            continue
        labels = {label: value.of(fields) if isinstance(value, Field) else value for label, value in update.labels}
        yield update.metric, labels, amount * update.scale
