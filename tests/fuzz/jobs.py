"""The jobs of the play: attackers' own, which come and go, a bystander's, and an honest user's, which are timed."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pbsdock.trial import Trial
from tests.conftest import Instance, wait_until
from tests.fuzz.directives import script

_PLAIN = "#!/bin/sh\nsleep 1000\n"
_ENDLESS = "#!/bin/sh\n#DOCKER {image}\nwhile :; do sleep 1; done\n"
# Whatever signal comes is written down; a shell looks at its traps once the sleep is over.
_BYSTANDER = """#!/bin/sh
#DOCKER {image}
for one in HUP INT QUIT USR1 USR2 TERM CONT TSTP XCPU ALRM; do trap "echo got $one" $one; done
while [ ! -e {stop} ]; do i=$((i + 1)); echo $i; sleep 0.2; done
echo whole
exit 5
"""
# Kinds of attackers' jobs, and how long each lives: in a container, without a directive, with one that takes planning.
LIFE_S: Mapping[str, tuple[float, float]] = {"container": (8.0, 16.0), "plain": (3.0, 7.0), "planned": (0.5, 2.0)}


class World:
    """What attackers are told of the jobs there are, in a file they can read; any thread."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"jobs": {}, "bystander": "", "task": "f" * 64, "past": "1.nowhere"}

    def tell(self, **changes: Any) -> None:
        """Change it."""
        with self._lock:
            self._state.update(changes)
            self._write()

    def job(self, user: str, kind: str, job: str) -> None:
        """*user* has a new job of that *kind*; the one before is past."""
        with self._lock:
            mine = self._state["jobs"].setdefault(user, dict.fromkeys(LIFE_S, "1.nowhere"))
            self._state["past"], mine[kind] = mine[kind], job
            self._write()

    def _write(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self._state))
        new.chmod(0o644)
        new.rename(self.file)


class Slot(threading.Thread):
    """One attacker's place for one job of a kind at a time."""

    def __init__(
        self, instance: Instance, world: World, user: str, kind: str, image: str, seed: str, stop: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self.instance, self.world, self.user, self.kind, self.ending = instance, world, user, kind, stop
        self.image = image
        self.rng = random.Random(f"{seed}/{kind}")
        self.ran = 0
        self.refused: list[str] = []

    def _script(self) -> bytes:
        if self.kind == "planned":
            return script(self.rng, self.image).encode("utf-8", "surrogateescape")
        return (_ENDLESS if self.kind == "container" else _PLAIN).format(image=self.image).encode()

    def run(self) -> None:
        while not self.ending.is_set():
            request = self.instance.request(
                self._script(),
                self.user,
                kill_delay_s=0.2,
                prologue_alarm_s=60.0,
                requeue_limit=1,
                resources="nodes=1:ppn=1,mem=64mb,walltime=01:00:00",
            )
            trial = Trial(request)
            if (outcome := trial.begin()) is not None:
                self.refused.append(
                    f"{self.user} {self.kind}: prologue {outcome.prologue_status}: {outcome.stderr[:200]!r}"
                )
                self.ending.wait(1.0)
                continue
            self.ran += 1
            self.world.job(self.user, self.kind, trial.job_id)
            if self.kind == "container":
                trial.tm_spawn(["/bin/sleep", "1000"])
            self.ending.wait(self.rng.uniform(*LIFE_S[self.kind]))
            trial.qdel()
            trial.finish(trial.wait())


class Bystander:
    """A long job of a user who does no harm; what is done to it must be nothing."""

    def __init__(self, instance: Instance, user: str, image: str, stop: Path, ask: Callable[[str], Any]) -> None:
        self.stop, self.ask = stop, ask
        self.trial = instance.begin(_BYSTANDER.format(image=image, stop=stop), user)
        wait_until("the bystander counts", lambda: b"3\n" in self.trial.out_path.read_bytes())
        self.task = self.trial.tm_spawn(["/bin/sh", "-c", f"while [ ! -e {stop}.task ]; do sleep 0.2; done; exit 6"])
        (self.container,) = (
            one["container"] for one in instance.events(self.trial.job_id) if one["event"] == "job.started"
        )
        wait_until("its task runs", lambda: bool(self._tasks(instance)))
        self.task_id = self._tasks(instance)[0]
        self.before = self._identity()

    def _inspect(self) -> dict[str, Any]:
        return dict(self.ask(f"/containers/{self.container}/json"))

    def _tasks(self, instance: Instance) -> list[str]:
        return [one["task"] for one in instance.events(self.trial.job_id) if one["event"] == "task.started"]

    def _identity(self) -> tuple[str, int, str]:
        found = self._inspect()
        return found["Id"], found["State"]["Pid"], found["State"]["StartedAt"]

    def end(self) -> list[str]:
        """End it; sentences on what was done to it."""
        wrong = []
        try:
            if self._identity() != self.before:
                wrong.append("its container is another one")
        except KeyError:
            wrong.append("its container is gone")
        self.stop.with_name(f"{self.stop.name}.task").touch()  # first: with the container it would be killed
        if not self.task.ended(10.0):
            wrong.append("its task does not end")
        elif self.task.returncode != 6:
            wrong.append(f"its task ended with {self.task.returncode}")
        self.stop.touch()
        assert self.trial.leader is not None
        if not self.trial.leader.ended(10.0):
            wrong.append("its run hook does not end")
            self.trial.qdel()
        done = self.trial.finish(self.trial.wait())
        return wrong + told(done.exit_status, done.stdout, done.stderr)


def told(status: int, stdout: bytes, stderr: bytes) -> list[str]:
    """What a bystander's status and output say was done to it. Pure."""
    wrong = [] if status == 5 else [f"it ended with {status}"]
    *lines, last = [*stdout.decode(errors="replace").splitlines(), ""][:-1] or [""]
    signals = [one for one in lines if one.startswith("got ")]
    numbers = [one for one in lines if not one.startswith("got ")]
    if signals:
        wrong.append(f"it got signals: {', '.join(signals[:5])}")
    if last != "whole" or numbers != [str(one) for one in range(1, len(numbers) + 1)]:
        wrong.append(f"its output is not whole: …{lines[-3:]} {last!r}")
    if stderr:
        wrong.append(f"it was told something: {stderr[:200]!r}")
    return wrong


class Honest(threading.Thread):
    """An ordinary job of ``true`` after another, each timed from prologue to epilogue."""

    def __init__(self, instance: Instance, user: str, image: str, stop: threading.Event, limit_s: float) -> None:
        super().__init__(daemon=True)
        self.instance, self.user, self.ending, self.limit_s = instance, user, stop, limit_s
        self.script = f"#!/bin/sh\n#DOCKER {image}\ntrue\n"
        self.took: list[float] = []
        self.repeated: list[tuple[float, float, float]] = []  # a miss, its repetition, the load average then
        self.failed: list[str] = []

    def measure(self) -> float:
        """Seconds one job takes."""
        began = time.monotonic()
        done = self.instance.run(self.script, self.user, prologue_alarm_s=60.0, requeue_limit=1)
        took = time.monotonic() - began
        if done.exit_status != 0 or done.stderr:
            self.failed.append(f"status {done.exit_status}, prologue {done.prologue_status}: {done.stderr[:200]!r}")
        return took

    def run(self) -> None:
        while not self.ending.is_set():
            took = self.measure()
            self.took.append(took)
            if took > self.limit_s:  # noise, or not: at once again
                load = os.getloadavg()[0]
                self.repeated.append((took, self.measure(), load))
            self.ending.wait(0.5)
