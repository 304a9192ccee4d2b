"""A faithful stand-in for pbs_mom: run one job on this host through the installed hooks, as Torque would.

What it claims of mom was measured on Torque 6.1 or read in its source: order of hooks, argument vectors, environment,
identities, umask, descriptors, the pipe with the script's path on the job's stdin, sessions, signals, limits, files and
exit statuses. It needs root. ``docs/try.md`` lists what is not imitated.
"""

from __future__ import annotations

from pbsdock.trial.command import add_arguments, main
from pbsdock.trial.mom import Trial, run_job, start
from pbsdock.trial.request import BadRequest, Outcome, Request

__all__ = ["BadRequest", "Outcome", "Request", "Trial", "add_arguments", "main", "run_job", "start"]
