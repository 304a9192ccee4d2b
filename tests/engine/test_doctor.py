"""``pbsdock doctor`` on an installed instance with a real engine: all well, and each of several things made ill."""

from __future__ import annotations

import json
import os
import stat
import time
from typing import Any

import pytest

from tests.conftest import IMAGE, SLOWER, USERS, Instance

pytestmark = pytest.mark.engine


def _doctor(instance: Instance, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the rows by "part step"."""
    done = instance.command("doctor", *options, "--json")
    rows = json.loads(done.stdout)
    return done.returncode, {f"{row['part']} {row['step']}": row for row in rows}


def test_doctor_looks_at_everything_in_time(instance: Instance) -> None:
    """Of an instance that is well nothing of it is wrong, and the whole command takes five seconds at most."""
    assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n").exit_status == 0
    (instance.mom_priv / "jobs").mkdir(exist_ok=True)
    began = time.monotonic()
    code, rows = _doctor(instance)
    took = time.monotonic() - began

    assert took < 5.5 * SLOWER
    if any(name.endswith(" time") for name in rows):  # cut short, as it is to be; what is found says nothing then
        assert os.getloadavg()[0] > (os.cpu_count() or 1)
        pytest.skip("this host is too busy to look at everything")
    assert code < 2, [row for row in rows.values() if row["verdict"] == "wrong"]
    well = {name for name, row in rows.items() if row["verdict"] == "ok"}
    assert well >= {
        "config file",
        "config in force",
        "agent answer",
        "agent version",
        "agent ledger",
        "install files",
        "install hooks",
        "mom configuration",
        "mom job files",
        "engine answer",
        "engine fitness",
        "host kernel",
        "host cgroups",
        "first process use",
        "packages files",
        "packages lock",
        "files stale",
    }
    assert {row["part"] for row in rows.values()} >= {"server", "registries", "disk", "mounts", "accounting"}


def test_doctor_finds_what_is_ill_and_mends_what_is_safe(instance: Instance) -> None:
    """Modes and stale files; a dry run changes nothing, and configuration and hooks are never touched."""
    hook, parallel = instance.mom_priv / "prologue", instance.mom_priv / "epilogue.parallel"
    stale, young = instance.run_dir / "unhealthy.99999", instance.run_dir / "unhealthy.99998"
    saved = parallel.read_bytes()
    for file in (stale, young):
        file.write_text("x")
    os.utime(stale, (1, 1))
    hook.chmod(0o775)
    instance.state_dir.chmod(0o755)
    parallel.unlink()
    instance.config.write_text("[limits]\nspeed = 1\n")
    instance.command("drain", "--reason", "look")
    try:
        code, rows = _doctor(instance, "--fix", "--dry-run")
        assert code == 2
        assert rows["config file"]["verdict"] == "wrong"
        assert "unknown key 'limits.speed'" in rows["config file"]["seen"]
        assert rows["install hooks"]["seen"].endswith("lacks epilogue.parallel")
        assert rows["files stale"]["seen"].startswith(str(stale))
        assert rows["files modes"]["fix"] == f"chmod 700 {instance.state_dir}"
        assert rows["agent node"]["seen"] == "drained by an admin: look"
        assert stat.S_IMODE(hook.stat().st_mode) == 0o775
        assert stale.exists()

        done = instance.command("doctor", "--fix")
        assert f"fixed: remove {stale}" in done.stderr
        assert stat.S_IMODE(hook.stat().st_mode) == 0o755
        assert stat.S_IMODE(instance.state_dir.stat().st_mode) == 0o700
        assert (stale.exists(), young.exists(), parallel.exists()) == (False, True, False)
        assert "files modes" not in _doctor(instance, "site")[1]
    finally:
        instance.command("undrain")
        young.unlink()
        hook.chmod(0o755)
        parallel.write_bytes(saved)
        parallel.chmod(0o755)


def test_doctor_without_an_engine_tells_the_rest(instance: Instance) -> None:
    """In time, whatever the engine's socket does."""
    instance.configure("[engine]\nsocket = '/nowhere/docker.sock'\n")
    code, rows = _doctor(instance)

    assert code == 2
    assert rows["engine answer"]["verdict"] == "wrong"
    assert rows["host cgroups"]["verdict"] == "cannot tell"
    assert rows["packages lock"]["verdict"] == "ok"


def test_doctor_is_for_root(instance: Instance) -> None:
    """A user learns nothing of the site by it."""
    done = instance.command("doctor", user=USERS[0], group=USERS[0], extra_groups=[])

    assert (done.returncode, done.stdout) == (2, "")


def test_the_engine_alone_is_what_the_table_has(instance: Instance) -> None:
    """The same checks in the same order."""
    alone = json.loads(instance.command("doctor", "engine", "--json").stdout)
    table = json.loads(instance.command("doctor", "--json").stdout)
    rows = [row["seen"] for row in table if row["part"] == "engine"]

    assert len(alone) > 4
    assert [finding["seen"] for finding in alone if finding["well"]] == [
        seen for seen in rows if seen in {finding["seen"] for finding in alone}
    ]
