"""Which resource manager this node has: what the instance was set up for."""

from __future__ import annotations

from pathlib import Path

from pbsdock.core.paths import Paths, load
from pbsdock.rm import slurm
from pbsdock.rm.base import ResourceManager, Words
from pbsdock.rm.slurm.manager import Slurm
from pbsdock.rm.torque.manager import Torque
from pbsdock.rm.torque.words import WORDS


def manager(paths: Paths, node: str, *, client_dir: str = "") -> ResourceManager:
    """The manager of an installed instance on the host *node*; its client programs are in *client_dir*, if not ""."""
    if paths.slurm_conf is not None:
        return Slurm(paths.mom_priv, paths.told_jobs, paths.slurm_conf)
    return Torque(paths.mom_priv, node, client_dir=client_dir)


def words(paths_file: Path | None = None) -> Words:
    """What the manager of the instance with *paths_file* calls things; Torque's where there is none."""
    try:
        paths = load(paths_file) if paths_file is not None else None
    except (OSError, ValueError):
        paths = None
    return slurm.WORDS if paths is not None and paths.slurm_conf is not None else WORDS
