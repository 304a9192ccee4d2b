"""What is asked of slurmctld, by Slurm's own commands. An answer may be missing: a controller can be away."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from pbsdock.core.errors import BadValue
from pbsdock.rm.slurm.values import seconds_of

_ANSWER_S = 10.0
_QUICK_S = 3.0
PATH = "/usr/bin:/usr/local/bin:/opt/slurm/bin:/usr/sbin:/usr/local/sbin"
_OVER = (
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
)


class Control:
    """Slurm's commands, looked for in the directories *path*, with the configuration *conf*."""

    def __init__(self, conf: Path, path: str = PATH) -> None:
        self._conf = conf
        self._path = path

    def time_limit(self, job: str) -> int | None:
        """Seconds; None for none, or where it is not to be had."""
        said = self._call("squeue", "-h", "-j", job, "-o", "%A %l", seconds=_QUICK_S)
        for line in (said or "").splitlines():
            number, _, limit = line.partition(" ")
            if number == job:
                try:
                    return seconds_of(limit.strip())
                except BadValue:
                    return None
        return None

    def knows(self, job: str) -> bool | None:
        """Whether the controller has the job, not over; None where it gives no answer."""
        said = self._call(
            "squeue", "-h", "-t", "all", "-j", job, "-o", "%A %T", seconds=_ANSWER_S, unknown="Invalid job id"
        )
        if said is None:
            return None
        states = [line.split() for line in said.splitlines()]
        return any(words[:1] == [job] and len(words) == 2 and words[1] not in _OVER for words in states)

    def settings(self) -> dict[str, str] | None:
        """What is in force of slurm.conf, by names in lower case; None where the controller gives no answer."""
        said = self._call("scontrol", "show", "config", seconds=_ANSWER_S)
        if said is None:
            return None
        pairs = (line.partition("=") for line in said.splitlines() if "=" in line)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}

    def _call(self, program: str, *arguments: str, seconds: float, unknown: str = "") -> str | None:
        """What it prints; "" where it fails with the words *unknown*, None where it fails otherwise."""
        found = shutil.which(program, path=self._path)
        if found is None:
            return None
        environment = {"PATH": PATH, "SLURM_CONF": str(self._conf), "LC_ALL": "C", "TZ": os.environ.get("TZ", "")}
        try:
            done = subprocess.run(
                [found, *arguments],
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return "" if unknown and unknown in done.stderr else None
        return done.stdout
