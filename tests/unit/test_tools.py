"""Where Torque's client programs are found."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pbsdock.rm.torque.tools import find, moms_prefixes


def _program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_where_the_site_says(tmp_path: Path) -> None:
    """There and nowhere else."""
    own, moms = _program(tmp_path / "site/pbs_track"), _program(tmp_path / "mom/bin/pbs_track")

    assert find("pbs_track", str(own.parent)) == str(own)
    assert find("pbs_track", str(tmp_path), lambda: [str(tmp_path / "mom")]) == ""
    assert find("pbs_track_x", "", lambda: [str(tmp_path / "mom")]) == ""
    assert find(moms.name, "", lambda: [str(tmp_path), str(tmp_path / "mom")]) == str(moms)


def test_beside_the_running_mom(tmp_path: Path) -> None:
    """A process of root's by mom's name; a program of that name in /opt/site/sbin leads to /opt/site."""
    mom = tmp_path / "site/sbin/pbs_mom"
    mom.parent.mkdir(parents=True)
    shutil.copy2(shutil.which("sleep") or "/bin/sleep", mom)
    process = subprocess.Popen([mom, "60"])
    try:
        assert str(tmp_path / "site") in moms_prefixes()
    finally:
        process.kill()
        process.wait()
    assert str(tmp_path / "site") not in moms_prefixes()
