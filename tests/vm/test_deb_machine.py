"""The Debian package where it is made for: a Debian with systemd and an engine, and jobs that run meanwhile."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.base import HERE, SUITES, BuildError, run_builder
from tests.vm.lab import IMAGE, MOM_PRIV, Lab
from tests.vm.packages import build

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]
_WAITS = "until [ -e $HOME/go-$PBS_JOBNAME ]; do sleep 0.5; done; echo over >$HOME/over-$PBS_JOBNAME"
_DPKG_S = 900.0  # all packages anew, emulated


class PackagedLab(Lab):
    """A machine on whose second disk are both versions of the package; nothing is installed."""

    def _make_disk(self) -> None:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
            top = Path(made) / "opt"
            (top / "images").mkdir(parents=True)
            packages = build(Path(made))
            shutil.copy(packages.now, top / "now.deb")
            shutil.copy(packages.later, top / "later.deb")
            for command in (
                ["sh", str(HERE.parent / "image.sh"), IMAGE],
                ["docker", "save", "-o", str(top / "images/busybox.tar"), IMAGE],
                ["docker", "rmi", IMAGE],
                ["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(top), str(self.package), "900M"],
            ):
                run_builder(*command, doing="making the disk with the packages")

    def _install(self) -> None:
        self.check(f"mkdir -p {MOM_PRIV}/jobs && echo '$loglevel 3' >{MOM_PRIV}/config")


@pytest.fixture(scope="module", params=SUITES)
def lab(request: pytest.FixtureRequest) -> Iterator[PackagedLab]:
    """The machine."""
    try:
        lab = PackagedLab(request.param)
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)
    yield lab
    lab.close()


def _agent_is_of(lab: Lab, version: str) -> None:
    """The service runs, and from the version in force."""
    home = lab.check("readlink -f /opt/pbsdock/current").strip()
    assert Path(home).name.startswith(f"{version}-")
    lab.until(
        "the agent answers", "pbsdock ps >/dev/null && systemctl is-active --quiet pbsdock-agent pbsdock-agent.socket"
    )
    assert home in lab.check("tr '\\0' ' ' </proc/$(systemctl show -P MainPID pbsdock-agent)/cmdline")


def _let_end(lab: Lab, unit: str) -> None:
    """Let a job that was begun by ``lab.job`` end: it has not been touched by what was done meanwhile."""
    lab.check(f"test ! -e /home/pbsdock-a/over-{unit}; su pbsdock-a -c 'touch ~/go-{unit}'")
    lab.until("the job ends", f"grep -q over /home/pbsdock-a/over-{unit} && ! systemctl is-active --quiet {unit}")
    assert lab.left() == ""


def test_its_life_with_systemd(lab: Lab) -> None:
    """Installed, upgraded, rolled back, removed and purged; a job runs over each exchange of versions."""

    def begin(unit: str) -> None:
        lab.job(unit, f"PBS_JOBNAME={unit}; {_WAITS}")

    said = lab.check("dpkg -i /opt/now.deb", _DPKG_S)
    assert "the agent is a systemd service" in said
    assert "pbsdock is installed correctly" in lab.check("pbsdock setup check")
    _agent_is_of(lab, "0.1.0")
    begin("first")

    lab.check("dpkg -i /opt/later.deb", _DPKG_S)
    _agent_is_of(lab, "0.1.0.1")
    assert "pbsdock is installed correctly" in lab.check("pbsdock setup check")
    _let_end(lab, "first")
    begin("second")

    lab.check("pbsdock setup rollback")
    _agent_is_of(lab, "0.1.0")
    _let_end(lab, "second")

    lab.check("dpkg -r pbsdock")
    assert lab.check(f"cat {MOM_PRIV}/config; ls {MOM_PRIV}") == "$loglevel 3\nconfig\njobs\n"
    assert (
        lab.check(
            "systemctl list-unit-files --no-legend 'pbsdock*'; systemctl list-units --all --plain --no-legend 'pbsdock*'"
        )
        == ""
    )
    assert lab.check("systemctl list-units --failed --plain --no-legend") == ""
    lab.check("test -s /etc/pbsdock/pbsdock.toml && test -s /var/log/pbsdock/events.jsonl")
    lab.check("dpkg -P pbsdock")
    left = lab.check(
        "find / -xdev -name '*pbsdock*' ! -path '/proc/*' ! -path '/home/*' ! -path '/var/lib/docker/*'; find /sys/fs/cgroup /run -name '*pbsdock*'; ls /opt"
    )
    assert left == "images\nlater.deb\nlost+found\nnow.deb\n"
