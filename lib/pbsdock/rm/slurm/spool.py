"""slurmd's spool directory: ``%n`` in its path is the node's name, of which one host can have several (slurmd -N)."""

from __future__ import annotations

import glob
from pathlib import Path


def spools(spool: Path) -> list[Path]:
    """Those of this host."""
    if "%n" not in str(spool):
        return [spool]
    return [Path(found) for found in sorted(glob.glob(glob.escape(str(spool)).replace("%n", "*")))]


def script_path(spool: Path, node: str, job_id: str) -> str:
    """Where the slurmd of *node* puts the batch script of a job; of several that which is there."""
    name = f"job{int(job_id):05d}/slurm_script"
    if "%n" not in str(spool):
        return str(spool / name)
    found = [path for path in (place / name for place in spools(spool)) if path.exists()]
    return str(found[0] if found else Path(str(spool).replace("%n", node)) / name)
