"""Job ids. Pure.

Every job, also each element of an array and each component of a heterogeneous job, has a number of its own in the
cluster (``SLURM_JOB_ID``; sacct's ``JobIDRaw``), by which slurmd calls its files and cgroups. It is the only id here.
"""

from __future__ import annotations

import re

from pbsdock.core.errors import BadValue

_NUMBER = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_STEP = re.compile(r"([1-9][0-9]{0,9})\.(?:[0-9]{1,10}|batch|extern|interactive)", re.ASCII)
_ELEMENT = re.compile(r"[1-9][0-9]{0,9}_(?:[0-9]{1,10}|\[[0-9,:%-]{1,80}\])", re.ASCII)
_COMPONENT = re.compile(r"[1-9][0-9]{0,9}\+[0-9]{1,4}", re.ASCII)
_LIMIT = 1 << 32  # job ids are 32 bits wide


def parse_job_id(text: str) -> str:
    """The job's number in *text*: ``12``, or a step of it such as ``12.0`` and ``12.batch``.

    Raises BadValue; what names an element of an array or a component is told how to find its number.
    """
    if step := _STEP.fullmatch(text):
        text = step[1]
    if _NUMBER.fullmatch(text) and int(text) < _LIMIT:
        return text
    if _ELEMENT.fullmatch(text) or _COMPONENT.fullmatch(text):
        raise BadValue(
            f"{text[:80]!r} is known here by a number of its own: SLURM_JOB_ID in the job, JobId in scontrol show job"
            f" {text[:80]}, JobIDRaw in sacct"
        )
    raise BadValue(f"{text[:80]!r} is not a job id; one looks like 12")
