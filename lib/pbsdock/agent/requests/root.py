"""What root's hooks and the admin's command ask for."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict

from pbsdock.agent import all_nodes, announced, blame, neighbours, prepare, script, stage
from pbsdock.agent.channel import ClientGone
from pbsdock.agent.finish import finish
from pbsdock.agent.history import is_about
from pbsdock.agent.reconcile import reconcile
from pbsdock.agent.release import release
from pbsdock.agent.requests.fields import argv_of, env_of
from pbsdock.agent.session import Session
from pbsdock.core.errors import BadValue, NodeFault, Refusal
from pbsdock.core.facts import Usage
from pbsdock.core.record import Record, State
from pbsdock.protocol import wire


class RootRequests:
    """One method a request; they raise what :meth:`pbsdock.agent.session.Session.handle` tells the client."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.node = session.node

    def prepare(self, message: wire.Message) -> None:
        argv, env = argv_of(message), env_of(message)
        try:
            with self.session.kept_waiting():
                record = prepare.from_prologue(self.node, argv, env, self.session.notify)
        except BadValue as error:
            self.session.answer(self._aborted(argv, env, str(error)))
            return
        except Exception as error:
            record = blame.failed(self.node, argv, env, error)
        try:
            self.session.answer(wire.Message("prepared", state=record.state.value if record else "none"))
        except ClientGone:
            # Mom has killed the prologue meanwhile, and its epilogue may be over: nobody else would release this.
            if record is not None:
                with self.node.job_lock(record.job_id, 90.0):
                    release(self.node, record, why="prologue-gone")
            raise

    def _aborted(self, argv: list[str], env: dict[str, str], reason: str) -> wire.Message:
        """What names no job can have no record to be told from, and would be the same on every node."""
        if not script.has_directive(self.node.rm, self.node.rm.script_named(argv, env)):
            return wire.Message("prepared", state="none")
        job = self.node.rm.named(argv, env)
        self.node.emit("job.refused", job=job, code="bad-arguments", sentence=reason, phase="prologue")
        return wire.Message("aborted", sentence=f"the job is ended: {reason}")

    def failed(self, message: wire.Message) -> None:
        """The prologue's agent was gone in the middle of it, or gave no answer; this one is here."""
        sentence = f"the agent of {self.node.name} gave no answer about the job"
        blame.failed(self.node, argv_of(message), env_of(message), NodeFault("agent-error", sentence))
        self.session.answer(wire.Message("prepared", state="refused"))

    def release(self, message: wire.Message) -> None:
        """Release what there is of a job, and tell of its end."""
        with self.session.kept_waiting(), ExitStack() as until_done:
            self._release_now(message, until_done)

    def _release_now(self, message: wire.Message, until_done: ExitStack) -> None:
        ended = self.node.rm.ended(argv_of(message), env_of(message))
        job_id = ended.id
        asked = time.monotonic()
        mine = self._of(job_id)
        until = time.monotonic() + self.node.config.prologue.alarm_s - self.node.config.prologue.margin_s
        for record in mine:
            stage.settle(self.node, record, until, lambda running: finish(self.node, running), self.session.notify)
        # Where the container is over nothing of the job runs any more: mom need not wait while the engine tidies up.
        mine = self._there(job_id, asked, mine)
        early = bool(mine) and all(record.state is State.ENDED and _is_revoked(record) for record in mine)
        if early:
            until_done.enter_context(self.node.promises.made())
            self._answer_released(clean=True)
        with self.node.job_lock(job_id, 90.0):
            mine = self._there(job_id, asked, mine)
            for record in mine:
                record.note(exit_status=ended.exit_status)
            clean = all([release(self.node, record, why="epilogue") for record in mine])
            # Where a job is prepared at its start, its Prolog has marked it.
            if not self._of(job_id) and (self.node.arrivals.forget(job_id) or self.node.rm.prepares_at_start):
                self.node.paths.unmark(job_id)
        if not early:
            self._answer_released(clean=clean)
        for record in mine:  # mom need not wait for what other nodes tell of it
            self._finished(record, ended.exit_status)
        if not clean:
            self.node.emit(
                "job.fault",
                level="warning",
                job=job_id,
                code="release-failed",
                sentence="the release is not complete; the reaper goes on with it",
            )

    def _answer_released(self, *, clean: bool) -> None:
        with suppress(ClientGone):  # what is left to do is done without it
            self.session.answer(wire.Message("released", clean=int(clean)))

    def _of(self, job_id: str) -> list[Record]:
        return [record for record in self.node.jobs.records() if record.job_id == job_id]

    def _there(self, job_id: str, asked: float, seen: list[Record]) -> list[Record]:
        """Those of *seen* that are still there, and what hooks have made that asked before *asked* (monotonic).

        No others: while an epilogue waits, a rerun of its job may have begun, and its records have the same job id.
        """
        return [
            record
            for record in self._of(job_id)
            if any(record is seen_record for seen_record in seen)
            or (record.facts.asked_at if record.facts.asked_at is not None else asked) < asked
        ]

    def _finished(self, record: Record, exit_status: int | None) -> None:
        usage = record.facts.usage or Usage()
        end = record.exit
        started = record.facts.started_at
        total = all_nodes.of_job(self.node, record) if record.facts.ticket and not record.facts.mother else None
        self.node.emit(
            "job.finished",
            record,
            exit_status=exit_status,
            code=end.code if end else None,
            oom=end.oom if end else None,
            outcome="refused" if record.refusal else "ran" if started else "not-started",
            image_digest=record.image_digest,
            memory_peak_bytes=usage.memory_peak_bytes,
            cpu_seconds=usage.cpu_seconds,
            io_read_bytes=usage.io_read_bytes,
            io_write_bytes=usage.io_write_bytes,
            pids_peak=usage.pids_peak,
            **({f"all_{name}": value for name, value in asdict(total).items()} if total is not None else {}),
            run_s=round(end.at - started, 3) if started and end and end.at else None,
            total_s=round(time.time() - record.created, 3),
            phase="epilogue",
        )

    def announce(self, message: wire.Message) -> None:
        """A sister's prologue: what an earlier run of the job has left there goes; what the job is is found out."""
        job_id = self.node.rm.job_id(argv_of(message)[0])
        asked = time.monotonic()
        older = self._of(job_id)
        with self.session.kept_waiting():
            live = self.node.rm.find(job_id)  # comes a moment after its prologue
            with self.node.job_lock(job_id, 60.0):
                # A first task may have been faster than this request.
                left = [
                    record
                    for record in self._there(job_id, asked, older)
                    if live is None or not live.run or record.facts.run != live.run
                ]
                count = prepare.sweep(self.node, left)
        self.session.answer(wire.Message("swept", count=count))
        if live is not None and live.is_sister and self.node.config.nodes.port and self.node.signer is not None:
            if self.node.config.nodes.without_ticket == "refuse":
                self.node.paths.mark(job_id)
            announced.ask(self.node, live, env_of(message))
        elif not self._of(job_id):
            self.node.paths.unmark(job_id)

    def sweep(self, message: wire.Message) -> None:
        job_id = self.node.rm.job_id(argv_of(message)[0])
        asked = time.monotonic()
        older = self._of(job_id)
        with self.node.job_lock(job_id, 60.0):
            count = prepare.sweep(self.node, self._there(job_id, asked, older))
        self.session.answer(wire.Message("swept", count=count))

    def reap(self, message: wire.Message) -> None:
        done = reconcile(self.node, dry_run=bool(message.number("dry_run")))
        self.session.answer(wire.Message("reaped", json=json.dumps(done.to_dict())))

    def list_jobs(self, _message: wire.Message) -> None:
        records, problems = self.node.jobs.records_and_problems()
        rows = [
            {
                "job": record.job_id,
                "user": record.user,
                "state": record.state.value,
                "image": record.plan.image if record.plan else None,
                "container": record.container_id,
                "children": [
                    {
                        "name": child.name,
                        "container": child.id,
                        "image": child.plan.image,
                        "state": child.state.value,
                        "since": child.created,
                    }
                    for child in self.node.children.live(record.name)
                ],
                "since": record.created,
                "incarnation": record.incarnation,
            }
            for record in records
        ]
        drained = self.node.drain.now()
        told = {
            "jobs": rows,
            "problems": [str(problem) for problem in problems],
            "drained": drained.to_dict() if drained else None,
        }
        self.session.answer(wire.Message("jobs", json=json.dumps(told)))

    def nodes(self, message: wire.Message) -> None:
        """Tell of a job on all its nodes, whose agents are asked. Raises Refusal, BadValue."""
        job = self.node.rm.job_id(message.text("job"))
        records = [record for record in self.node.jobs.records() if is_about(record.job_id, job)]
        if not records:
            raise Refusal(
                "no-such-job", f"{self.node.name} has no container of job {job} at this moment; pbsdock why tells more"
            )
        newest = max(records, key=lambda record: record.created)
        told = {"job": newest.job_id, "nodes": neighbours.rows(self.node, newest)}
        self.session.answer(wire.Message("nodes", json=json.dumps(told)))


def _is_revoked(record: Record) -> bool:
    """Whether nothing of the job's works any more at any store."""
    return "credentials" not in record.steps or record.is_gone("credentials")
