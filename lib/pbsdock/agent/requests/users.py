"""What a user asks for: start, signal, come back to and ask about a job of their own."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Mapping

from pbsdock.agent import prepare, signals, stage
from pbsdock.agent.blame import told_fault
from pbsdock.agent.finish import finish
from pbsdock.agent.refusals import refuse
from pbsdock.agent.requests.fields import env_of
from pbsdock.agent.requests.streams import StreamRestorer
from pbsdock.agent.runs import JobRun, Run, TaskRun
from pbsdock.agent.session import Session
from pbsdock.agent.start import discard_half_started, start_job
from pbsdock.agent.tasks import finish_task, start_task
from pbsdock.core.errors import BadValue, HookError, Refusal
from pbsdock.core.facts import Exit
from pbsdock.core.record import Record, Refused, State
from pbsdock.directive.parse import late_sentence
from pbsdock.engine.base import EngineError
from pbsdock.host.process import Caller, start_time
from pbsdock.protocol import wire
from pbsdock.staging.made import UMASK

_TASK = re.compile(r"[0-9a-f]{64}")  # the engine's name of an exec
_EVENT_S = 0.3  # how long the engine's own event of an end is waited for
_SIGNALS = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGCONT,
        signal.SIGTSTP,
        signal.SIGXCPU,
    }
)
_FATAL = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


class UserRequests:
    """One method a request; whose job it is about is asked in one place, :meth:`_own`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.node = session.node
        self.streams = StreamRestorer(session)

    def _own(self, message: wire.Message) -> Record | None:
        """The newest record of the job asked about, if it is the peer's own."""
        try:
            job_id = self.node.rm.job_id(message.text("job"))
        except BadValue as error:
            raise Refusal("bad-job-id", str(error)) from None
        record = self.node.jobs.newest(job_id)
        if record is not None and record.uid != self.session.peer.uid:
            self.node.emit("client.refused", record, level="warning", uid=self.session.peer.uid, op=message.op)
            raise Refusal("not-your-job", f"job {job_id} belongs to another user")
        return record

    def start(self, message: wire.Message) -> None:
        self.session.must_be_free(is_again=bool(message.number("again")))
        if self.session.peer.uid == 0:
            raise Refusal("root-start", "a job is never started as root; install the run hook as $job_starter only")
        record = self._own(message)
        if record is None or (message.text("directive") and prepare.is_of_script(record)):
            record = self._on_demand(message) or record
        if record is None:
            # The hook saw the marker: a container was prepared, and released since. Never run on the host in its place.
            raise Refusal(
                "no-such-job",
                f"what was prepared for job {message.text('job')} is gone; nothing was started, please submit it again",
            )
        if record.state is State.REFUSED:
            refusal = record.refusal or Refused(code="refused", sentence="refused")
            raise Refusal(refusal.code, refusal.sentence)
        self._await_stage_in(record, message.number("umask", UMASK))
        with self.node.job_lock(record.job_id, 120.0):
            running, stream = self._started(record, message)
        is_job = isinstance(running, JobRun)
        if record.facts.nodes > 1 and is_job:
            self.session.notify("tasks on the other nodes of this job run there without the container")
        if (late := record.facts.late_line) and is_job:
            self.session.notify(late_sentence(late, contained=True))
        told = self._adoption(record, running)
        started = wire.Message("started", pid=running.pid, task="" if is_job else running.key, **told)
        with self.node.streams.giving(running, stream) as fd:
            self.session.answer(started, [fd])
            self.session.running, over = running, running.join(self.session.channel)
        if over is not None:
            self.session.answer_end(running, over)
        if record.facts.tty and is_job:
            self.resize(message)

    def _started(self, record: Record, message: wire.Message) -> tuple[Run, socket.socket]:
        if message.number("again"):
            discard_half_started(self.node, record, message)
        if record.state is State.READY:
            peer = self.session.peer
            try:
                return start_job(self.node, record, message, Caller(peer.pid, peer.uid, peer.started))
            except (HookError, EngineError) as error:
                record.note(fault=told_fault(error, self.node.name))
                raise
        if record.state is State.RUNNING:
            return start_task(self.node, record, message)
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

    def _on_demand(self, message: wire.Message) -> Record | None:
        directive = message.text("directive")
        if not directive:
            return None
        live = self.node.rm.find(message.text("job"))
        if live is None:
            raise Refusal("no-such-job", f"job {message.text('job')} is not alive on {self.node.name}")
        if live.uid != self.session.peer.uid:
            raise Refusal("not-your-job", f"job {live.id} belongs to another user")
        return prepare.on_demand(self.node, live.job(env_of(message)), directive, self.session.notify, live.wrong)

    def _adoption(self, record: Record, running: Run) -> Mapping[str, str]:
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
        if (over := running.join(self.session.channel)) is not None:
            self.session.answer_end(running, over)
        elif isinstance(running, JobRun) and not message.number("attached"):
            if owner is self.session.channel and not self.node.streams.is_lost(running):
                raise Refusal("stream-not-lost", f"the streams of job {record.job_id} are not lost")
            self.streams.check_again(running)
            try:
                self.streams.reattach(running)
            except (EngineError, HookError):
                self.streams.begin_to_restore(running)

    def _task(self, record: Record, task: str) -> TaskRun:
        """A task of this very job: what others' are called is no secret, since /proc and the cgroup tree show it.

        One that no agent remembers is looked up in the engine, which alone knows whose container it is in.
        """
        running = self.node.jobs.task_run(task)
        if running is None and _TASK.fullmatch(task):
            running = TaskRun(record=record, exec_id=task)
            try:
                found = self.node.engine.exec_inspect(task)
            except EngineError:
                finish_task(self.node, running)  # forgotten: its end is told, and not kept
                return running
            if found.container_id == record.container_id:
                running.pid = found.pid
                running.pid_start = start_time(running.pid)
                return self.node.jobs.add_unless_known(running)
            running = None
        if running is None or running.record.incarnation != record.incarnation:
            raise Refusal("no-such-task", f"job {record.job_id} has no such task here")
        return running

    def _mine(self, message: wire.Message) -> Run:
        record = self._own(message)
        running = self.node.jobs.run(message.text("task") or record.incarnation) if record else None
        if running is None or record is None or running.record.incarnation != record.incarnation:
            raise Refusal("not-running", f"job {message.text('job')} has nothing running here")
        return running

    def signal(self, message: wire.Message) -> None:
        number = message.number("signal")
        if number not in _SIGNALS:
            raise Refusal("bad-signal", f"signal {number} is not passed on")
        running = self._mine(message)
        if running.record.state is State.STAGING:
            if number in _FATAL:
                stage.interrupt(self.node, running.record, f"the job got {signal.Signals(number).name}")
            return
        count = signals.send(self.node, running, number)
        self.node.emit("job.signalled", running.record, signal=signal.Signals(number).name, processes=count)

    def resize(self, message: wire.Message) -> None:
        rows, columns = message.number("rows"), message.number("columns")
        if 0 < rows < 10000 and 0 < columns < 10000 and not message.text("task"):
            running = self._mine(message)
            if not running.record.facts.tty:
                return
            try:
                self.node.engine.resize(running.record.container_id or "", rows, columns)
            except EngineError:
                pass  # the container ended meanwhile

    def adopted(self, message: wire.Message) -> None:
        running, status = self._mine(message), message.number("status")
        if status == 0:
            self.node.emit("job.adopted", running.record, pid=running.pid)
        else:
            reason = f"{self.node.rm.words.adopter} ended with {status}"
            self.node.emit("job.adoption_skipped", running.record, reason=reason)

    def eof(self, message: wire.Message) -> None:
        """The streams are over; the job is so too, or the engine dropped the connection."""
        running = self._mine(message)
        if running.channel is not self.session.channel:
            raise Refusal("not-your-stream", "only the run hook that was given a job's streams can have lost them")
        if running.over.wait(_EVENT_S):
            return
        if isinstance(running, JobRun) and (running.is_alive() or not self.node.engine.probe()):
            if not self.node.streams.is_lost(running):
                raise Refusal("stream-not-lost", f"the streams of job {running.record.job_id} are not lost")
            if running.restoring is not self.session.channel:
                self.streams.check_again(running)
                self.streams.begin_to_restore(running)
            return
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            if isinstance(running, TaskRun):
                finish_task(self.node, running)
            elif isinstance(running, JobRun):
                finish(self.node, running)
            if running.over.wait(0.05):
                return
