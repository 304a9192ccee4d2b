"""Which pbsdock this is."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


@cache
def version() -> str:
    """The version of the package the agent runs from; "unknown" where it was not installed as one."""
    try:
        return installed("pbsdock")
    except PackageNotFoundError:
        return "unknown"
