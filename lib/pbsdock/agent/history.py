"""What is remembered of jobs that are over: a root-only JSON file each, in a directory for each user.

Best effort: no release waits for it or fails by it. What cannot be written is told by an event, and a file that cannot
be read is passed over.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pbsdock.config.tables import HistoryConfig
from pbsdock.core.redact import known
from pbsdock.core.story import Story, from_json, to_json

_PRUNE_S = 3600.0  # between two looks at all of it, unless there is too much sooner
_LOWERED = 0.9  # of the room is left full, so that not every job that ends makes room
_DAY_S = 86400.0
_SPARED = 0.1  # of the file system, which has the ledger as well
_BLOCK = 4096  # bytes that a file takes at least
_MOST_READ = 16  # incarnations of one job, and jobs of one number by other servers


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the history: whose it is, when it was written (seconds since the epoch), bytes on the disk."""

    path: str
    uid: str
    at: float
    size: int


class History:
    """The files below one directory; any thread. Nothing it does raises for the disk."""

    def __init__(self, directory: Path, config: HistoryConfig, emit: Callable[..., None]) -> None:
        self.directory = directory
        self._config = config
        self._emit = emit
        self._lock = threading.Lock()
        self._size: int | None = None  # of all files; None until they have been counted
        self._due = 0.0  # monotonic

    def reconfigure(self, config: HistoryConfig) -> None:
        """Keep by this from now on."""
        self._config = config
        self._due = 0.0

    def keep(self, story: Story) -> None:
        """Write it down, in place of what was written of the same incarnation."""
        if not self._config.days:
            return
        try:
            size = self._write(story)
        except (OSError, ValueError) as error:
            reason = f"job {story.job}: {error}"
            self._emit("history.failed", level="warning", job=story.job, user=story.user, reason=reason[:300])
            return
        with self._lock:
            if self._size is not None:
                self._size += size

    def _write(self, story: Story) -> int:
        data = known.clean(json.dumps(to_json(story), separators=(",", ":"))).encode()
        directory = self.directory / str(story.uid)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = os.statvfs(directory)
        if room.f_bavail < _SPARED * room.f_blocks:
            raise OSError(errno.ENOSPC, "the last tenth of the file system is left to the jobs' records")
        temporary = directory / f".new-{story.incarnation}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            os.rename(temporary, directory / f"{_name(story.job)}.{story.incarnation}.json")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return -(-len(data) // _BLOCK) * _BLOCK

    def of(self, job: str, uid: int | None) -> list[Story]:
        """What is remembered of a job, by its whole id or the part before the first dot, the newest first.

        *uid* None: whoever's it was. Only so many are read.
        """
        found: list[Story] = []
        for directory in self._directories() if uid is None else [self.directory / str(uid)]:
            found += self._of(directory, job)
        return sorted(found, key=lambda story: story.created_at, reverse=True)[:_MOST_READ]

    def _of(self, directory: Path, job: str) -> Iterator[Story]:
        start = f"{_name(job)}."
        with suppress(OSError):
            names = [name for name in os.listdir(directory) if name.startswith(start)]
            # The incarnation begins with the time in hexadecimal digits, so by it the newest are last.
            for name in sorted(names, key=lambda name: name.rsplit(".", 2)[1])[-_MOST_READ:]:
                with suppress(OSError, ValueError, RecursionError):
                    story = from_json(json.loads((directory / name).read_bytes()))
                    if is_about(story.job, job):
                        yield story

    # -- room -----------------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Remove what is too old or too much, if it is time to look."""
        now = time.monotonic()
        with self._lock:
            is_due = now >= self._due or (self._size or 0) > self._config.max_bytes
            if is_due:
                self._due = now + _PRUNE_S
        if is_due:
            self.prune()

    def prune(self) -> int:
        """Look at all of it now; returns how many files went."""
        kept = self._all()
        gone = to_prune(kept, now=time.time(), days=self._config.days, most=self._config.max_bytes)
        for file in gone:
            with suppress(OSError):
                os.unlink(file.path)
        for directory in {os.path.dirname(file.path) for file in gone}:
            with suppress(OSError):  # as a rule it is not empty
                os.rmdir(directory)
        with self._lock:
            self._size = sum(file.size for file in kept) - sum(file.size for file in gone)
        return len(gone)

    def _all(self) -> list[Kept]:
        found = []
        for directory in self._directories():
            with suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    with suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        found.append(Kept(entry.path, directory.name, status.st_mtime, status.st_blocks * 512))
        return found

    def _directories(self) -> list[Path]:
        try:
            return [self.directory / name for name in os.listdir(self.directory) if name.isdecimal()]
        except OSError:
            return []


def to_prune(files: list[Kept], *, now: float, days: float, most: int) -> list[Kept]:
    """What is older than so many *days*, and beyond *most* bytes the oldest of whoever has most. Pure."""
    gone = [file for file in files if now - file.at >= days * _DAY_S]
    old = {file.path for file in gone}
    left = sorted((file for file in files if file.path not in old), key=lambda file: file.at, reverse=True)
    total = sum(file.size for file in left)
    if total <= most:
        return gone
    of: dict[str, list[Kept]] = {}
    for file in left:
        of.setdefault(file.uid, []).append(file)
    sizes = {uid: sum(file.size for file in theirs) for uid, theirs in of.items()}
    while total > _LOWERED * most:
        uid = max(sizes, key=lambda user: sizes[user])
        file = of[uid].pop()
        gone.append(file)
        total -= file.size
        sizes[uid] -= file.size
    return gone


def is_about(job: str, asked: str) -> bool:
    """Whether a job's whole id is what was asked for, or begins with it before the first dot. Pure."""
    return job == asked or job.split(".", 1)[0] == asked


def _name(job: str) -> str:
    """A job's id for a file's name. It is checked where it comes from; whatever is left is made harmless."""
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in job)[:180]
