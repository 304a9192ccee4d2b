"""Fixtures: an installed instance, ordinary users, local images. They are real; nothing here stands in for anything
but pbs_mom itself (``pbsdock.trial``)."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from pbsdock.host.cgroup.systemd import escape
from pbsdock.trial import Outcome, Request, Trial, run_job
from tests.support import quick_setup
from tests.support.agents import agents, kill_agents

pytest_plugins = [
    "tests.support.cluster",
    "tests.support.laps",
    "tests.support.sisters",
    "tests.support.slurm",
    "tests.support.slurm_hosts",
    "tests.support.threats",
]
ROOT = Path(__file__).resolve().parent.parent
# Of this run alone: another run on the same engine must not lose its images when this one tidies up.
_RUN = f"pbsdock-test-{os.getpid()}"
# In the virtual machine (tests/vm) the package is installed as on any host, and the image is there already.
INSTALLED = os.environ.get("PBSDOCK_TEST_INSTALLED")
SLOWER = float(os.environ.get("PBSDOCK_TEST_SLOWER", "1"))  # emulated, everything takes its time
IMAGE = os.environ.get("PBSDOCK_TEST_IMAGE") or f"{_RUN}/busybox:1"
HOST_IMAGE = f"{_RUN}/host:1"
NO_SHELL_IMAGE = f"{_RUN}/noshell:1"
# Runs at the same time need users, and homes, of their own.
USERS = tuple(os.environ.get("PBSDOCK_TEST_USERS", "pbsdock-a pbsdock-b").split())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What validates the events of the whole run comes last. A shallow clone has no previous version to install."""
    from tests.support import previous

    items.sort(key=lambda item: "test_zz" in item.nodeid)
    left_out = [] if previous.is_known() else [item for item in items if item.get_closest_marker("previous")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@dataclass
class Instance:
    """An installed instance below a scratch root."""

    root: Path
    mom_priv: Path
    name: str
    trials: list[Trial] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.root / "run/pbsdock"

    @property
    def state_dir(self) -> Path:
        return self.root / "var/lib/pbsdock"

    @property
    def events_file(self) -> Path:
        return self.root / "var/log/pbsdock/events.jsonl"

    @property
    def config(self) -> Path:
        return self.root / "etc/pbsdock/pbsdock.toml"

    @property
    def home(self) -> Path:
        """The version in force, by its own name."""
        return (self.root / "opt/pbsdock/current").resolve()

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the installed ``pbsdock``."""
        return subprocess.run(
            [str(self.root / "opt/pbsdock/bin/pbsdock"), *arguments],
            capture_output=True,
            text=True,
            timeout=120 * SLOWER,
            check=False,
            **options,
        )

    def request(self, script: str | bytes | None, user: str = USERS[0], **options: Any) -> Request:
        data = script.encode() if isinstance(script, str) else script
        return Request(mom_priv=self.mom_priv, user=user, script=data, **options)

    def run(self, script: str | bytes | None, user: str = USERS[0], **options: Any) -> Outcome:
        """Run one job to its end."""
        return run_job(self.request(script, user, **options))

    def begin(self, script: str | bytes | None, user: str = USERS[0], **options: Any) -> Trial:
        """Start a job that is expected to get past its prologue."""
        trial = Trial(self.request(script, user, **options))
        self.trials.append(trial)
        assert trial.begin() is None
        return trial

    def end_all(self) -> None:
        """End what a failed test left running, so that the next one starts from nothing."""
        with ExitStack() as stack:  # one that does not end keeps no other from it
            while self.trials:
                stack.callback(self._end, self.trials.pop(0))

    def _end(self, trial: Trial) -> None:
        if trial.leader is not None and trial.leader.poll() is None:
            trial.request.kill_delay_s = 0.2
            trial.qdel()
            trial.finish(trial.wait())

    def events(self, job: str | None = None) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.events_file.read_text().splitlines()]
        return [one for one in found if job is None or one.get("job") == job]

    def trail(self, job: str) -> list[dict[str, Any]]:
        """All events of a job that is over; the last one may come a moment after the epilogue."""
        wait_until("the trail ends", lambda: any(one["event"] == "job.finished" for one in self.events(job)))
        return self.events(job)

    def inspect(self, job: str) -> dict[str, Any]:
        """What the engine says of a job's container."""
        client = self.engine()
        try:
            (found,) = client.api.containers(all=True, filters={"label": [f"pbsdock.job={job}"]})
            return dict(client.api.inspect_container(found["Id"]))
        finally:
            client.close()

    def engine(self) -> docker.DockerClient:
        """A client of the engine; to be closed."""
        return docker.from_env()

    def agent_pids(self) -> list[int]:
        """Supervisor and worker."""
        return agents(self.root)

    def kill_agent(self) -> None:
        """Kill both, to their end; systemd starts others at once."""
        kill_agents(self.root)

    def start_agent(self) -> None:
        """Have mom's node check start one, if anything wants one, and wait until it answers."""
        subprocess.run([str(self.root / "opt/pbsdock/hooks/node-check")], check=True, capture_output=True)
        wait_until("the agent answers", lambda: self.command("ps").returncode == 0)

    def configure(self, text: str) -> None:
        """Replace the configuration; the next hook starts an agent with it. The fixture puts the first one back."""
        wait_until("no job is being released", lambda: not self._ended())
        self.config.write_text(text)
        self.kill_agent()

    def _ended(self) -> list[str]:
        rows = json.loads(self.command("ps", "--json").stdout or "{}").get("jobs", [])
        return [one["job"] for one in rows if one["state"] in ("ended", "releasing")]

    def left(self) -> list[str]:
        """What of this instance is there, asked of the engine, the kernel and the file system, not of the ledger.

        Asked again for a while: an epilogue of a container that is over does not wait for the engine to tidy up.
        """
        deadline = time.monotonic() + 3.0 * SLOWER
        while (found := self.present()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def _cgroups(self) -> list[Path]:
        top = Path("/sys/fs/cgroup")
        if (top / "cgroup.controllers").exists():  # version 2: also what is above the jobs goes with the last one
            mine = escape(self.name)
            return [
                Path(directory) / name
                for directory, below, _files in os.walk(top)  # which passes over what is being removed meanwhile
                for name in below
                if name.startswith(mine) and "pbsdock-agent." not in name
            ]
        bases = [one / self.name for one in top.iterdir() if not one.is_symlink()]
        return [one for base in bases if base.is_dir() for one in base.iterdir() if one.is_dir()]

    def present(self) -> list[str]:
        """The same, asked once."""
        client = self.engine()
        try:
            found = [
                f"container {one['Names'][0]}"
                for one in client.api.containers(all=True)
                if one["Labels"].get("pbsdock.owner", "").startswith(self.name + "@")
            ]
        finally:
            client.close()
        found += [f"cgroup {one}" for one in self._cgroups()]
        for directory in (self.state_dir / "jobs", self.run_dir / "work", self.run_dir / "pins", self.run_dir / "jobs"):
            if directory.exists():
                found += [f"file {one}" for one in directory.iterdir()]
        return found


def wait_until(what: str, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll with a deadline, and say what was awaited. A test that is not about time leaves *seconds* as they are: enough
    for a slow machine, and they cost nothing where it holds sooner."""
    deadline = time.monotonic() + seconds * SLOWER
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def users() -> Iterator[tuple[str, ...]]:
    """Two ordinary users, one with a supplementary group. What a run that was killed left in their homes is removed,
    unless another run uses them at this moment."""
    subprocess.run(["groupadd", "-f", "pbsdock-g"], check=True)
    for name in USERS:
        try:
            pwd.getpwnam(name)
        except KeyError:
            subprocess.run(["useradd", "-m", "-s", "/bin/sh", name], check=True)
    subprocess.run(["usermod", "-a", "-G", "pbsdock-g", USERS[0]], check=True)
    with open("/run/lock/pbsdock-test-homes", "w") as lock:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in USERS:
                _clear(Path(pwd.getpwnam(name).pw_dir))
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield USERS


def _clear(directory: Path) -> None:
    _unmount_below(directory)
    for path in directory.iterdir():
        subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)


def _unmount_below(directory: Path) -> None:
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if (where := line.split()[4]).startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", where], check=True)


@pytest.fixture(scope="session")
def images() -> Iterator[None]:
    """The local images."""
    if "PBSDOCK_TEST_IMAGE" in os.environ:
        yield
        return
    try:
        subprocess.run(["sh", str(ROOT / "tests/image.sh"), IMAGE], check=True)
        subprocess.run(["sh", str(ROOT / "tests/image.sh"), NO_SHELL_IMAGE, "without-shell"], check=True)
        subprocess.run(["bash", str(ROOT / "tests/host_image.sh"), HOST_IMAGE], check=True)
        yield
    finally:
        subprocess.run(["docker", "rmi", "-f", IMAGE, HOST_IMAGE, NO_SHELL_IMAGE], capture_output=True, check=False)


def install(
    root: Path,
    *arguments: str,
    mom_priv: Path | None = None,
    packages: Path | None = None,
    slurm_conf: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run install.sh for a relocated instance; *packages* is an installed version whose packages are copied for it.

    With *slurm_conf* for Slurm.
    """
    manager = ["--slurm", str(slurm_conf)] if slurm_conf else ["--mom-priv", str(mom_priv or root / "mom_priv")]
    return subprocess.run(
        [
            *(quick_setup.command(ROOT, packages) if packages else [str(ROOT / "install.sh")]),
            *manager,
            "--root",
            str(root),
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory every component of which belongs to root."""
    path = Path(tempfile.mkdtemp(prefix="pbsdock-test.", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    _unmount_below(path)  # what a failed test left: removing it recursively would go through a pin into a user's home
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def installed(scratch: Path, users: tuple[str, ...], images: None) -> Iterator[Instance]:
    """One installation for the whole run."""
    if INSTALLED:
        yield Instance(Path("/"), Path(INSTALLED), Path("/etc/pbsdock/instance").read_text().strip())
        return
    root = scratch / "main"
    (root / "mom_priv").mkdir(parents=True)
    done = install(root)
    assert done.returncode == 0, done.stderr
    instance = Instance(root, root / "mom_priv", (root / "etc/pbsdock/instance").read_text().strip())
    yield instance
    instance.kill_agent()


@pytest.fixture
def instance(installed: Instance) -> Iterator[Instance]:
    """The installation with nothing in it, and the configuration it was installed with. Each test must leave nothing in
    it; a configuration that it leaves is replaced."""
    good = installed.config.read_text()
    with ExitStack() as stack:
        stack.callback(_put_back, installed, good)
        stack.callback(_emptied, installed)
        stack.callback(installed.end_all)
        yield installed


def _put_back(instance: Instance, config: str) -> None:
    if instance.config.read_text() != config:
        instance.configure(config)


def _emptied(instance: Instance) -> None:
    """See that nothing is left. What is left fails this test, and is reaped where that helps, for the next one."""
    try:
        wait_until("the instance is empty", lambda: not instance.left(), 20)
    except AssertionError as error:
        left = instance.left()
        instance.config.write_text("[reaper]\ngrace_s = 0\n")
        instance.kill_agent()
        instance.start_agent()
        instance.command("reap")
        raise AssertionError(f"{error}: {left}") from None
