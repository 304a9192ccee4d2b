"""Which resource manager this node has. Torque is the only one so far."""

from __future__ import annotations

from pbsdock.core.paths import Paths
from pbsdock.rm.base import ResourceManager, Words
from pbsdock.rm.torque.manager import Torque
from pbsdock.rm.torque.words import WORDS


def manager(paths: Paths, node: str, *, client_dir: str = "") -> ResourceManager:
    """The manager of an installed instance on the host *node*; its client programs are in *client_dir*, if not ""."""
    return Torque(paths.mom_priv, node, client_dir=client_dir)


def words() -> Words:
    """What it calls things, for those who have no instance at hand."""
    return WORDS
