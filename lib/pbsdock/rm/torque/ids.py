"""Job ids. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from pbsdock.core.errors import BadValue

# The server's name may have a port (``host:15001``, Torque's pbsd_main.c), and job_suffix_alias is whatever a manager
# has set: letters of DNS alone would make a site's jobs unknown here.
_JOB_ID = re.compile(
    r"([0-9]{1,18})(?:-([0-9]{1,9})|\[([0-9]{0,9})\])?(?:\.((?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._:+=@%,~-]*))?", re.ASCII
)
_ID_LIMIT = 255  # bytes of a file's name (NAME_MAX): a job's marker has its id for a name
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)
_NAME_LIMIT = 100
_JOB_BASE = 61  # PBS_JOBBASE in Torque's server_limits.h


@dataclass(frozen=True, slots=True, kw_only=True)
class JobId:
    """A job id: ``12.server``, ``12-3.server``, ``12[3].server`` or the array itself, ``12[].server``."""

    text: str
    number: int
    array_index: int | None
    array_parent: bool
    server: str

    @property
    def safe(self) -> str:
        """The id as a name for files, containers and cgroups of our own: ``16[0].vm`` becomes ``16-0.vm``; a long one
        ends in a hash."""
        name = _UNSAFE.sub("_", self.text.replace("[", "-").replace("]", ""))
        if len(name) <= _NAME_LIMIT:
            return name
        return f"{name[: _NAME_LIMIT - 13]}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    @property
    def file_prefix(self) -> str:
        """What mom's own files of the job are called: ``16[0].vm`` becomes ``16-0.vm``, a long one is cut."""
        return self.text.replace("[", "-").replace("]", "")[:_JOB_BASE]


def parse_job_id(text: str) -> JobId:
    """Parse a job id strictly: no path, no pattern, no surprise. Raises BadValue."""
    match = _JOB_ID.fullmatch(text) if len(text) <= _ID_LIMIT else None
    if match is None:
        raise BadValue(f"{text[:80]!r} is not a job id; one looks like 12.server, 12[3].server or 12-3.server")
    number, dashed, bracketed, server = match.groups()
    index = dashed if dashed is not None else bracketed
    return JobId(
        text=text,
        number=int(number),
        array_index=int(index) if index else None,
        array_parent=index == "",
        server=server or "",
    )
