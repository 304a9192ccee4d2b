"""The machine with the package installed, and what is asked of it again and again."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm.base import CACHE, HERE, built, run_builder
from tests.vm.machine import Machine, MachineError, MachineLost, Result

RESULTS = Path(os.environ.get("PBSDOCK_VM_RESULTS", "/var/tmp/pbsdock-vm-results"))
IMAGE = "pbsdock-vm/busybox:1"
MOM_PRIV = "/var/spool/torque/mom_priv"

_SLOWER = 10.0  # than outside: by so much the tests in the machine wait longer
_INSTALL_S = 35.0  # what the installation takes on two processors: who takes longer is given more of all times
_SCALE = 4.0


class Lab:
    """One machine at a time of one of Debian's suites, built and installed at once, removed by :meth:`close`."""

    kind = ""  # what tells its results from those of other machines of the suite
    manager = ("--mom-priv", MOM_PRIV)  # the installer's option

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.results = RESULTS / f"{suite}{self.kind}"
        shutil.rmtree(self.results, ignore_errors=True)
        self.results.mkdir(parents=True)
        self.lost = ""  # what was found out about the one that had to be replaced
        self.scale = 1.0
        self.package = Path(f"/var/tmp/pbsdock-vm-package{self.kind}.{os.getpid()}")
        self._machine: Machine | None = None
        self._commands: list[str] = []
        self._began = time.monotonic()
        try:
            with self._step("base"):
                self.base = built(suite)
            with self._step("package"):
                self._make_disk()
            try:
                self._start()
            except MachineLost as lost:
                self.again(lost)
        except BaseException:
            self.close()
            raise

    # -- the machine --------------------------------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        if self._machine is None:
            raise MachineError("there is no machine any more")
        return self._machine

    def again(self, lost: MachineLost) -> None:
        """Take another machine for one that was lost, once: raises *lost* the second time."""
        if self.lost:
            raise lost
        self.lost = str(lost)
        (self.results / "lost").write_text(self.lost)
        self._end()
        self._start()

    def close(self) -> None:
        """Keep what tells how it went, and end the machine."""
        try:
            if self._machine is not None and not self._machine.lost:
                self.machine.fetch("var/log/pbsdock root/install.log", self.results)
                (self.results / "journal").write_text(self.check("journalctl --no-pager -q"))
        except MachineError as error:
            (self.results / "journal").write_text(f"it could not be had: {error}")
        finally:
            self._end()
            self.package.unlink(missing_ok=True)
            self._note(f"{time.monotonic() - self._began:.0f} s in all")

    def _start(self) -> None:
        with self._step("boot"):
            self._machine = Machine(self.base, self.package)
        began = time.monotonic()
        with self._step("install"):
            self._install()
        self.scale = min(_SCALE, max(1.0, (time.monotonic() - began) / _INSTALL_S))
        with self._step("image"):
            self.check("docker load -qi /opt/images/busybox.tar && useradd -m -s /bin/sh pbsdock-a && sync", 300.0)

    def _make_disk(self) -> None:
        """Make ``package``, the disk that is the machine's /opt. Raises BuildError."""
        command = ["bash", str(HERE / "package.sh"), str(self.base), str(self.package), str(CACHE), *self.manager]
        run_builder(*command, doing="building the package")

    def _install(self) -> None:
        # Mom's unit is not there, its directory is: the installer asks for no more.
        self.check(
            f"mkdir -p {MOM_PRIV}/jobs && /opt/src/install.sh --mom-priv {MOM_PRIV} --wheels /opt/wheels >/root/install.log 2>&1"
            " || { cat /root/install.log; exit 1; }",
            600.0,
        )

    def _end(self) -> None:
        if self._machine is not None:
            self._commands += [*self._machine.commands, ""]
            (self.results / "commands").write_text("\n".join(self._commands))
            (self.results / "console").write_text(self._machine.console())
            self._machine.close()
            self._machine = None

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        since = time.monotonic()
        yield
        self._note(f"{what} {time.monotonic() - since:.0f} s")

    def _note(self, text: str) -> None:
        with (self.results / "steps").open("a") as file:
            file.write(text + "\n")

    # -- what is asked of it ------------------------------------------------------------------------------------

    def run(self, command: str, timeout_s: float = 120.0) -> Result:
        return self.machine.run(command, timeout_s * self.scale)

    def check(self, command: str, timeout_s: float = 120.0) -> str:
        return self.machine.check(command, timeout_s * self.scale)

    def until(self, what: str, command: str, seconds: float = 120.0) -> str:
        """Repeat a command until it succeeds; returns what it printed."""
        deadline = time.monotonic() + seconds * self.scale
        while (result := self.run(command)).status != 0:
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds * self.scale:g} s: {what}; `{command}` said: {result.out}")
            time.sleep(0.5)
        return result.out

    def job(self, unit: str, body: str, resources: str = "nodes=1:ppn=1,mem=64mb", directive: str = "") -> None:
        """Start a job from a unit of its own, as mom's unit would, and wait until its script runs."""
        script = f"#!/bin/sh\n#DOCKER {directive} {IMAGE}\necho ready >$HOME/{unit}\n{body}\n"
        self.check(f"cat >/home/pbsdock-a/{unit}.sh <<'END'\n{script}END\nrm -f /home/pbsdock-a/{unit}")
        self.check(
            f"systemd-run --quiet --collect --unit={unit} /opt/pbsdock/bin/pbsdock try --user pbsdock-a -l {resources} /home/pbsdock-a/{unit}.sh"
        )
        self.until(f"the job of {unit} runs", f"test -s /home/pbsdock-a/{unit}")

    def inside(self, *files: str, seconds: float = 600.0, config: str = "") -> str:
        """Run tests in the machine; returns pytest's summary. Fails unless all of them ran and passed."""
        result = self.run(
            f"cd /opt/src && PBSDOCK_TEST_INSTALLED={MOM_PRIV} PBSDOCK_TEST_SLOWER={_SLOWER * self.scale:.0f} PBSDOCK_TEST_IMAGE={IMAGE}"
            f" PBSDOCK_TEST_CONFIG={shlex.quote(config)}"
            f" /opt/lab/bin/python -m pytest -p no:cacheprovider -q --tb=short --durations=0 -o timeout={300 * self.scale:.0f}"
            f" {' '.join(files)}",
            seconds,
        )
        with (self.results / "inside.log").open("a") as log:
            log.write(result.out)
        summary = result.out.strip().splitlines()[-1] if result.out.strip() else "nothing"
        if result.status or "passed" not in summary or "skipped" in summary:
            pytest.fail(f"in the machine ({result.status}):\n{result.out[-8000:]}", pytrace=False)
        return summary

    def left(self) -> str:
        """What of pbsdock's is there; asked again for a while, since an epilogue does not wait for the engine."""
        deadline = time.monotonic() + 40.0 * self.scale
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
