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
    """The sessions in the content of a .TK. Pure. Task 1, the job's shell, tells how long a struct is."""
    size = data.find(job_id.encode() + b"\0")
    if size <= _BEHIND + _SID.size:
        return frozenset()
    ends = range(2 * size, len(data) + 1, size)
    found = (_SID.unpack_from(data, end - _BEHIND - _SID.size)[0] for end in ends)
    return frozenset(sid for sid in found if sid > 1)


def read_tasks(path: Path, job_id: str) -> frozenset[int]:
    """The same of the file; empty where it cannot be read."""
    with suppress(OSError), open(path, "rb") as file:
        return of_tasks(file.read(_LONGEST), job_id)
    return frozenset()


def first_of(sessions: Iterable[int], candidates: Iterable[tuple[str, frozenset[int]]]) -> str:
    """The job whose sessions are among *sessions*, "" if none's are. Pure."""
    wanted = frozenset(sessions)
    return next((job for job, own in candidates if own & wanted), "")
