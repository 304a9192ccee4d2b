"""Which resource manager this node has: what the instance was set up for."""

from __future__ import annotations

from pbsdock.core.paths import Paths
from pbsdock.rm.base import ResourceManager, Words
from pbsdock.rm.slurm.manager import Slurm
from pbsdock.rm.torque.manager import Torque
from pbsdock.rm.torque.words import WORDS


def manager(paths: Paths, node: str, *, client_dir: str = "") -> ResourceManager:
    """The manager of an installed instance on the host *node*; its client programs are in *client_dir*, if not ""."""
    if paths.slurm_conf is not None:
        return Slurm(paths.mom_priv, paths.told_jobs, paths.slurm_conf)
    return Torque(paths.mom_priv, node, client_dir=client_dir)


def words() -> Words:
    """What it calls things, for those who have no instance at hand: Torque's."""
    return WORDS
