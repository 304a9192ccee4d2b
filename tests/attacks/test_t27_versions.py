"""T27: escapes that are known. None is tried here, where the engine is everybody's; their versions are told instead,
and nothing runs from files that others than root could have exchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from pbsdock.admin.doctor.engine import judge_versions
from tests.conftest import USERS, Instance
from tests.support.attack import works

SAFE = {"Engine": "28.2.2", "containerd": "1.7.29", "runc": "1.3.3"}


@pytest.mark.parametrize(
    ("component", "version", "well", "says"),
    [
        ("runc", "1.3.3", True, "1.3.3 has none of the known escapes"),
        ("runc", "1.2.8", True, "1.2.8 has none of the known escapes"),
        ("runc", "1.4.0", True, "1.4.0 has none of the known escapes"),
        ("runc", "1.2.7", False, "CVE-2025-31133"),
        ("runc", "1.3.2", False, "CVE-2025-31133"),
        ("runc", "1.1.11", False, "CVE-2024-21626"),
        ("runc", "1.0.0-rc6", False, "CVE-2024-21626"),
        ("runc", "1.1.5+ds1", True, "is a distribution's: see to its own mending of CVE-2024-21626"),
        ("containerd", "1.6.0", False, "CVE-2022-23648"),
        ("containerd", "1.3.8", False, "CVE-2020-15257"),
        ("Engine", "20.10.17", False, "CVE-2022-36109"),
        ("Engine", "20.10.18", True, "none of the known escapes"),
        ("Engine", "19.03.15", False, "CVE-2022-36109"),
        ("Engine", "", False, "cannot be read"),
        ("Engine", "master", False, "cannot be read"),
    ],
)
def test_table(component: str, version: str, well: bool, says: str) -> None:
    """A series' own mended version counts, later series are mended, earlier ones are not."""
    (found,) = (one for one in judge_versions({**SAFE, component: version}) if one.part == component)

    assert found.well is well, found.seen
    assert says in found.seen


@pytest.mark.engine
def test_doctor_tells(instance: Instance) -> None:
    """On this node: a line for each component, the socket and the files; a user may not ask."""
    done = instance.command("doctor", "engine", "--json")
    found = {(one["part"], one["step"]): one["well"] for one in json.loads(done.stdout)}
    denied = instance.command("doctor", "engine", user=USERS[0], group=USERS[0], extra_groups=[])

    assert set(found) >= {("Engine", "version"), ("containerd", "version"), ("runc", "version"), ("files", "trust")}
    assert found["files", "trust"]
    assert done.returncode == (0 if all(found.values()) else 1)
    assert (denied.returncode, denied.stdout) == (1, "")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("opt/pbsdock/hooks", "mode"),
        ("opt", "mode"),
        ("opt/pbsdock/hooks/run", "owner"),
        ("mom_priv", "mode"),
        ("var/lib", "owner"),
        ("opt/pbsdock/current/venv/lib", "mode"),
        ("opt/pbsdock/current/hooks/prologue", "owner"),
        ("opt/pbsdock/versions", "mode"),
    ],
)
def test_files_others_can_change(instance: Instance, what: str, how: str) -> None:
    """An agent does not start from them: the node goes out of service with the component's name, and comes back."""
    path = (instance.root / what).resolve()
    before = path.stat()
    instance.kill_agent()
    if how == "mode":
        path.chmod(before.st_mode | 0o002)
    else:
        shutil.chown(path, USERS[0])
    try:
        told = instance.command("doctor", "engine").stdout
        agent = subprocess.run(
            [str(instance.root / "opt/pbsdock/bin/pbsdock-agent"), "--foreground"],
            timeout=30,
            check=False,
            capture_output=True,
        )
    finally:
        os.chown(path, before.st_uid, before.st_gid)
        path.chmod(before.st_mode)
    flag = (instance.run_dir / "unhealthy").read_text()
    (instance.run_dir / "unhealthy").unlink()

    assert f": {path} " in next(line for line in told.splitlines() if line.startswith("NOT files trust: "))
    assert agent.returncode == 1
    assert flag.startswith("pbsdock does not run from files others can change: ")
    assert f": {path} " in flag
    assert works(instance)
