"""A job of several nodes in mom's order: sisters join first, and leave before the mother's epilogue."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from pbsdock.directive.parse import DirectiveError, parse_script
from pbsdock.rm.choose import words
from pbsdock.trial import environment
from pbsdock.trial.cluster import Cluster
from pbsdock.trial.hooks import append
from pbsdock.trial.mom import Trial
from pbsdock.trial.nodes import slot_owners
from pbsdock.trial.process import Process, spawn
from pbsdock.trial.request import NOT_JOINED, Outcome, Request
from pbsdock.trial.sister import Sister
from pbsdock.trial.tm import Outputs, TaskManager

_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT)


class WideTrial(Trial):
    """One job on this host, the mother, and on emulated sisters.

    Many methods because it is a Trial, with the tasks of its job for TM.
    """

    def __init__(self, request: Request, cluster: Cluster) -> None:
        self.tm = TaskManager()
        try:
            super().__init__(
                replace(request, sisters=cluster.names, mom_port=self.tm.port, client_dir=str(cluster.client_dir))
            )
        except ValueError:
            self.tm.close()
            raise
        self.cluster = cluster
        self.sisters = [
            Sister(cluster.node(place.node), self.request, self.spool, number)
            for number, place in enumerate(self.job.placement)
            if number
        ]
        self._owners = slot_owners(self.job.placement)
        self._numbers = 1
        self._started: dict[int, tuple[int, Process]] = {}  # owner and process of each task but the first
        self.tm.serve((self.job_id, self.job.cookie), self.job.slots, self)

    # -- the start ----------------------------------------------------------------------------------------------------

    def prepare_files(self) -> None:
        """Make mom's files; in a job of several nodes .JB is among them."""
        super().prepare_files()
        if self.sisters:
            self.spool.record(None)

    def verdict(self) -> int | None:
        """Have the sisters join; the prologue runs only if all have."""
        missing = not self._copy_image()
        self._on_sisters(Sister.join)
        if all(sister.joined for sister in self.sisters):
            status = super().verdict()
            if missing:  # the prologue may have pulled it
                self._copy_image()
            return status
        self._on_sisters(lambda sister: sister.leave(hooks=False))
        return NOT_JOINED

    def _copy_image(self) -> bool:
        """Copy the image of the job's directive to the sisters, which reach no registry; False: it is not here."""
        try:
            directive = parse_script(self.request.script or b"", words())
        except DirectiveError:
            return True
        if directive is None or self.request.bare:
            return True
        image, engine = directive.image.canonical, self.cluster.engine_here
        try:
            return all([sister.node.copy_image(image, engine) for sister in self.sisters])
        except RuntimeError as error:
            print(f"pbsdock try: {error}", file=sys.stderr)
            return True

    def begin(self) -> Outcome | None:
        """As of any job."""
        outcome = super().begin()
        if outcome is not None:
            self.tm.close()
        return outcome

    def _on_sisters(self, act: Callable[[Sister], object]) -> None:
        threads = [threading.Thread(target=act, args=(sister,)) for sister in self.sisters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # -- tasks --------------------------------------------------------------------------------------------------------

    def tm_spawn(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, stdout: int | None = None, slot: int = 0
    ) -> Process:
        """Start a TM task on the node of virtual node *slot*."""
        return self.spawn(slot, argv, env or {}, None if stdout is None else (stdout, stdout))[1]

    def knows(self, number: int) -> bool:
        """Whether a task has this number, be it one that is just being started."""
        return 1 <= number <= self._numbers

    def numbers(self, slot: int) -> list[int]:
        """Those of the tasks that have started on the node of virtual node *slot*."""
        owner = self._owners[slot]
        first = [] if owner or self.leader is None else [1]
        return first + [number for number, (place, _) in list(self._started.items()) if place == owner]

    def task_of(self, number: int) -> Process:
        """The task of this number, one of ``numbers``."""
        if number == 1:
            assert self.leader is not None
            return self.leader
        return self._started[number][1]

    def spawn(self, slot: int, argv: Sequence[str], env: Mapping[str, str], outputs: Outputs) -> tuple[int, Process]:
        """Start a task on a virtual node; returns its number too. Raises RuntimeError if that node has left the job."""
        with self._task_lock:
            self._numbers += 1
            number = self._numbers
        if owner := self._owners[slot]:
            task = self.sisters[owner - 1].spawn(number, slot, argv, env, outputs)
        else:
            task = self._spawn_here(number, slot, argv, env, outputs)
        self._started[number] = owner, task
        return number, task

    def _spawn_here(
        self, number: int, slot: int, argv: Sequence[str], env: Mapping[str, str], outputs: Outputs
    ) -> Process:
        with self._task_lock, ExitStack() as stack:
            out, err = outputs or (append(self.spool.out, stack), append(self.spool.err, stack))
            full = environment.for_task(self.job, number, env, slot=slot)
            task = spawn(self._spec([*self._starter(), *argv], argv[0], full, {1: out, 2: err}))
            self.tasks.append(task)
        return task

    # -- signals and the end ------------------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Any signal ends a job of several nodes, but for those that stop or continue it (observed)."""
        if number in _STOPS or not self.sisters:
            super().signal(number)
        else:
            self.qdel()

    def qdel(self) -> None:
        """TERM here while the sisters end; the rest here is killed as soon as they have answered, without a delay."""
        if not self.sisters:
            super().qdel()
            return
        super().signal(signal.SIGTERM)
        self._on_sisters(Sister.leave)
        self._kill_rest()

    def epilogue(self, status: int) -> int | None:
        """Have the sisters leave first."""
        self._on_sisters(Sister.leave)
        for sister in self.sisters:
            self.seconds |= {f"{name} {sister.node.name}": seconds for name, seconds in sister.seconds.items()}
        return super().epilogue(status)

    def finish(self, status: int, node_down: str | None = None) -> Outcome:
        """As of any job; TM answers nobody any more."""
        outcome = super().finish(status, node_down)
        if self.leader is not None:
            self.tm.close()
        return outcome


def start_on(cluster: Cluster, request: Request) -> WideTrial:
    """Take one job as far as its running shell. If a prologue ended it, ``result`` has the outcome at once."""
    trial = WideTrial(request, cluster)
    trial.begin()
    return trial


def run_on(cluster: Cluster, request: Request) -> Outcome:
    """Run one job from the first prologue to the last epilogue."""
    return start_on(cluster, request).result()
