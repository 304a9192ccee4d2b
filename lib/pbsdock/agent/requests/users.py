"""What a user asks for: start and come back to a job of their own."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping

from pbsdock.agent import announced, blame, prepare, script, stage, tickets
from pbsdock.agent.arrivals import Outcome
from pbsdock.agent.blame import told_fault
from pbsdock.agent.exec_tasks import finish_exec, start_exec
from pbsdock.agent.refusals import refuse
from pbsdock.agent.requests.fields import env_of
from pbsdock.agent.requests.own import OwnRequests
from pbsdock.agent.requests.running import RunningRequests, lose_output
from pbsdock.agent.runs import ExecRun, JobRun, Run, TaskRun
from pbsdock.agent.stage_items import item_of
from pbsdock.agent.start import Admission, is_of_leader, start_again, start_for_tasks, start_job
from pbsdock.agent.tasks import start_task
from pbsdock.core.errors import BadValue, HookError, NodeFault, Refusal
from pbsdock.core.facts import Exit
from pbsdock.core.record import Record, Refused, State
from pbsdock.directive.parse import late_sentence
from pbsdock.engine.base import EngineError
from pbsdock.host.process import Caller, start_time
from pbsdock.host.shared import is_nodes_own
from pbsdock.host.syscalls import mounted_file_systems
from pbsdock.protocol import wire
from pbsdock.rm.base import Live
from pbsdock.staging.made import UMASK

_ANNOUNCED_S = 1000.0
_EXEC = re.compile(r"[0-9a-f]{64}")  # the engine's name of an exec
_TASK = re.compile(r"task-[0-9a-f]{16}")  # a task's, as the first process has it


class _Bare(Exception):
    """The job has no container."""


def _is_beside(record: Record, message: wire.Message) -> bool:
    """Whether a step asks for no container, in a job that has one for those of its steps alone that do."""
    is_asked = message.text("directive") or tickets.of_task(env_of(message))
    return record.facts.on_demand and record.facts.tasks_only and not is_asked


class UserRequests(OwnRequests):
    """One method a request."""

    def start(self, message: wire.Message) -> None:
        self.session.must_be_free(is_again=bool(message.number("again")))
        if self.session.peer.uid == 0:
            raise Refusal("root-start", "a job is never started as root; install the run hook as $job_starter only")
        record = self._own(message)
        if record is not None and record.facts.bare:
            self.session.answer(wire.Message("bare"))
            return
        is_task = self.node.rm.is_task(self.session.peer.pid)
        if (record is None or record.facts.mother) and (is_task or not self.node.rm.prepares_at_start):
            try:
                record = self._by_ticket(message, record)
            except _Bare:
                self.session.answer(wire.Message("bare"))
                return
        if record is None or (message.text("directive") and prepare.is_of_script(record) and not is_task):
            record = self._on_demand(message) or record
        if is_task and (record is None or _is_beside(record, message)):
            self.session.answer(wire.Message("bare"))
            return
        if record is None and self.node.rm.prepares_at_start:
            if (record := self._of_script(message)) is None:
                self.session.answer(wire.Message("bare"))
                return
        if record is None:
            # The hook saw the marker: a container was prepared, and released since. Never run on the host in its place.
            raise Refusal(
                "no-such-job",
                f"what was prepared for job {message.text('job')} is gone; nothing was started, please submit it again",
            )
        if record.state is State.REFUSED:
            refusal = record.refusal or Refused(code="refused", sentence="refused")
            raise Refusal(refusal.code, refusal.sentence)
        if message.number("direct") and not record.facts.first_process:
            self.session.answer(wire.Message("relay"))  # nothing was started: the hook in C has the one in Python ask
            return
        self._await_stage_in(record, message.number("umask", UMASK))
        with self.node.job_lock(record.job_id, 120.0):
            running, admission = self._started(record, message)
        is_job = isinstance(running, JobRun)
        try:
            if record.facts.tty and is_job and not record.facts.first_process:
                RunningRequests(self.session).resize(message)  # before anything can be typed
            self._tell_notices(record, is_job=is_job)
            self._admit(record, running, admission)
        finally:
            os.close(admission.fd)

    def _tell_notices(self, record: Record, *, is_job: bool) -> None:
        if record.facts.nodes > 1 and is_job and not record.facts.ticket:
            self.session.notify(
                "tasks on the other nodes of this job run there without the container: this site's nodes have no way to"
                " agree on it, which is munge or a key of the cluster (pbsdock setup key)"
            )
        if record.facts.ticket and is_job and record.planned.network != "host":
            self.session.notify(
                f"network {record.planned.network!r}: nothing in the container can start processes on the job's other"
                f" nodes, since {self.node.rm.words.name} listens on the host's own network; MPI needs network host"
            )
        if record.facts.ticket and is_job:
            for sentence in self._staged_here_alone(record):
                self.session.notify(sentence)
        if (late := record.facts.late_line) and is_job:
            self.session.notify(late_sentence(late, contained=True))

    def _staged_here_alone(self, record: Record) -> Iterator[str]:
        """What the tasks on the job's other nodes do not find where it was staged to."""
        mounted = mounted_file_systems() if record.planned.stage_in else []
        for option in record.planned.stage_in:
            if is_nodes_own(item_of(record, record.planned, option).path, mounted):
                yield (
                    f"{option.url} is in {option.path} on {self.node.name} alone: the job's other nodes do not share"
                    " that file system"
                )

    def _admit(self, record: Record, running: Run, admission: Admission) -> None:
        """Let the run hook go on, who waits for the end of *running* from now on."""
        is_job = isinstance(running, JobRun)
        task = running.name if isinstance(running, TaskRun) else ""
        told = self._adoption(record, running)
        started = wire.Message("started", pid=running.pid, task=task, **told, **admission.told)
        if task and self.node.rm.moves_tasks:
            started.fields["held"] = [b"1"]
        if isinstance(running, JobRun):
            running.hook = self._caller()
        if admission.told:
            started.fields["results"] = [b"1" if record.planned.stage_out and is_job else b"0"]
            self.session.running, over = running, running.join(self.session.channel)
            self.session.answer(started, [admission.fd])
        else:
            with self.node.streams.giving(running, socket.socket(fileno=os.dup(admission.fd))) as fd:
                self.session.answer(started, [fd])
                self.session.running, over = running, running.join(self.session.channel)
        if over is not None:
            self.session.answer_end(running, over)

    def _caller(self) -> Caller:
        peer = self.session.peer
        return Caller(peer.pid, peer.uid, peer.started)

    def _started(self, record: Record, message: wire.Message) -> tuple[Run, Admission]:
        is_task = self.node.rm.is_task(self.session.peer.pid)
        if is_task and not record.facts.first_process:
            sentence = "engine.first_process is off, without which no job step can be brought into its container"
            raise NodeFault("no-first-process", f"nothing was started: on {self.node.name} {sentence}")
        if record.state is State.READY and (record.facts.mother or is_task):
            start_for_tasks(self.node, record, self._caller())
        if record.state is State.READY:
            try:
                return start_job(self.node, record, message, self._caller())
            except (HookError, EngineError) as error:
                record.note(fault=told_fault(error, self.node.name))
                raise
        if message.number("again") and is_of_leader(record, message):
            return start_again(self.node, record, message, self._caller())
        if record.state is State.RUNNING and record.facts.first_process:
            return start_task(self.node, record, message, self._caller())
        if record.state is State.RUNNING:
            task, stream = start_exec(self.node, record, message)
            return task, Admission(stream.detach(), {})
        raise Refusal("job-over", f"job {record.job_id} is over; nothing can be started in it any more")

    def _await_stage_in(self, record: Record, umask: int) -> None:
        """Wait without the job's lock, which an epilogue may want meanwhile."""
        if record.state is not State.READY:
            return
        try:
            waiting = wire.Message("waiting")
            said = stage.await_in(self.node, record, lambda: self.session.answer(waiting), umask=umask)
        except Refusal as error:
            with self.node.job_lock(record.job_id, 120.0):
                if record.state is State.READY:
                    refuse(self.node, record, error)
            raise
        for sentence in said:
            self.session.notify(sentence)

    def _by_ticket(self, message: wire.Message, record: Record | None) -> Record | None:
        """What is there already, or what the ticket that a sister's task brings makes; None where it brings none."""
        environment = env_of(message)
        text = tickets.of_task(environment)
        if not text and record is None and not message.text("directive"):
            return self._announced(message, environment)
        if not text or (record is not None and tickets.is_of(record, text)):
            return record
        live = self._live(message)
        if not live.is_sister:
            return record
        try:
            bearer = tickets.checked(self.node, live, text, self.session.peer.uid)
        except tickets.OtherJobs:  # as good as none
            return record or self._announced(message, environment)
        return prepare.from_ticket(self.node, live.job(environment), bearer, self.session.notify, live.wrong)

    def _announced(self, message: wire.Message, environment: Mapping[str, str]) -> Record | None:
        """What the mother superior says of the job of a task without a ticket. Raises Refusal, _Bare."""
        live = self.node.rm.find(message.text("job"), waits=False)
        if live is None or not live.is_sister or live.uid != self.session.peer.uid:
            return None
        arrival = announced.ask(self.node, live, environment)
        self.session.answer(wire.Message("waiting"))
        arrival.over.wait(_ANNOUNCED_S)
        if (record := self.node.jobs.newest(live.id)) is not None:
            return record
        if arrival.outcome is Outcome.BARE or self.node.config.nodes.without_ticket == "bare":
            raise _Bare
        raise Refusal(
            "no-ticket",
            f"nobody can say what this task of job {live.id} is to run in on {self.node.name}: it brings no ticket, and"
            f" {arrival.why or 'its first node gives no answer'}; nothing was started",
        )

    def _of_script(self, message: wire.Message) -> Record | None:
        """Prepare the job by its script; None if that has no directive. Raises Refusal, NodeFault."""
        job_id = self.node.rm.job_id(message.text("job"))
        live = self.node.rm.find(job_id, waits=False)
        if live is None and self.node.rm.is_live(job_id):
            sentence = f"the {self.node.rm.words.name} hook that tells of job {job_id} was not run on {self.node.name}"
            return blame.failed(self.node, [job_id], {}, NodeFault("no-prolog", sentence))
        live = live or self._live(message)
        if live.uid != self.session.peer.uid:
            raise Refusal("not-your-job", f"job {live.id} belongs to another user")
        self.session.answer(wire.Message("waiting"))
        try:
            record = prepare.from_prologue(self.node, [live.id], {}, self.session.notify)
        except BadValue as error:
            raise Refusal("bad-arguments", str(error)) from None
        except Exception as error:
            return blame.failed(self.node, [live.id], {}, error)
        if record is None and not message.number("direct"):  # else the hook that runs a bare script asks again
            path = self.node.rm.script_named([live.id], {})
            if line := script.late(self.node.rm, path, self.session.peer.uid):
                self.session.notify(late_sentence(line))
        return record

    def _on_demand(self, message: wire.Message) -> Record | None:
        directive = message.text("directive")
        if not directive:
            return None
        live = self._live(message)
        if live.uid != self.session.peer.uid:
            raise Refusal("not-your-job", f"job {live.id} belongs to another user")
        return prepare.on_demand(self.node, live.job(env_of(message)), directive, self.session.notify, live.wrong)

    def _live(self, message: wire.Message) -> Live:
        """The job asked about, by the resource manager's own file. Raises Refusal."""
        live = self.node.rm.find(message.text("job"))
        if live is None:
            raise Refusal("no-such-job", f"job {message.text('job')} is not alive on {self.node.name}")
        return live

    def _adoption(self, record: Record, running: Run) -> Mapping[str, str]:
        if record.facts.mother and not self.node.rm.moves_tasks:
            return {}  # Torque's tools hang where they are run on a sister (observed)
        adoption = self.node.rm.adopt(running.pid, self.session.peer.pid)
        if adoption.skipped:
            self.node.emit("job.adoption_skipped", record, reason=adoption.skipped)
        return adoption.told

    def rejoin(self, message: wire.Message) -> None:
        record = self._own(message)
        if record is None:
            raise Refusal("no-such-job", f"job {message.text('job')} has no container here")
        task = message.text("task")
        running = self._task(record, task) if task else self.node.jobs.job_run(record.incarnation)
        if running is None:
            end = record.exit or Exit(code=137)
            sentences = [sentence.encode("utf-8", "backslashreplace") for sentence in end.sentences]
            self.session.answer(wire.Message("ended", code=end.code, sentence=sentences))
            record.note(untold=())
            return
        self.session.must_be_free(of=running)
        owner = running.channel
        if owner is not None and owner is not self.session.channel and not owner.is_gone:
            raise Refusal("has-a-run-hook", f"the run hook of job {record.job_id} is there and waits for it")
        self.session.running = running
        if isinstance(running, JobRun):
            running.hook = self._caller()
        if (over := running.join(self.session.channel)) is not None:
            self.session.answer_end(running, over)
        elif isinstance(running, JobRun) and not record.facts.first_process and not message.number("attached"):
            lose_output(running)

    def _task(self, record: Record, task: str) -> TaskRun:
        """A task of this very job: what others' are called is no secret, since /proc and the cgroup tree show it.

        One that no agent remembers is the first process's, whose run hook knows its name; an exec is looked up in the
        engine, which alone knows whose container it is in.
        """
        running = self.node.jobs.task_run(f"{record.incarnation}/{task}") or self.node.jobs.task_run(task)
        if running is None and _TASK.fullmatch(task):
            return self.node.jobs.add_unless_known(TaskRun(record=record, name=task))
        if running is None and _EXEC.fullmatch(task):
            running = ExecRun(record=record, name=task)
            try:
                found = self.node.engine.exec_inspect(task)
            except EngineError:
                finish_exec(self.node, running)  # forgotten: its end is told, and not kept
                return running
            if found.container_id == record.container_id:
                running.pid = found.pid
                running.pid_start = start_time(running.pid)
                return self.node.jobs.add_unless_known(running)
            running = None
        if running is None or running.record.incarnation != record.incarnation:
            raise Refusal("no-such-task", f"job {record.job_id} has no such task here")
        return running
