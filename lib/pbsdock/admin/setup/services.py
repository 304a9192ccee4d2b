"""systemd units, tmpfiles.d and logrotate. An instance below --root has none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from pbsdock.admin.setup.files import put, weak_spots
from pbsdock.admin.setup.host import has_systemd
from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.render import UNITS

_UNITS = Path("/etc/systemd/system")
_LOGROTATE = Path("/etc/logrotate.d/pbsdock")
_TMPFILES = Path("/etc/tmpfiles.d/pbsdock.conf")


def _systemctl(*arguments: str) -> bool:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, check=False)  # noqa: S607
    return done.returncode == 0


def install(places: Places, home: Path, say: Callable[[str], None]) -> bool:
    """Install these files from the version in *home*; returns whether systemd manages the agent."""
    if places.relocated:
        say(f"an instance below {places.root}: the first hook that needs the agent starts it")
        return False
    if _LOGROTATE.parent.is_dir():
        put(_LOGROTATE, (home / "etc/logrotate").read_text(), 0o644)
    if not has_systemd():
        say("no systemd here: the first hook that needs the agent starts it")
        return False
    put(_TMPFILES, (home / "etc/tmpfiles.conf").read_text(), 0o644)
    for unit in UNITS:
        put(_UNITS / unit, (home / "etc" / unit).read_text(), 0o644)
    _systemctl("daemon-reload")
    _systemctl("--quiet", "enable", *UNITS)
    # The socket first: an agent that a hook has started may have put its own in that place.
    _systemctl("stop", *reversed(UNITS))
    _systemctl("start", *UNITS)
    say("the agent is a systemd service: pbsdock-agent.service behind pbsdock-agent.socket")
    return True


def remove(places: Places) -> None:
    """Remove these files."""
    if places.relocated:
        return
    if (_UNITS / UNITS[1]).exists():
        _systemctl("--quiet", "disable", "--now", *UNITS)
        for unit in UNITS:
            (_UNITS / unit).unlink(missing_ok=True)
        _systemctl("daemon-reload")
    for path in (_LOGROTATE, _TMPFILES):
        path.unlink(missing_ok=True)


def stop_slice(instance: str) -> None:
    """Stop the slice of the instance's jobs; it must be empty."""
    if Path(f"/sys/fs/cgroup/{instance}.slice").is_dir():
        _systemctl("--quiet", "stop", f"{instance}.slice")


def wrong(places: Places) -> Iterator[str]:
    """A sentence for each problem of these files and units."""
    if places.relocated or not has_systemd():
        return
    for unit in UNITS:
        yield from weak_spots(_UNITS / unit, 0o644)
        if not _systemctl("--quiet", "is-enabled", unit):
            yield f"{unit} is not enabled; run: systemctl enable --now {unit}"
        if not _systemctl("--quiet", "is-active", unit):
            yield f"{unit} is not running; run: systemctl start {unit}"
