"""A job, as policy sees it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pbsdock.rm.torque.ids import JobId
from pbsdock.rm.torque.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job on this execution host, from facts the user cannot forge."""

    id: JobId
    user: str
    group: str
    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, without gid
    home: str
    name: str
    resources: Resources
    queue: str
    account: str
    script_path: str | None
    work_dir: str | None
    tmpdir: str | None
    nodefile: str | None
    interactive: bool
    slots_here: int
    slots_total: int
    on_demand: bool = False  # asked for by the run hook, not the prologue
    job_file: str | None = None  # the name of its .JB where that was found already
