"""Slurm: ids, what slurmd tells the Prolog, its cgroups of versions 1 and 2, and :class:`Slurm` above them.

Facts were measured on Slurm 22.05, of version 2 on 24.11 as well, and read in its source, where each module says.
"""

from __future__ import annotations

from pbsdock.rm.slurm.manager import Slurm
from pbsdock.rm.slurm.words import WORDS

__all__ = ["WORDS", "Slurm"]
