"""Slurm: ids, what slurmd tells the Prolog, its cgroups of version 1, and :class:`Slurm` above them.

Facts were measured on Slurm 22.05 and read in its source, where each module says. Version 2 of cgroups is not
supported.
"""

from __future__ import annotations

from pbsdock.rm.slurm.manager import Slurm
from pbsdock.rm.slurm.words import WORDS

__all__ = ["WORDS", "Slurm"]
