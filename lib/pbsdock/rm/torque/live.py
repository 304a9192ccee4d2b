"""Mom's .JB files, found by the names they can have and read once.

The server makes a job's file prefix from its id (``determine_job_file_name`` in req_quejob.c, ``job_clone`` in
job_func.c): ``[n]`` becomes ``-n``, 61 bytes are kept (PBS_JOBBASE), and where that name is taken the last byte is
counted up. Several moms on one host put their port behind it (``job_save`` in job_recov.c, ``multi_mom``).
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from time import time_ns

from pbsdock.core.errors import BadValue
from pbsdock.rm.torque.ids import JobId
from pbsdock.rm.torque.jobfile import JobFile, parse_jb

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LIMIT = 4 << 20  # bytes of a .JB that are read: mom's, with all variables a qsub can send
_KEPT = 16 << 20  # bytes of files whose parsed form is kept
_TICK_NS = 20_000_000  # the kernel's coarsest tick is ten milliseconds; file times are taken from it
_AT_WORST = 64  # names like a job's own that are looked into

Identity = tuple[int, int, int, int]  # device, inode, size, mtime in ns


@dataclass(frozen=True, slots=True)
class _Read:
    identity: Identity
    file: JobFile | None


class JobFiles:
    """The live jobs' files of one directory; any thread. *owner* is who must have written them."""

    def __init__(self, directory: Path, *, owner: int = 0, limit: int = _LIMIT, kept: int = _KEPT) -> None:
        self._directory = directory
        self._owner = owner
        self._limit = limit
        self._room = kept
        self._lock = threading.Lock()
        self._read: OrderedDict[str, _Read] = OrderedDict()  # by name, the one used last at the end
        self._names: tuple[int, tuple[str, ...]] = (-1, ())  # mtime of the directory, and what was in it
        self.parsed = 0

    def find(self, job_id: JobId) -> tuple[str, JobFile] | None:
        """The name and content of a live job's .JB; None if there is none."""
        prefix = job_id.file_prefix
        exact = f"{prefix}.JB"
        with self._lock:
            if (file := self._content(exact)) is not None and file.job_id.text == job_id.text:
                return exact, file
            like = re.compile(re.escape(prefix[:-1]) + r"[ -~][0-9]{0,5}\.JB")
            others = [name for name in self._listed() if name != exact and like.fullmatch(name)]
            for name in others[:_AT_WORST]:
                if (file := self._content(name)) is not None and file.job_id.text == job_id.text:
                    return name, file
        return None

    def all(self) -> list[JobFile]:
        """The content of every live job's .JB that can be read."""
        with self._lock:
            return [file for name in self._listed() if (file := self._content(name)) is not None]

    def _listed(self) -> tuple[str, ...]:
        """The names there are, listed anew only when one came or went. Two changes within one tick of the clock look
        like one, so what was listed in the tick of a change is listed again."""
        try:
            changed = os.stat(self._directory).st_mtime_ns
            if changed != self._names[0]:
                names = tuple(sorted(name for name in os.listdir(self._directory) if name.endswith(".JB")))
                settled = time_ns() - changed > _TICK_NS
                self._names = (changed if settled else -1, names)
                for gone in set(self._read).difference(names):
                    del self._read[gone]
        except OSError:
            return ()
        return self._names[1]

    def _content(self, name: str) -> JobFile | None:
        try:
            fd = os.open(self._directory / name, _FLAGS)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as stream:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != self._owner or found.st_size > self._limit:
                return None
            identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            before = self._read.get(name)
            if before is not None and before.identity == identity:
                self._read.move_to_end(name)
                return before.file
            data = stream.read(self._limit + 1)
        self.parsed += 1
        try:
            file = parse_jb(data) if len(data) <= self._limit else None
        except BadValue:
            file = None
        self._read[name] = _Read(identity, file)
        self._read.move_to_end(name)
        while sum(read.identity[2] for read in self._read.values()) > self._room and len(self._read) > 1:
            self._read.popitem(last=False)
        return file
