"""One run: an engine of its own, four attackers with three programs each, and everybody else."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, USERS, Instance, wait_until
from tests.fuzz import invariants
from tests.fuzz.actions import TEMPERS
from tests.fuzz.invariants import Row, Watch
from tests.fuzz.jobs import LIFE_S, Bystander, Honest, Slot, World
from tests.support.attack import library
from tests.support.engine import OwnEngine

IMAGE = "fuzz/busybox:1"
# Of this run alone, and gone with it.
_MORE = tuple(f"pbsdock-{letter}{os.getpid()}" for letter in "cd")
HONEST = f"pbsdock-e{os.getpid()}"
ATTACKERS = (*USERS, *_MORE)
_GRACE_S = 15.0
_COLLECTED_S = 135.0  # see _warm_up: an engine collects its garbage every two minutes at least
# When they begin, in parts of the run: who takes all of the agent's time keeps the others from trying the rest of it.
_BEGIN = {"talker": 0.0, "starter": 0.0, "hoarder": 0.35, "planned": 0.6}
_CONFIG = """[images]
pull = "never"
[engine]
socket = "{socket}"
[reaper]
period_s = 5
grace_s = 3
"""


@dataclass(frozen=True)
class Report:
    """What came of a run."""

    text: str
    broken: list[str]


class Fuzz:
    """One run against *instance*, which has no job; everything else of it is below *root*."""

    def __init__(self, instance: Instance, root: Path, seconds: float, seed: str) -> None:
        self.instance, self.root, self.seconds, self.seed = instance, root, seconds, seed
        self.engine = OwnEngine(root / "engine")
        self.shared = root / "shared"
        self.closed = root / "closed"
        self.token = secrets.token_hex(16)
        self.config = instance.config.read_text()
        self.log_from = 0  # events of this run come after so many
        self.agent: subprocess.Popen[bytes]
        self.world: World
        self.took: dict[str, float] = {}
        self._lap = time.monotonic()
        self.stop, self.calm = threading.Event(), threading.Event()  # for attackers' jobs, and for the honest user's
        self.slots: list[Slot] = []
        self.attackers: list[subprocess.Popen[str]] = []
        self._docker_host = os.environ.get("DOCKER_HOST")

    def _done(self, what: str) -> None:
        now = time.monotonic()
        self.took[what], self._lap = now - self._lap, now

    # -- making it ----------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Start and install everything."""
        for name in (*_MORE, HONEST):
            subprocess.run(["useradd", "-m", "-s", "/bin/sh", name], check=True)
        self._done("users")
        self.engine.start()
        self._done("engine")
        os.environ["DOCKER_HOST"] = f"unix://{self.engine.socket}"  # also what Instance asks what is left
        subprocess.run(["sh", str(ROOT / "tests/image.sh"), IMAGE], check=True)
        self.instance.configure(_CONFIG.format(socket=self.engine.socket))
        self.log_from = len(self.instance.events()) if self.instance.events_file.exists() else 0
        self._warm_up()
        self._share()
        self._start_agent()
        done = self.instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n", HONEST)
        assert done.exit_status == 0, done.stderr

    def _warm_up(self) -> None:
        """A container that is removed with dozens of execs in it leaves the engine a connection for each until it next
        collects its garbage, whoever made them (observed with plain `docker exec` and 20.10): they are no attacker's."""
        run = ["docker", "run", "-d", "--rm", "--network", "none", IMAGE, "sleep", "60"]
        name = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
        execs = [subprocess.Popen(["docker", "exec", name, "sleep", "60"], stdin=subprocess.DEVNULL) for _ in range(64)]
        processes = ["docker", "top", name]
        wait_until("all run", lambda: subprocess.run(processes, capture_output=True).stdout.count(b"sleep") > 64, 30)
        subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=True)
        for one in execs:
            one.wait()

    def _share(self) -> None:
        """What attackers may read: their program, and which jobs there are. And what they must not."""
        package = self.shared / "tests/fuzz"
        package.mkdir(parents=True)
        (self.shared / "tests/__init__.py").touch()
        for name in ("__init__.py", "actions.py", "attacker.py", "directives.py"):
            shutil.copy(Path(__file__).parent / name, package / name)
        for path in (self.shared, *self.shared.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.closed.mkdir(mode=0o700)
        (self.closed / "secret").write_text(self.token)
        (self.closed / "secret").chmod(0o644)  # only the directory keeps it: a mount of the directory would show it
        self.world = World(self.shared / "world.json")

    def _start_agent(self) -> None:
        """In the foreground, where a traceback of any thread can be read; hooks find it and start no other."""
        places = json.loads((self.instance.home / "paths.json").read_text())
        code = f"import sys; sys.path.insert(0, {places['lib']!r}); from pbsdock.agent.daemon import main; sys.exit(main())"
        command = [
            places["python"],
            "-I",
            "-S",
            "-c",
            code,
            "--paths",
            f"{self.instance.home}/paths.json",
            "--foreground",
        ]
        with open(self.root / "stderr", "ab") as said:
            self.agent = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            )
        wait_until("the agent answers", lambda: self.instance.command("ps").returncode == 0, 30)

    # -- the play -----------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Play, and judge."""
        self._done("first job")
        honest = Honest(self.instance, HONEST, IMAGE, self.calm, invariants.HONEST_S)
        alone = [honest.measure() for _ in range(3)]
        wait_until("the instance is empty", lambda: not self.instance.left())
        watch = Watch(
            self.agent.pid,
            self.engine.pid,
            (self.root, self.instance.root),
            self.instance.run_dir / "unhealthy",
            self.instance.events_file,
            self.shared / "light",
        )
        before = watch.look()
        entry = pwd.getpwnam(HONEST)
        bystander = Bystander(self.instance, HONEST, IMAGE, Path(entry.pw_dir) / "stop", self.engine.ask)
        self.world.tell(bystander=bystander.trial.job_id, task=bystander.task_id)
        self.slots = [
            Slot(self.instance, self.world, user, kind, IMAGE, f"{self.seed}/{number}", self.stop)
            for number, user in enumerate(ATTACKERS)
            for kind in LIFE_S
        ]
        for user in ATTACKERS:
            for kind in LIFE_S:
                self.world.job(user, kind, "1.nowhere")
        early = [one for one in self.slots if one.kind != "planned"]
        for one in early:
            one.start()
        wait_until("every attacker has a job", lambda: all(one.ran or one.refused for one in early), 30)
        self._done("jobs")
        watch.start()
        honest.start()
        self.attackers = [
            self._attacker(user, temper, _BEGIN[temper] * self.seconds) for user in ATTACKERS for temper in TEMPERS
        ]
        time.sleep(_BEGIN["planned"] * self.seconds)
        for one in self.slots:
            if one.kind == "planned":
                one.start()
        said = [self._said(one) for one in self.attackers]
        self._done("attack")
        self.calm.set()
        self.stop.set()
        rows = [*self._over(honest, bystander), *self._measured(watch, before, honest, said)]
        self._done("end")
        text = self._text(alone, rows, said, watch)
        return Report(text, [f"{one.name}: {'; '.join(one.wrong)}" for one in rows if one.wrong])

    def _attacker(self, user: str, temper: str, begin_s: float) -> subprocess.Popen[str]:
        spec = {
            "user": user,
            "temper": temper,
            "seed": f"{self.seed}/{ATTACKERS.index(user)}/{temper}",
            "seconds": self.seconds,
            "begin_s": begin_s,
            "shared": str(self.shared),
            "socket": str(self.instance.run_dir / "agent.sock"),
            "image": IMAGE,
            "closed": str(self.closed),
        }
        entry = pwd.getpwnam(user)
        process = subprocess.Popen(
            ["/usr/bin/python3", "-m", "tests.fuzz.attacker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=user,
            group=entry.pw_gid,
            extra_groups=[],
            cwd="/",
            start_new_session=True,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": f"{self.shared}:{library(self.instance)}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(spec) + "\n")
        process.stdin.flush()
        return process

    def _said(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """What an attacker reports. One that failed by itself attacks nothing: that is an error of this harness."""
        try:
            out, err = process.communicate(timeout=self.seconds + 30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError("an attacker does not end") from None
        assert process.returncode == 0, err
        return dict(json.loads(out))

    def _events(self) -> list[dict[str, Any]]:
        return self.instance.events()[self.log_from :]

    # -- judging ------------------------------------------------------------------------------------------------------

    def _over(self, honest: Honest, bystander: Bystander) -> list[Row]:
        """Let everybody's jobs end, the attackers' first."""
        deadline = time.monotonic() + 30.0
        for one in (*self.slots, honest):  # all of them have been started
            one.join(max(0.1, deadline - time.monotonic()))
        stuck = [f"{one.user}'s {one.kind} job" for one in self.slots if one.is_alive()]
        stuck += ["the honest user's"] if honest.is_alive() else []
        return [
            invariants.none("jobs that do not end", stuck),
            invariants.none("a bystander is touched", bystander.end()),
        ]

    def _measured(
        self, watch: Watch, before: invariants.Sample, honest: Honest, said: list[dict[str, Any]]
    ) -> list[Row]:
        left = self._settle(watch, before)
        watch.stop()
        died = list(watch.gone)
        if self.agent.poll() is not None or self.instance.agent_pids() != [self.agent.pid]:
            died.append(f"agents {self.instance.agent_pids()}, it was {self.agent.pid}")
        rows = [
            invariants.honest(honest.took, honest.repeated, honest.failed),
            invariants.most(
                "private memory of the agent", invariants.MEMORY, (one.memory for one in watch.samples), 1 << 20, " MiB"
            ),
            invariants.most(
                "threads of the agent", invariants.THREADS + len(self.slots) + 2, (one.threads for one in watch.samples)
            ),
            invariants.growth(watch.samples),
        ]
        if not died:
            after = watch.look()
            for name, key, allowed in (
                ("the engine", "engine_fds", invariants.DESCRIPTORS),
                ("the agent", "agent_fds", invariants.DESCRIPTORS),
            ):
                peak = max((getattr(one, key) for one in watch.samples), default=0)
                rows.append(
                    invariants.back(
                        f"descriptors of {name} in the end", getattr(before, key), peak, getattr(after, key), allowed
                    )
                )
            peak = max((one.mounts for one in watch.samples), default=0)
            rows.append(invariants.back("mounts in the end", before.mounts, peak, after.mounts))
        errors = invariants.tracebacks(self._events(), (self.root / "stderr").read_text(errors="replace"))
        seen = [one for report in said for one in report["shown"] if self.token[:8] in one]
        return [
            *rows,
            invariants.none("tracebacks", errors),
            invariants.none("the agent dies", died, "never"),
            invariants.none("the node goes out of service", watch.out_of_service, "never"),
            invariants.none("jobs refused by their prologue", [one for slot in self.slots for one in slot.refused]),
            invariants.none("a closed directory is seen", seen, "never"),
            invariants.none("left in the end", left),
        ]

    def _settle(self, watch: Watch, before: invariants.Sample) -> list[str]:
        """Wait as long as the grace lasts for everything to be as it was, and the engine's descriptors somewhat longer;
        returns what is left."""
        began = time.monotonic()
        while True:
            left = self.instance.present()
            try:
                now = watch.look()
            except OSError:
                return left
            engine_is_calm = now.engine_fds - before.engine_fds <= invariants.DESCRIPTORS
            agent_is_calm = now.agent_fds - before.agent_fds <= invariants.DESCRIPTORS
            calm = not left and agent_is_calm and now.mounts <= before.mounts
            if time.monotonic() - began > (
                _COLLECTED_S if calm and not engine_is_calm else _GRACE_S if not calm else 0
            ):
                return left
            time.sleep(0.25)

    def _text(self, alone: list[float], rows: list[Row], said: list[dict[str, Any]], watch: Watch) -> str:
        totals = {key: sum((Counter(one[key]) for one in said), Counter()) for key in ("shapes", "sent", "answers")}
        lines = [f"seed {self.seed}, {self.seconds:g} s, {len(said)} programs of {len(ATTACKERS)} users"]
        for title, key in (("acts", "shapes"), ("requests sent", "sent"), ("answers", "answers")):
            lines.append(
                f"{title} ({totals[key].total()}): "
                + ", ".join(f"{name!r} {count}" for name, count in totals[key].most_common(40))
            )
        lines.append(f"events: {invariants.heaviest(self._events())}")
        lines.append("seconds: " + ", ".join(f"{name} {took:.1f}" for name, took in self.took.items()))
        lines.append(
            f"load {os.getloadavg()[0]:.1f}; `true` before the attack: {', '.join(f'{one:.2f}' for one in alone)} s"
        )
        if watch.light.exists():
            lines.append("the agent passed 1 GiB: no largest messages were sent from then on")
        return "\n".join([*lines, invariants.table(rows)])

    # -- unmaking it --------------------------------------------------------------------------------------------------

    def unmake(self) -> None:
        """Stop and remove everything, whatever state it is in."""
        self.stop.set()
        self.calm.set()
        deadline = time.monotonic() + 20.0
        for slot in [one for one in self.slots if one.is_alive()]:
            slot.join(max(0.0, deadline - time.monotonic()))
        self.instance.end_all()
        self.instance.config.write_text(self.config)
        self.instance.kill_agent()
        if hasattr(self, "agent"):
            self.agent.wait(10)
        for one in self.attackers:
            one.kill()
            one.wait()
        _kill_all_of({pwd.getpwnam(name).pw_uid for name in (*_MORE, HONEST) if _exists(name)})
        self._remove_containers()
        if self.engine.process is not None:
            self.engine.unmake()
        for place in [line.split()[4] for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines())]:
            if place.startswith(f"{self.root}/"):
                subprocess.run(["umount", "-l", place], capture_output=True, check=False)
        for name in (*_MORE, HONEST):
            subprocess.run(["userdel", "-r", name], capture_output=True, check=False)
        for user in USERS:
            shutil.rmtree(Path(pwd.getpwnam(user).pw_dir) / "exchanged", ignore_errors=True)
        if self._docker_host is None:
            os.environ.pop("DOCKER_HOST", None)
        else:
            os.environ["DOCKER_HOST"] = self._docker_host

    def _remove_containers(self) -> None:
        if self.engine.process is not None:
            ids = self.engine.docker("ps", "-aq").stdout.decode().split()
            if ids:
                self.engine.docker("rm", "-f", *ids)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _kill_all_of(uids: set[int]) -> None:
    """SIGKILL to what is left of these users, who are this run's alone."""
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid in uids:
                os.kill(int(entry), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue


def new_seed() -> str:
    """A seed that was asked for, or any."""
    return os.environ.get("PBSDOCK_FUZZ_SEED") or secrets.token_hex(4)
