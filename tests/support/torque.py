"""What tests of policy and directive need of a resource manager: Torque's words, and jobs as it grants them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pbsdock.directive import parse
from pbsdock.rm.base import Job
from pbsdock.rm.torque import WORDS, grant_of, parse_job_id, parse_resource_list
from pbsdock.rm.torque.tasks import TaskRequest

parse_script = partial(parse.parse_script, words=WORDS)
parse_options = partial(parse.parse_options, words=WORDS)


def job(
    resources: str,
    *,
    job_id: str = "7.vm",
    slots_here: int = 1,
    slots_total: int | None = None,
    gpu_ids: tuple[str, ...] = (),
    tasks: Sequence[TaskRequest] = (),
    exclusive: bool = False,
    **changes: Any,
) -> Job:
    """Alice's job."""
    parsed = parse_job_id(job_id)
    facts: dict[str, Any] = {
        "user": "alice",
        "group": "users",
        "uid": 2001,
        "gid": 100,
        "groups": (3001,),
        "home": "/home/alice",
        "name": "x",
        "queue": "batch",
        "script_path": "/s/7.vm.SC",
        "work_dir": "/home/alice/run",
        "tmpdir": "/tmp/7.vm",
        "nodefile": "/s/aux/7.vm",
        "interactive": False,
        "job_file": "7.vm.JB",
    }
    total = slots_here if slots_total is None else slots_total
    grant = grant_of(
        parse_resource_list(resources),
        slots_here=slots_here,
        slots_total=total,
        gpu_ids=gpu_ids,
        tasks=tasks,
        exclusive=exclusive,
    )
    return Job(id=parsed.text, safe=parsed.safe, grant=grant, words=WORDS, **{**facts, **changes})
