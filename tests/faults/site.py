"""Where faults are tried: an engine, a gateway and two instances of its own, and the agent that stops where told."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pbsdock.trial import Request, Trial
from tests.conftest import ROOT, Instance, install, wait_until
from tests.faults.checker import World
from tests.support.agents import running
from tests.support.engine import OwnEngine
from tests.support.ports import free_low_port
from tests.support.rgw import Gateway

IMAGE = "faults/busybox:1"
# Of this run alone: another run on this host takes its users away when it tidies up.
VICTIM, BYSTANDER = (f"pbsdock-{letter}{os.getpid()}" for letter in "vb")
LAUNCHER = Path(__file__).parent / "launcher.py"
STATE_BYTES, RUN_BYTES = 8 << 20, 8 << 20  # with the history of all jobs of a run


class Site:
    """Everything one run of the matrix needs. Other people's suites on this host share none of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gateway = Gateway(root / "gateway", memory_gib=1)
        self.engine = OwnEngine(root / "engine")
        self.control = root / "control"
        self.instance: Instance
        self.other: Instance
        self._made: list[Instance] = []
        self.world: World
        self._fresh: list[int] = []

    # -- making it ----------------------------------------------------------------------------------------------------

    def make(self, packages: Path) -> None:
        """Start and install everything; *packages* is an installed version whose packages are copied."""
        for name in (VICTIM, BYSTANDER):
            subprocess.run(["useradd", "-m", "-s", "/bin/sh", name], capture_output=True, check=False)
        self.control.mkdir()
        with ThreadPoolExecutor(4) as pool:
            parts = [pool.submit(self.gateway.start), pool.submit(self.engine.start, "--live-restore")]
            installed = [pool.submit(self._install, name, packages) for name in ("main", "other")]
            for one in parts:
                one.result()
            self.instance, self.other = (one.result() for one in installed)
        environment = {**os.environ, "DOCKER_HOST": f"unix://{self.engine.socket}"}
        subprocess.run(["sh", str(ROOT / "tests/image.sh"), IMAGE], check=True, env=environment)
        client = self.gateway.client(*self.gateway.user("alice"))
        client.create_bucket(Bucket="alice-in")
        client.put_object(Bucket="alice-in", Key="in", Body=b"out\n")
        identity = self.gateway.identity(self.root / "role.toml", "pbsdock-node-role", "role")
        store = (
            f'[s3.ceph]\nendpoint = "{self.gateway.endpoint}"\nidentity = "{identity}"\nallow = ["alice-*"]\n'
            f"timeout_s = 2\n[staging]\npatience_s = 3\n[agent]\ncredentials_port = {free_low_port()}\n"
        )
        self.instance.config.write_text(self.instance.config.read_text() + store)
        uids = [pwd.getpwnam(name).pw_uid for name in (VICTIM, BYSTANDER)]
        self.world = World(
            self.engine, [self.instance.root, self.other.root], [self.instance.name, self.other.name], uids, self.roles
        )
        for instance in (self.instance, self.other):  # what the first job makes is made
            done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n", BYSTANDER)
            assert done.exit_status == 0, done.stderr
        self.start_agent()

    def configure(self, more: str) -> str:
        """Add to the main instance's configuration; returns what it was. The next agent has it."""
        good = self.instance.config.read_text()
        self.instance.config.write_text(good + more)
        self.start_agent()
        return good

    def restore(self, config: str) -> None:
        """Put a configuration back."""
        self.instance.config.write_text(config)
        self.start_agent()

    def _install(self, name: str, packages: Path) -> Instance:
        root = self.root / name
        (root / "mom_priv").mkdir(parents=True)
        (root / "etc/pbsdock").mkdir(parents=True)
        for directory, size in (("var/lib/pbsdock", STATE_BYTES), ("run/pbsdock", RUN_BYTES)):
            (root / directory).mkdir(parents=True)
            mount_tmpfs(root / directory, size)
        (root / "etc/pbsdock/pbsdock.toml").write_text(
            f'[engine]\nsocket = "{self.engine.socket}"\ntimeout_s = 2\n[health]\nhold_s = 1\n'
            f"[reaper]\nperiod_s = 3600\ngrace_s = 1\n"
        )
        done = install(root, packages=packages)
        assert done.returncode == 0, done.stderr
        made = Instance(root, root / "mom_priv", (root / "etc/pbsdock/instance").read_text().strip())
        self._made.append(made)
        return made

    def unmake(self) -> None:
        """Stop and remove everything, as far as it was made."""
        for instance in self._made:
            instance.end_all()
            instance.command("reap")
            # A node check before may have started one that is not to be seen yet.
            wait_until("no agent is there or comes", lambda instance=instance: _no_agent(instance), 30)  # type: ignore[misc]
        for user in (VICTIM, BYSTANDER):  # what an interrupted test leaves
            subprocess.run(["pkill", "-KILL", "-u", user], check=False)
        self.engine.unmake()
        self.gateway.stop()
        below = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in (one for one in reversed(below) if one.startswith(f"{self.root}/")):
            subprocess.run(["umount", "-l", place], capture_output=True, check=False)
        for instance in self._made:
            for top in Path("/sys/fs/cgroup").glob(f"*/{instance.name}"):
                if not top.parent.is_symlink():
                    for here, _, _ in os.walk(top, topdown=False):
                        os.rmdir(here)
        for name in (VICTIM, BYSTANDER):
            subprocess.run(["userdel", "-r", name], capture_output=True, check=False)

    def roles(self) -> list[str]:
        """What the gateway has of any job; asked with its own tool."""
        try:
            return [one["RoleName"] for one in self.gateway.admin("role", "list")]
        except RuntimeError as error:
            assert "No such file or directory" in str(error)  # its way to say that there is none
            return []

    # -- the agent ----------------------------------------------------------------------------------------------------

    def start_agent(self, boot: str = "") -> None:
        """Put the agent that stops where told in the place of whatever runs; *boot* is its boot id if not this one."""
        self.instance.kill_agent()
        self.disarm()
        if boot:
            (self.control / "boot").write_text(boot)
        paths = self.instance.home / "paths.json"
        places = json.loads(paths.read_text())
        command = [
            places["python"],
            "-I",
            "-S",
            str(LAUNCHER),
            places["lib"],
            str(self.control),
            "pbsdock.agent.daemon",
            "--paths",
            str(paths),
        ]
        subprocess.run(command, check=True, env={}, stdin=subprocess.DEVNULL, timeout=30)
        wait_until("the agent answers", self.agent_answers, 30)
        self._fresh = self.instance.agent_pids()

    def ready(self) -> None:
        """See to it that the agent is the one that stops where told, and has not died before.

        A supervisor waits the longer the more often its worker has died.
        """
        if self.agent_is_ours() and self._fresh == self.instance.agent_pids():
            return
        self.start_agent()

    def agent_answers(self) -> bool:
        """Whether somebody serves the instance's socket."""
        return self.instance.command("ps").returncode == 0

    def agent_is_ours(self) -> bool:
        """Whether it is the one that stops where told: a hook that found none has started a plain one."""
        pids = self.instance.agent_pids()
        return len(pids) == 2 and all(b"launcher.py" in Path(f"/proc/{one}/cmdline").read_bytes() for one in pids)

    def worker(self) -> int:
        """The agent's working process."""
        return self.instance.agent_pids()[-1]

    def node_check(self) -> str:
        """Run mom's node check, which starts an agent where one is needed; returns what it says."""
        hook = self.instance.root / "opt/pbsdock/hooks/node-check"
        return subprocess.run([str(hook)], check=True, capture_output=True, text=True, timeout=60).stdout

    def reap(self, seconds: float = 20.0) -> dict[str, Any]:
        """Have passes made until one can be made; meanwhile the node is checked, as mom does again and again."""
        found: dict[str, Any] = {"blocked": "never asked"}

        def made() -> bool:
            nonlocal found
            if not (said := self.instance.command("reap", "--json").stdout):
                self.node_check()  # the one before may have seen an agent that was about to end
            found = json.loads(said) if said.startswith("{") else {"blocked": "no answer"}
            return not found["blocked"]

        try:
            wait_until("the reaper can make a pass", made, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {found['blocked']}; agents {self.instance.agent_pids()}") from None
        return found

    # -- stopping it where told ---------------------------------------------------------------------------------------

    def arm(self, point: str, when: str, act: str) -> None:
        """Have *act* done the next time a job gets there."""
        self.disarm()
        (self.control / "arm.new").write_text(f"{point} {when} {act}\n")
        (self.control / "arm.new").rename(self.control / "arm")

    def disarm(self) -> None:
        """Nothing is done anywhere."""
        for name in ("arm", "reached", "go", "gone", "clock", "boot"):
            (self.control / name).unlink(missing_ok=True)

    def reached(self) -> bool:
        """Whether a job got there."""
        return (self.control / "reached").exists()

    def go(self) -> None:
        """Let it go on; nothing happens if it is not there any more."""
        if not self.reached():
            return
        (self.control / "go").touch()
        deadline = time.monotonic() + 3.0
        while (self.control / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.005)

    @contextmanager
    def traced(self) -> Iterator[list[list[str]]]:
        """Collect the steps that are taken meanwhile, as the launcher notes them, split into words."""
        trace = self.control / "trace"
        trace.touch()
        found: list[list[str]] = []
        try:
            yield found
        finally:
            found += [line.split() for line in trace.read_text().splitlines()]
            trace.unlink()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def victim(self, body: str, directive: str) -> Trial:
        """A job of the instance that faults are injected into."""
        script = f"#!/bin/sh\n#DOCKER {directive}\n{body}\n".encode()
        return Trial(Request(mom_priv=self.instance.mom_priv, user=VICTIM, script=script, kill_delay_s=1))


def _no_agent(instance: Instance) -> bool:
    instance.kill_agent()
    root = str(instance.root)
    return not running(root, "agent.daemon") and not running(root, "ensure-agent")


def mount_tmpfs(directory: Path, size: int) -> None:
    """A real file system that is soon full."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "pbsdock-faults", str(directory)], check=True
    )


def kill_all(pids: list[int]) -> None:
    """SIGKILL; who is gone already is no error."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
