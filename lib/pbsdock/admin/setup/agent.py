"""Find, stop and start the agent during an installation."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.versions import Version
from pbsdock.host.process import stat

_END_S = 15.0
_START = "import sys; sys.path.insert(0, sys.argv.pop(1))\nfrom pbsdock.hook.client import hook\nhook()"


def running(places: Places) -> tuple[int, str] | None:
    """Process id and command line of this instance's agent; None if there is none."""
    try:
        pid = int((places.run_dir / "agent.pid").read_text())
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    return (pid, line) if f"{places.prefix}/" in line and "pbsdock.agent" in line else None


def stop(places: Places) -> bool:
    """Stop the agent and wait; returns whether one ran. Jobs run on, and the next agent takes them over."""
    if (found := running(places)) is None:
        return False
    try:
        os.kill(found[0], signal.SIGTERM)
    except ProcessLookupError:
        return True
    deadline = time.monotonic() + _END_S
    while _is_alive(found[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return True


def _is_alive(pid: int) -> bool:
    """A zombie does not count: its parent may never wait for it."""
    try:
        return stat(pid)[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def start(places: Places, version: Version) -> None:
    """Start the agent as a hook does and wait until it answers. A run hook cannot start it: it runs as the user."""
    command = [str(version.python), "-I", "-S", "-c", _START, str(version.library)]
    command += ["--paths", str(version.home / "paths.json"), "--run-dir", str(places.run_dir), "ensure-agent"]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
