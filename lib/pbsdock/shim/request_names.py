"""What the client of jobs asks the agent for, as ``init/docker.c`` writes it."""

from __future__ import annotations

COMMAND, OVER = "docker", "docker-over"
CALLED = "docker"  # what it is called where it does not say
# What it answers to what it is told to do.
ANSWERS = frozenset({"content", "done", "failed", "copied", "over", "left"})
