"""What slurmd told the Prolog of a job, as that has written it down: a file of root's, named by the job's number.

``NAME=VALUE`` a line, the values slurmd's own; ``work_dir`` comes last, since it is the user's and may hold anything.
Nothing else tells a job's GPUs and partition in a way that its owner has no hand in: a job's name can hold line ends
and so forge any line that scontrol prints behind it.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from pbsdock.core.errors import BadValue

_LIMIT = 1 << 20
_USER = re.compile(r"[^\0\n/:]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrologFile:
    """One job's. ``cpus`` and ``nodes`` as Slurm writes them; ``restarts`` counts how often it was queued again."""

    job_id: str
    uid: int
    user: str
    partition: str = ""
    node: str = ""  # this one's name in slurm.conf
    nodes: str = ""
    cpus: str = ""
    gpus: str = ""
    restarts: int = 0
    work_dir: str = ""


def parse(job_id: str, data: bytes) -> PrologFile:
    """Raises BadValue."""
    told: dict[str, str] = {}
    rest = data
    while rest:
        line, _, rest = rest.partition(b"\n")
        name, is_pair, value = line.partition(b"=")
        if not is_pair:
            raise BadValue(f"job {job_id}: what its Prolog has written has a line without =")
        if name == b"work_dir":
            value, rest = (value + b"\n" + rest).removesuffix(b"\n"), b""
        told[os.fsdecode(name)] = os.fsdecode(value)
    uid, restarts = told.get("uid", ""), told.get("restarts", "0") or "0"
    if not (uid.isascii() and uid.isdigit()) or not (restarts.isascii() and restarts.isdigit()):
        raise BadValue(f"job {job_id}: what its Prolog has written names no user by number")
    user = told.get("user", "")
    if not _USER.fullmatch(user):
        raise BadValue(f"job {job_id}: what its Prolog has written names no user")
    return PrologFile(
        job_id=job_id,
        uid=int(uid),
        user=user,
        partition=told.get("partition", ""),
        node=told.get("node", ""),
        nodes=told.get("nodes", ""),
        cpus=told.get("cpus", ""),
        gpus=told.get("gpus", ""),
        restarts=int(restarts),
        work_dir=told.get("work_dir", ""),
    )


def nodes_here(directory: Path, job_id: str) -> frozenset[str]:
    """The nodes of a job whose Prologs have run on this host: each has left a file ``JOB.NODE``."""
    return frozenset(path.name.partition(".")[2] for path in directory.glob(f"{job_id}.*"))


def read(directory: Path, job_id: str, *, owner: int = 0) -> PrologFile | None:
    """None where its Prolog has written none. *owner* is who must have. Raises BadValue, OSError."""
    try:
        fd = os.open(directory / job_id, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != owner or found.st_size > _LIMIT:
            raise BadValue(f"{directory / job_id} is not what a Prolog has written")
        return parse(job_id, file.read(_LIMIT))
