"""``pbsdock doctor mounts``: mounts of this instance on the host that belong to no job any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pbsdock.admin.doctor.report import Finding
from pbsdock.core.ledger import Ledger
from pbsdock.core.paths import Paths
from pbsdock.core.record import State
from pbsdock.host import pins


def examine(paths: Paths) -> Iterator[Finding]:
    """Look at the mounts below the run directory. Raises OSError if the ledger cannot be read."""
    records, problems = Ledger(paths.state_dir / "jobs").load_all()
    if problems:
        raise OSError(f"ledger: {problems[0]}")
    states = {record.name: record.state for record in records}
    yield from judge("pins", _owners(paths.pins), states, [state for state in State if state.is_past_start])
    yield from judge("credentials", _owners(paths.work), states, ())


def judge(step: str, mounts: Mapping[str, int], states: Mapping[str, str], over: Iterable[str]) -> Iterator[Finding]:
    """A finding for the mounts of no record, or of a record in a state in *over*: nobody will remove them. Pure."""
    staying = {name: count for name, count in mounts.items() if name not in states or states[name] in over}
    for name, count in sorted(staying.items()):
        word = "mount" if count == 1 else "mounts"
        yield Finding("mounts", step, False, f"{count} {word} of {name} stay; pbsdock reap removes them")
    if not staying:
        yield Finding("mounts", step, True, f"{sum(mounts.values())}, each of a job that needs it")


def _owners(directory: Path) -> Counter[str]:
    """How many mount points there are below each name in *directory*."""
    return Counter(path.removeprefix(f"{directory}/").split("/")[0] for path in pins.left(directory))
