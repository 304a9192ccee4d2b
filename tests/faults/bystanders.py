"""Those who must not notice: a stranger's container, another instance's job, and a live job of the same instance."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pbsdock.trial import Outcome, Request, Trial
from tests.conftest import Instance, wait_until
from tests.faults.site import BYSTANDER, IMAGE, Site

# A number five times a second without a single new process, so that two looks at the process table are alike.
_COUNT = 'mkfifo /tmp/f; exec 3<>/tmp/f; while [ ! -e "$1" ]; do i=$((i + 1)); echo $i; read -t 0.2 x <&3; done; exit 5'


@dataclass
class Counting:
    """A job that counts until its file is there."""

    trial: Trial
    stop: str
    seen: int = 0

    def went_on(self) -> str:
        """Wait for the next number; a sentence if there is none."""
        assert self.trial.leader is not None
        if self.trial.leader.poll() is not None:
            return f"bystander {self.trial.job_id} is over: {self.trial.err_path.read_text()!r}"
        try:
            wait_until("the bystander goes on", lambda: self._last() > self.seen, 20)
        except AssertionError:
            return f"bystander {self.trial.job_id} says nothing any more"
        self.seen = self._last()
        return ""

    def _last(self) -> int:
        lines = self.trial.out_path.read_bytes().split()
        return int(lines[-1]) if lines else 0

    def end(self) -> str:
        """End it; a sentence if it was not whole."""
        with open(self.stop, "w"):
            pass
        done: Outcome = self.trial.finish(self.trial.wait())
        os.unlink(self.stop)
        numbers = [int(one) for one in done.stdout.split()]
        if done.exit_status != 5:
            return f"bystander {done.job_id} ended with {done.exit_status}: {done.stderr!r}"
        if numbers != list(range(1, len(numbers) + 1)):
            return f"bystander {done.job_id} lost output: {numbers}, {done.stderr!r}"
        if done.stderr:
            return f"bystander {done.job_id} was told something: {done.stderr!r}"
        return ""


class Bystanders:
    """All three."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.jobs = [self._job(site.instance, "live"), self._job(site.other, "neighbour")]
        run = [
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "stranger",
            "--label",
            f"pbsdock.owner={site.instance.name}@x",
        ]
        assert site.engine.docker(*run, IMAGE, "sleep", "100000").returncode == 0
        self.stranger = self._stranger()
        for one in self.jobs:
            assert not one.went_on()

    def _job(self, instance: Instance, name: str) -> Counting:
        stop = f"/home/{BYSTANDER}/stop-{name}"
        script = f"#!/bin/sh\n#DOCKER {IMAGE}\nset -- {stop}\n{_COUNT}\n".encode()
        trial = Trial(Request(mom_priv=instance.mom_priv, user=BYSTANDER, script=script))
        instance.trials.append(trial)
        assert trial.begin() is None
        return Counting(trial, stop)

    def _stranger(self) -> tuple[object, object]:
        found = self.site.engine.ask("/containers/stranger/json")
        assert isinstance(found, dict)
        return found["State"]["Pid"], found["State"]["StartedAt"]

    def noticed(self) -> list[str]:
        """Sentences about whoever noticed something."""
        found = [one.went_on() for one in self.jobs]
        if self._stranger() != self.stranger:
            found.append("the stranger's container was touched")
        return [one for one in found if one]

    def end(self) -> list[str]:
        """End all; sentences about whoever was not whole."""
        found = [one.end() for one in self.jobs]
        if self._stranger() != self.stranger:
            found.append("the stranger's container was touched")
        self.site.engine.docker("rm", "-f", "stranger")
        return [one for one in found if one]
