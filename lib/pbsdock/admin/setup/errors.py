"""What ends an installation."""

from __future__ import annotations


class SetupError(Exception):
    """``str()`` is one sentence that says what to do."""
