"""The error that ends an installation."""

from __future__ import annotations


class SetupError(Exception):
    """``str()`` is a sentence that says what is wrong and what to do."""
