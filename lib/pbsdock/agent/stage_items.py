"""What is to be staged, where it is on the host, and how a user is told: decided from a job's record. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Exit, Facts, Upload
from pbsdock.core.pathrules import below
from pbsdock.core.plan import Plan, Stage
from pbsdock.core.record import Record
from pbsdock.core.sizes import human
from pbsdock.staging.order import Direction, Item

NOT_UPLOADED = 74  # EX_IOERR of sysexits.h: what a job ends with whose results are not where it asked for them
_SHOWN_FILES, _SHOWN_PLACES = 10, 5  # in a sentence

# -- what is due ------------------------------------------------------------------------------------------------------


def due(plan: Plan | None, code: int) -> list[Stage]:
    """What is to be staged out of a job that ended with *code*."""
    stages = plan.stage_out if plan is not None else ()
    return [stage for stage in stages if stage.always or code == 0]


def unfinished(facts: Facts) -> list[str]:
    """The directions that were begun and not completed, as the facts call them."""
    return [half for half in ("staged_in", "staged_out") if getattr(facts, half) == "begun"]


def to_undo(plan: Plan, halves: Iterable[str], end: Exit | None) -> list[Stage]:
    """What may lie about half copied after those directions; without an *end* the job was killed."""
    items: list[Stage] = []
    if "staged_in" in halves:
        items += plan.stage_in
    if "staged_out" in halves:
        items += due(plan, end.code if end is not None else 1)
    return items


def uploads_for(facts: Facts, direction: Direction, stages: Sequence[Stage]) -> tuple[Upload, ...]:
    """The uploads in parts an order is about: to be gone on with, or to be ended, which is an order without stages,
    since it needs the store."""
    return tuple(facts.uploads.values()) if direction == "out" or not stages else ()


def with_upload(uploads: Mapping[str, Upload], upload: Mapping[str, Any]) -> dict[str, Upload]:
    """The uploads there are after what a worker tells of one: begun, or over where it has no id any more."""
    known = dict(uploads)
    name = f"{upload['store']}:{upload['bucket']}/{upload['key']}"
    if upload["id"]:
        known[name] = Upload(**{part: str(upload[part]) for part in ("store", "bucket", "key", "id")})
    else:
        known.pop(name, None)
    return known


# -- where it is ------------------------------------------------------------------------------------------------------


def item_of(record: Record, plan: Plan, stage: Stage) -> Item:
    """Where on the host a staging option's path is. Raises Refusal if the mount it lies in was left out."""
    fitting = [mount for mount in record.facts.bound if below(stage.path, mount.target)]
    if not fitting:
        raise Refusal(
            "stage-path-not-mounted", f"{stage.where}: {stage.path} is in a directory that could not be mounted"
        )
    mount = max(fitting, key=lambda mount: len(mount.target))
    rest = stage.path.removeprefix(mount.target.rstrip("/"))
    return Item(
        store=stage.store,
        bucket=stage.bucket,
        key=stage.key,
        path=mount.source.rstrip("/") + rest or "/",
        root=mount.source,
        shown=stage.path,
        where=stage.where,
        doomed=is_doomed(plan, stage),
    )


def is_doomed(plan: Plan, stage: Stage) -> bool:
    """Whether the path goes with the job: mom removes TMPDIR."""
    return any(mount.origin == "tmpdir" and below(stage.path, mount.target) for mount in plan.mounts)


def keep_in(plan: Plan, record: Record) -> str:
    """Where to what would go with the job is moved when it could not be uploaded."""
    sources = (mount.source for mount in plan.mounts if mount.origin == "workdir" and not mount.read_only)
    return f"{next(sources, plan.home)}/pbsdock-kept.{record.safe}"


def kept_places(record: Record, plan: Plan, stages: Iterable[Stage]) -> list[str]:
    """Where what was not uploaded is, once what goes with the job was moved."""
    places = []
    for stage in stages:
        try:
            place = item_of(record, plan, stage).path
        except Refusal:
            continue
        if not is_doomed(plan, stage):
            places.append(place)
    return list(dict.fromkeys((*places, *record.facts.kept)))


# -- sentences --------------------------------------------------------------------------------------------------------


def staged_in(done: Mapping[str, Any], seconds: float) -> str:
    """The user's sentence after a stage-in; *done* are the worker's counters."""
    there = f", {done['skipped']} of them there already" if done["skipped"] else ""
    return f"staged in {_amount(done)} in {seconds:.1f} s{there}"


def staged_out(done: Mapping[str, Any], seconds: float) -> list[str]:
    """The user's sentences after a stage-out."""
    return [f"staged out {_amount(done)} in {seconds:.1f} s", *not_staged(done, "out")]


def not_staged(done: Mapping[str, Any], way: str) -> list[str]:
    """A sentence for each thing left out, the first of them; *way* is ``in`` or ``out``."""
    more = done.get("more_left_out", 0)
    told = [f"not staged {way}: {name}" for name in done["left_out"][:_SHOWN_FILES]]
    return [*told, f"not staged {way}: {more} more"] if more else told


def exit_code(end: Exit, *, is_all_uploaded: bool) -> int:
    """What a job ends with after its stage-out: its own status, unless that would hide what is missing."""
    return end.code or (0 if is_all_uploaded else NOT_UPLOADED)


def kept_sentence(places: Sequence[str], node: str) -> str:
    """Where a user finds what was not uploaded."""
    if not places:
        return "nothing was there to be kept"
    return f"what was not uploaded is kept on {node} in {', '.join(places[:_SHOWN_PLACES])}"


def _amount(done: Mapping[str, Any]) -> str:
    files = int(done["files"])
    return f"{files} file{'' if files == 1 else 's'}, {human(int(done['bytes']))}"
