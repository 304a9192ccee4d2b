"""All jobs of this node in one place: their records, what runs of them, what is being staged for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pbsdock.agent.runs import ChildRun, JobRun, Run, TaskRun
from pbsdock.agent.stand import Standing
from pbsdock.agent.work import Work
from pbsdock.core.ledger import Ledger
from pbsdock.core.record import Record


class Jobs:
    """The only registry; any thread. It is what records are written to (:class:`pbsdock.core.record.Journal`).

    Many methods because records, runs and staging works have one registry: who asks for one may go on to another.
    """

    def __init__(self, ledger: Ledger, emit: Callable[..., None]) -> None:
        self._ledger = ledger
        self._emit = emit
        self._jobs: dict[str, JobRun] = {}  # by incarnation
        self._tasks: dict[str, TaskRun] = {}  # by exec id
        self._children: dict[str, ChildRun] = {}  # by key
        self._works: dict[str, Work] = {}  # by incarnation
        self._standing: dict[str, Standing] = {}  # likewise
        for record in ledger.load_all()[0]:
            record.belongs_to(self)

    # -- records ------------------------------------------------------------------------------------------------------

    def create(self, record: Record) -> None:
        """Write a new record durably, before anything it names is done. Raises OSError."""
        self._ledger.create(record)
        record.belongs_to(self)

    def save(self, record: Record, *, durable: bool = False) -> None:
        """Replace a record's file. Raises OSError."""
        self._ledger.save(record, durable=durable)

    def emit(self, event: str, record: Record, **fields: Any) -> None:
        """Tell of an event of a job's."""
        self._emit(event, record, **fields)

    def remove(self, record: Record) -> None:
        """Forget a record whose every step is undone, and what is known of its work."""
        self._ledger.remove(record)
        self._works.pop(record.incarnation, None)
        self._standing.pop(record.incarnation, None)

    def records(self) -> list[Record]:
        """All records, oldest first. Raises OSError."""
        return self._ledger.load_all()[0]

    def records_and_problems(self) -> tuple[list[Record], list[str]]:
        """All records, and a sentence for each file that cannot be read. Raises OSError."""
        return self._ledger.load_all()

    def records_of(self, job_id: str) -> list[Record]:
        """Every incarnation of a job that is here, oldest first. Raises OSError."""
        return [record for record in self.records() if record.job_id == job_id]

    def newest(self, job_id: str) -> Record | None:
        """The newest incarnation of a job."""
        return self._ledger.for_job(job_id)

    def count_of(self, uid: int) -> int:
        """How many records a user has; asks neither the disk nor for a lock."""
        return self._ledger.count_of(uid)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def add(self, run: Run) -> None:
        """From now on it is known by its key, until :meth:`drop`."""
        if isinstance(run, TaskRun):
            self._tasks[run.key] = run
        elif isinstance(run, ChildRun):
            self._children[run.key] = run
        elif isinstance(run, JobRun):
            self._jobs[run.key] = run

    def add_unless_known(self, task: TaskRun) -> TaskRun:
        """The task that is known by that key, which may be this one."""
        return self._tasks.setdefault(task.key, task)

    def job_run(self, incarnation: str) -> JobRun | None:
        """The run of a job's own container."""
        return self._jobs.get(incarnation)

    def task_run(self, exec_id: str) -> TaskRun | None:
        """A task's run."""
        return self._tasks.get(exec_id)

    def run(self, key: str) -> Run | None:
        """A run by what it is known by: an incarnation or an exec id."""
        return self._tasks.get(key) or self._children.get(key) or self._jobs.get(key)

    def child_run(self, incarnation: str, name: str) -> ChildRun | None:
        """The run of a job's child, by the child's key."""
        return self._children.get(f"{incarnation}/{name}")

    def all_children(self) -> list[ChildRun]:
        """Those of all jobs' children."""
        return list(self._children.values())

    def child_runs(self, incarnation: str) -> list[ChildRun]:
        """Those of a job's children."""
        return [run for run in list(self._children.values()) if run.record.incarnation == incarnation]

    def runs(self) -> list[Run]:
        """All that run, as of now."""
        return [*self._jobs.values(), *self._tasks.values(), *self._children.values()]

    def job_runs(self) -> list[JobRun]:
        """Those of jobs' own containers."""
        return list(self._jobs.values())

    def tasks_of(self, incarnation: str) -> set[str]:
        """The exec ids of a job's tasks that are known to run."""
        return {task.key for task in list(self._tasks.values()) if task.record.incarnation == incarnation}

    def drop(self, run: Run) -> None:
        """It is over, and told."""
        for known in (self._tasks, self._children, self._jobs):
            if known.get(run.key) is run:
                known.pop(run.key, None)

    # -- containers that wait ----------------------------------------------------------------------------------------

    def stand(self, record: Record, standing: Standing) -> None:
        """A job's container is under way, in place of the one before."""
        self._standing[record.incarnation] = standing

    def standing_of(self, record: Record) -> Standing | None:
        """The container that is made for a job ahead of its run hook, or was."""
        return self._standing.get(record.incarnation)

    def drop_standing(self, record: Record) -> None:
        """It is no more."""
        self._standing.pop(record.incarnation, None)

    # -- staging ------------------------------------------------------------------------------------------------------

    def work_of(self, record: Record) -> Work | None:
        """What is being staged for a job, or was until a moment ago."""
        return self._works.get(record.incarnation)

    def begin_work(self, record: Record) -> Work:
        """A new work in place of the one before."""
        work = self._works[record.incarnation] = Work()
        return work

    def drop_work(self, record: Record) -> None:
        """It is over, and told."""
        self._works.pop(record.incarnation, None)
