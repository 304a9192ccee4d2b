"""Where an installed instance keeps its things, as baked by install.sh into one JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """One instance's places; several instances on a host share none of them."""

    python: Path
    lib: Path
    run_dir: Path
    state_dir: Path
    log_dir: Path
    config: Path
    mom_priv: Path  # or of Slurm slurmd's spool directory
    instance: str
    prefix: Path  # what stays from version to version
    home: Path  # this version's own directory, by its real name
    slurm_conf: Path | None = None  # with Slurm; None: with Torque

    @property
    def socket(self) -> Path:
        """The agent's socket; every user may connect, SO_PEERCRED decides."""
        return self.run_dir / "agent.sock"

    @property
    def markers(self) -> Path:
        """One empty file per job with a record: what the hooks look for before they start an interpreter."""
        return self.run_dir / "jobs"

    @property
    def door(self) -> Path:
        """The directory with the agent's socket that jobs' containers have."""
        return self.run_dir / "door"

    @property
    def shim(self) -> Path:
        """The directory with the docker command of jobs; there while they have one."""
        return self.prefix / "shim"

    @property
    def asks_nodes(self) -> Path:
        """There while the agent can ask other nodes: a sister's prologue marks every job then until it is known."""
        return self.run_dir / "asks-nodes"

    def mark(self, job_id: str) -> None:
        """Show the hooks that this job is ours. Raises OSError."""
        self.markers.mkdir(mode=0o711, exist_ok=True)
        (self.markers / job_id).touch(mode=0o644)

    def unmark(self, job_id: str) -> None:
        """Take that back. Raises OSError."""
        (self.markers / job_id).unlink(missing_ok=True)

    @property
    def work(self) -> Path:
        """Root-only directory of what is bind-mounted into containers: script copies, passwd, group."""
        return self.run_dir / "work"

    @property
    def pins(self) -> Path:
        """Root-only directory of what users' paths were when they were looked at, held for the engine."""
        return self.run_dir / "pins"

    @property
    def told_jobs(self) -> Path:
        """Root-only directory of what slurmd has told the Prolog of each job."""
        return self.run_dir / "slurm"

    @property
    def unhealthy(self) -> Path:
        """The health flag: one sentence; its presence takes the node out of service."""
        return self.run_dir / "unhealthy"

    @property
    def drained(self) -> Path:
        """One sentence for mom, while an admin keeps new container jobs away; outlives a reboot."""
        return self.state_dir / "drained"


def load(path: Path) -> Paths:
    """Read the file install.sh wrote. Raises OSError or ValueError."""
    data = json.loads(path.read_bytes())
    try:
        names = set(Paths.__dataclass_fields__) - {"instance", "slurm_conf"}
        places = {name: Path(data[name]) for name in names}
        conf = Path(data["slurm_conf"]) if data.get("slurm_conf") else None
        return Paths(instance=str(data["instance"]), slurm_conf=conf, **places)
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]} is missing") from None
