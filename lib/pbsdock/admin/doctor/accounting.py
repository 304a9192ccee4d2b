"""Whether containers come into the resource manager's accounting."""

from __future__ import annotations

from pbsdock.admin.doctor.report import Finding
from pbsdock.rm.base import ResourceManager


def examine(manager: ResourceManager) -> Finding:
    """By which program, or what is lost without it."""
    program, lost = manager.adopts()
    return Finding("Accounting", "containers", not lost, lost or f"{program} makes them the job's")
