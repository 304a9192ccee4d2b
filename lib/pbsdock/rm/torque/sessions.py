"""Which job a process belongs to, by the sessions that mom has written down; nothing of the process's own is believed.

Mom notes the session of a job's shell in its .JB (``session_id``) and that of every task it starts, or is given to
adopt, in the file ``PREFIX.TK``: C structs (``taskfix`` in ``src/include/pbs_job.h``), each at its task's number times
their size (``task_save`` in mom's mom_comm.c). A struct begins with the job's id; behind its session come the exit
status and sixteen reserved ints.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_SID = struct.Struct("=i")
_BEHIND = 4 * (1 + 16)  # bytes between the session and the end of a struct
_LONGEST = 4 << 20  # bytes of such a file that are read


def of_tasks(data: bytes, job_id: str) -> frozenset[int]:
    """The sessions in the content of a .TK. Pure. The last struct ends the file, which tells how long each is; where
    there is no task of a number there is a hole."""
    name = job_id.encode() + b"\0"
    last = data.rfind(name)
    size = len(data) - last
    if last < 0 or size <= _BEHIND + _SID.size or last % size:
        return frozenset()
    starts = (start for start in range(0, len(data), size) if data.startswith(name, start))
    found = (_SID.unpack_from(data, start + size - _BEHIND - _SID.size)[0] for start in starts)
    return frozenset(sid for sid in found if sid > 1)


def read_tasks(path: Path, job_id: str) -> frozenset[int]:
    """The same of the file; empty where it cannot be read."""
    with suppress(OSError), open(path, "rb") as file:
        return of_tasks(file.read(_LONGEST), job_id)
    return frozenset()


def first_of(sessions: Iterable[int], candidates: Iterable[tuple[str, frozenset[int]]]) -> str:
    """The job that the first of *sessions* is one of, "" if none is any's. Pure."""
    jobs = {sid: job for job, own in candidates for sid in own}
    return next((jobs[sid] for sid in sessions if sid in jobs), "")
