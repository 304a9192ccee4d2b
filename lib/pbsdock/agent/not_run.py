"""The sentence for what the first process could not start, by the step that failed and the kernel's word. Pure."""

from __future__ import annotations

import errno
import os

from pbsdock.core.plan import Plan
from pbsdock.engine.spec import closed_workdir
from pbsdock.protocol import init


def not_run(plan: Plan, end: init.Answer) -> str:
    """Why, and what to change where that is known; *end* is of kind FAILED."""
    path = os.fsdecode(end.path).encode("utf-8", "backslashreplace").decode()
    why = os.strerror(end.number)
    if end.step == "execve" and end.number == errno.ENOENT:
        return f"image '{plan.image}' has no {path} that can be run, or what it needs to run is missing"
    if end.step == "execve" and end.number == errno.E2BIG:
        return "the environment and arguments are longer than the kernel takes (E2BIG); make them shorter"
    if end.step == "execve":
        return f"image '{plan.image}': {path} cannot be run: {why}"
    if end.step == "chdir" and end.number == errno.EACCES and path == plan.workdir:
        return closed_workdir(plan.image, path)
    if end.step == "chdir":
        return f"the directory to start in, {path}, cannot be entered in the container: {why}"
    if end.step == "setrlimit":
        return f"the job's limit number {path} cannot be set in the container: {why}"
    if end.step == "fork":
        return f"no process more can be started for the job: {why}"
    return f"the command could not be started in the container ({end.step}): {why}"
