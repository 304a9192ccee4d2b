"""Torque: ids, argument vectors, resource lists, mom's .JB files, and :class:`Torque` above them.

Facts about the formats were measured on a Torque 6.1 pbs_mom and read in its source, where each module says.
The names here are all that others than :mod:`pbsdock.rm` may know of Torque's formats.
"""

from __future__ import annotations

from pbsdock.core.errors import BadValue
from pbsdock.core.sizes import parse_size
from pbsdock.rm.torque.args import EpilogueArgs, PrologueArgs, parse_epilogue_argv, parse_prologue_argv
from pbsdock.rm.torque.grant import grant_of
from pbsdock.rm.torque.ids import JobId, parse_job_id
from pbsdock.rm.torque.jobfile import JobFile, of_host, parse_jb, slots_on
from pbsdock.rm.torque.manager import Torque
from pbsdock.rm.torque.resources import NodeSpec, Resources, parse_nodes, parse_resource_list
from pbsdock.rm.torque.values import parse_duration
from pbsdock.rm.torque.words import WORDS

__all__ = [
    "WORDS",
    "BadValue",
    "EpilogueArgs",
    "JobFile",
    "JobId",
    "NodeSpec",
    "PrologueArgs",
    "Resources",
    "Torque",
    "grant_of",
    "of_host",
    "parse_duration",
    "parse_epilogue_argv",
    "parse_jb",
    "parse_job_id",
    "parse_nodes",
    "parse_prologue_argv",
    "parse_resource_list",
    "parse_size",
    "slots_on",
]
