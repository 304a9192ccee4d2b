"""How often the preparation of a job has failed here, and why: what is queued again without end would be started 24
times in 6 seconds (observed), since Torque has no memory of it. The counts survive the agent.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

from pbsdock.core import whole_file

MOST = 3  # failures of one job for one reason; the last one is its own
_JOBS = 500
_KEPT_S = 86400.0


class Attempts:
    """Any thread. Kept in one small file; one that cannot be read or written only makes a count begin anew."""

    def __init__(self, file: Path, *, most_jobs: int = _JOBS) -> None:
        self.file = file
        self.most_jobs = most_jobs
        self._lock = threading.Lock()
        self._jobs: dict[str, tuple[float, dict[str, int]]] = {}  # by id: when last, and how often by code
        self._read()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def failed(self, job_id: str, code: str) -> int:
        """Count one more failure; returns how many there are for this reason."""
        now = time.time()
        with self._lock:
            _, counts = self._jobs.pop(job_id, (now, {}))
            counts[code] = counts.get(code, 0) + 1
            self._jobs[job_id] = (now, counts)  # the dictionary's order is that of the last failures
            self._jobs = {job_id: kept for job_id, kept in self._jobs.items() if abs(now - kept[0]) < _KEPT_S}
            while len(self._jobs) > self.most_jobs:
                del self._jobs[next(iter(self._jobs))]
            self._write()
            return counts[code]

    def forget(self, job_id: str) -> None:
        """The job is prepared or refused: a later start of the same id begins anew."""
        with self._lock:
            if self._jobs.pop(job_id, None) is not None:
                self._write()

    def _read(self) -> None:
        try:
            found = json.loads(self.file.read_bytes())
            self._jobs = {
                str(job): (float(at), {str(code): int(count) for code, count in counts.items()})
                for job, (at, counts) in list(found.items())[-self.most_jobs :]
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            self._jobs = {}

    def _write(self) -> None:
        with suppress(OSError):  # a full disk is the node's fault, and told as that
            whole_file.write_over(self.file, json.dumps(self._jobs).encode())
