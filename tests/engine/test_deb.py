"""The Debian package, by dpkg itself: installed below a root of its own (dpkg --root, chrootless), upgraded, purged."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import IMAGE, ROOT, Instance
from tests.support.agents import kill_agents

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


class Host:
    """A root with a package database that knows no package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("info", "updates", "triggers"):
            (root / "var/lib/dpkg" / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        (root / "var/spool/torque/mom_priv/jobs").mkdir(parents=True)

    def dpkg(self, *arguments: str) -> str:
        """What it says. Dependencies are the real host's, which this root does not know of."""
        done = subprocess.run(
            ["dpkg", f"--root={self.root}", "--force-script-chrootless,depends,confdef,confold", *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def instance(self) -> Instance:
        """To run jobs in."""
        name = (self.root / "etc/pbsdock/instance").read_text().strip()
        return Instance(self.root, self.root / "var/spool/torque/mom_priv", name)


@pytest.fixture(scope="module")
def packages(scratch: Path) -> Iterator[tuple[Path, Path]]:
    """Two releases: this checkout, and one whose version and whose shipped configuration are later."""
    out = scratch / "deb"
    wheels = out / "wheels"
    out.mkdir()
    subprocess.run([str(ROOT / "install.sh"), "--fetch", str(wheels)], check=True, capture_output=True)
    later = out / "later"
    shutil.copytree(
        ROOT, later, ignore=shutil.ignore_patterns(".venv", ".git", "__pycache__", "*.egg-info", ".mypy_cache")
    )
    setup = later / "setup.cfg"
    setup.write_text(setup.read_text().replace("version = 0.1.0", "version = 0.1.1"))
    policy = later / "etc/pbsdock.toml"
    policy.write_text("# A later release.\n" + policy.read_text())
    made = []
    for source, where in ((ROOT, out / "1"), (later, out / "2")):
        done = subprocess.run(
            ["sh", str(source / "deb/build.sh"), str(where)],
            env={**os.environ, "PBSDOCK_WHEELS": str(wheels), "PBSDOCK_DEB_COMPRESSION": "none"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        made.append(Path(done.stdout.strip()))
    yield made[0], made[1]
    shutil.rmtree(out)


def test_a_package_is_well_made(packages: tuple[Path, Path]) -> None:
    """Root's files alone, none for others to write; the configuration is dpkg's to keep, and hashes are right."""
    listed = subprocess.run(["dpkg-deb", "-c", str(packages[0])], capture_output=True, text=True, check=True).stdout
    assert all(line.split()[1] == "root/root" for line in listed.splitlines())
    assert not [line for line in listed.splitlines() if line[0] != "l" and (line[5] == "w" or line[8] == "w")]
    assert "./usr/share/man/man1/pbsdock-drain.1.gz" in listed
    assert "__pycache__" not in listed
    fields = subprocess.run(["dpkg-deb", "-f", str(packages[0])], capture_output=True, text=True, check=True).stdout
    assert "Version: 0.1.0\n" in fields


def test_install_upgrade_remove_and_purge(
    packages: tuple[Path, Path], scratch: Path, users: tuple[str, ...], images: None
) -> None:
    """Jobs run after each; what an admin has written stays until the purge, after which nothing is left."""
    host = Host(scratch / "deb-host")
    try:
        host.dpkg("-i", str(packages[0]))
        instance = host.instance
        assert instance.home.name.startswith("0.1.0-")
        assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho well\n").stdout == b"well\n"
        instance.config.write_text("# Ours.\n" + instance.config.read_text())

        sleeper = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 300\n")
        host.dpkg("-i", str(packages[1]))
        assert instance.home.name.startswith("0.1.1-")
        assert instance.config.read_text().startswith("# Ours.\n")
        assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho well\n").stdout == b"well\n"
        sleeper.qdel()
        assert sleeper.finish(sleeper.wait()).exit_status == 271
        assert not instance.left()

        host.dpkg("--remove", "pbsdock")
        mom_priv = host.root / "var/spool/torque/mom_priv"
        assert not (mom_priv / "prologue").exists()
        assert "pbsdock" not in (mom_priv / "config").read_text()
        assert instance.config.read_text().startswith("# Ours.\n")
        host.dpkg("--purge", "pbsdock")
        assert [str(path) for path in host.root.rglob("*pbsdock*") if "var/lib/dpkg" not in str(path)] == []
    finally:
        kill_agents(host.root)
        shutil.rmtree(host.root, ignore_errors=True)


def test_a_host_without_mom_is_told_what_to_do(packages: tuple[Path, Path], scratch: Path) -> None:
    """And nothing is installed until there is one."""
    host = Host(scratch / "deb-bare")
    try:
        shutil.rmtree(host.root / "var/spool")
        assert "write it into /etc/default/pbsdock" in host.dpkg("-i", str(packages[0]))
        assert not (host.root / "opt/pbsdock").exists()
        (host.root / "elsewhere/mom_priv").mkdir(parents=True)
        (host.root / "etc/default/pbsdock").write_text("MOM_PRIV=/elsewhere/mom_priv\n")
        host.dpkg("--purge", "pbsdock")
    finally:
        kill_agents(host.root)
        shutil.rmtree(host.root, ignore_errors=True)
