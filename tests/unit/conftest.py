"""Examples of properties have no time limit: it would measure the machine's other load, not the code."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("pbsdock", deadline=None)
settings.load_profile("pbsdock")
