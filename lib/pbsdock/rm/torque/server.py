"""What pbs_server says of a job, asked by qstat. Facts: qstat.c, pbs_error.h and trqauthd of Torque 6.1."""

from __future__ import annotations

import re
import subprocess

_UNKNOWN_JOB = 153  # qstat's exit status is PBSE_UNKJOBID, 15001, of which eight bits are left
_STATE = re.compile(r"^\s*job_state = (\S)$", re.MULTILINE)
_OVER = "C"  # completed: kept for a while, for whoever asks
_TIMEOUT_S = 10.0


def knows(qstat: str, job_id: str) -> bool | None:
    """Whether the server has a job that is not over; None where it cannot be asked, or gives no answer."""
    if not qstat:
        return None
    try:
        done = subprocess.run(
            [qstat, "-f", job_id],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            cwd="/",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == _UNKNOWN_JOB and "Unknown Job Id" in done.stderr:
        return False
    state = _STATE.search(done.stdout)
    if done.returncode != 0 or state is None:
        return None
    return state[1] != _OVER
