"""Ports for servers of a test's own."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_low_port() -> int:
    """One that no ordinary user can take, nor Torque: for an instance that has object stores beside others on this host.

    Anywhere in the range, since two instances may look for one before either of them has an agent.
    """
    for port in random.sample(range(100, 143), 43):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port from 100 to 142")
