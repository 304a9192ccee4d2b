"""The machine all tests of this directory share: built, with the package installed, and booted once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.vm.machine import Machine

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("PBSDOCK_VM_CACHE", "/var/cache/pbsdock-vm"))
RESULTS = Path(os.environ.get("PBSDOCK_VM_RESULTS", "/var/tmp/pbsdock-vm-results"))
IMAGE = "pbsdock-vm/busybox:1"
MOM_PRIV = "/var/spool/torque/mom_priv"

# What is run inside the machine is collected there and nowhere else.
collect_ignore = [] if "PBSDOCK_TEST_INSTALLED" in os.environ else ["inside"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `make test-v2` has time for: not collected, so that it does not look like a skip."""
    if os.environ.get("PBSDOCK_VM") == "full":
        return
    left_out = [one for one in items if one.get_closest_marker("full")]
    if left_out:
        items[:] = [one for one in items if one not in left_out]
        config.hook.pytest_deselected(items=left_out)


def _said(*command: str, doing: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"there is no virtual machine to test in: {doing} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def _base() -> Path:
    """The machine's kernel and root, built anew when what they are made from changes; older ones go."""
    inputs = sorted(one for one in (HERE / "guest").rglob("*") if one.is_file())
    digest = hashlib.sha256()
    for path in (HERE / "build.sh", *inputs):
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    kernel = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, check=False).stdout
    digest.update(kernel)
    base = CACHE / f"base-{digest.hexdigest()[:16]}"
    if not (base / "root.ext4").exists():
        for old in CACHE.glob("base-*"):
            shutil.rmtree(old)
        _said("bash", str(HERE / "build.sh"), str(base), doing="building its kernel and root")
    return base


class Lab:
    """The machine, and what is asked of it again and again."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.run = machine.run
        self.check = machine.check

    def until(self, what: str, command: str, seconds: float = 120.0) -> str:
        """Repeat a command until it succeeds; returns what it printed."""
        deadline = time.monotonic() + seconds
        while (result := self.run(command)).status != 0:
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}; `{command}` said: {result.out}")
            time.sleep(0.5)
        return result.out

    def job(self, unit: str, body: str, resources: str = "nodes=1:ppn=1,mem=64mb") -> None:
        """Start a job from a unit of its own, as mom's unit would, and wait until its script runs."""
        script = f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready >$HOME/{unit}\n{body}\n"
        self.check(f"cat >/home/pbsdock-a/{unit}.sh <<'END'\n{script}END\nrm -f /home/pbsdock-a/{unit}")
        self.check(
            f"systemd-run --quiet --collect --unit={unit} /opt/pbsdock/bin/pbsdock try --user pbsdock-a -l {resources} /home/pbsdock-a/{unit}.sh"
        )
        self.until(f"the job of {unit} runs", f"test -s /home/pbsdock-a/{unit}")

    def inside(self, *files: str, seconds: float = 600.0) -> str:
        """Run tests in the machine; returns pytest's summary. Fails unless all of them ran and passed."""
        result = self.run(
            f"cd /opt/src && PBSDOCK_TEST_INSTALLED={MOM_PRIV} PBSDOCK_TEST_SLOWER=10 PBSDOCK_TEST_IMAGE={IMAGE}"
            f" timeout {seconds:.0f} /opt/lab/bin/python -m pytest -p no:cacheprovider -q --durations=0 -o timeout=300"
            f" {' '.join(files)}",
            seconds + 10,
        )
        (RESULTS / "inside.log").open("a").write(result.out)
        summary = result.out.strip().splitlines()[-1] if result.out.strip() else "nothing"
        if result.status or "passed" not in summary or "skipped" in summary:
            pytest.fail(f"in the machine ({result.status}):\n{result.out[-12000:]}")
        return summary

    def left(self) -> str:
        """What of pbsdock's is there; asked again for a while, since an epilogue does not wait for the engine."""
        deadline = time.monotonic() + 40.0
        while (found := self._present()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found

    def _present(self) -> str:
        """Asked of the engine, the kernel, systemd and the file system; the agent's own units are not listed."""
        return self.check(
            "docker ps -aq; find /sys/fs/cgroup -name '*pbsdock*' ! -path '*pbsdock-agent.*';"
            " systemctl list-units --all --plain --no-legend 'pbsdock*' | grep -v '^pbsdock-agent[.]' ;"
            " ls /var/lib/pbsdock/jobs /run/pbsdock/jobs /run/pbsdock/work | grep -v -e : -e '^$'; true"
        )


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A booted machine with the package installed by its own installer and the image loaded."""
    _said("sh", str(ROOT / "tests/setup.sh"), "vm", doing="installing QEMU and the tools that build a machine")
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    began = time.monotonic()
    steps = []

    def timed(what: str, act: Callable[[], object]) -> None:
        since = time.monotonic()
        act()
        steps.append(f"{what} {time.monotonic() - since:.0f} s")

    base = CACHE
    package = Path(f"/var/tmp/pbsdock-vm-package.{os.getpid()}")

    def build() -> None:
        nonlocal base
        with (CACHE / "lock").open("w") as lock:  # one builder at a time
            fcntl.flock(lock, fcntl.LOCK_EX)
            base = _base()

    timed("base", build)
    machine = None
    try:
        timed("package", lambda: _said("bash", str(HERE / "package.sh"), str(base), str(package), str(CACHE), doing="building the package"))
        since = time.monotonic()
        machine = Machine(base, package)
        steps.append(f"boot {time.monotonic() - since:.0f} s")
        lab = Lab(machine)
        # Mom's unit is not there, its directory is: the installer asks for no more.
        timed("install", lambda: lab.check(
            f"mkdir -p {MOM_PRIV}/jobs && /opt/src/install.sh --mom-priv {MOM_PRIV} --wheels /opt/wheels >/root/install.log 2>&1"
            " || { cat /root/install.log; exit 1; }", 300.0
        ))  # fmt: skip
        timed("image", lambda: lab.check("docker load -qi /opt/images/busybox.tar && useradd -m -s /bin/sh pbsdock-a && sync"))
        (RESULTS / "steps").write_text(", ".join(steps) + "\n")
        yield lab
        try:
            machine.fetch("var/log/pbsdock root/install.log", RESULTS)
            (RESULTS / "journal").write_text(lab.check("journalctl --no-pager -q", 120.0))
        finally:
            (RESULTS / "commands").write_text("\n".join(machine.commands) + "\n")
            (RESULTS / "console").write_text(machine.console())
            with (RESULTS / "steps").open("a") as file:
                file.write(f"{time.monotonic() - began:.0f} s in all\n")
    finally:
        if machine is not None:
            machine.close()
        package.unlink(missing_ok=True)
