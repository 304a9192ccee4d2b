"""Unit tests run beside the engine's and a virtual machine's: how long an example took says nothing about the code."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("pbsdock", deadline=None)
settings.load_profile("pbsdock")
