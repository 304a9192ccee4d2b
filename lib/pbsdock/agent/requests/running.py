"""What a run hook asks for and tells while its job, or a task, runs."""

from __future__ import annotations

import signal
import time

from pbsdock.agent import signals, stage, suspend
from pbsdock.agent.call import read_answer
from pbsdock.agent.exec_tasks import finish_exec
from pbsdock.agent.finish import finish
from pbsdock.agent.held_tasks import let_go
from pbsdock.agent.requests.own import OwnRequests
from pbsdock.agent.runs import ExecRun, JobRun, TaskRun
from pbsdock.agent.tasks import finish_task
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.record import State
from pbsdock.engine.base import EngineError
from pbsdock.protocol import wire

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


class RunningRequests(OwnRequests):
    """One method a request."""

    def signal(self, message: wire.Message) -> None:
        number = message.number("signal")
        if number not in _SIGNALS:
            raise Refusal("bad-signal", f"signal {number} is not passed on")
        running = self._mine(message)
        if running.record.state is State.STAGING:
            if number in _FATAL:
                stage.interrupt(self.node, running.record, f"the job got {signal.Signals(number).name}")
            return
        if running.record.facts.first_process:  # which the run hook has told itself
            if isinstance(running, JobRun) and number == signal.SIGCONT:
                suspend.freeze(self.node, running, False)
            self.node.emit("job.signalled", running.record, signal=signal.Signals(number).name)
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

    def over(self, message: wire.Message) -> None:
        """What the first process has told of the end; without a kind it was gone before it told."""
        running = self._mine(message)
        if running.channel is not self.session.channel or not running.record.facts.first_process:
            raise Refusal("not-your-run", "only the run hook that waits for a run can tell how it ended")
        if message.text("kind"):
            running.said = read_answer(message)
        if isinstance(running, JobRun):
            finish(self.node, running)
        elif isinstance(running, TaskRun):
            finish_task(self.node, running)

    def held(self, message: wire.Message) -> None:
        """Which process a task is, that the first process holds for it."""
        running = self._mine(message)
        if running.channel is not self.session.channel or not isinstance(running, TaskRun):
            raise Refusal("not-your-run", "only the run hook that waits for a task can tell which process it is")
        try:
            let_go(self.node, running, message.number("pid"), self.session.peer.pid)
        except (Refusal, NodeFault) as error:  # the run hook hears of its end from the first process
            self.session.notify(error.sentence)

    def eof(self, message: wire.Message) -> None:
        """The engine's streams are over; the job is so too, or the engine dropped the connection."""
        running = self._mine(message)
        if running.channel is not self.session.channel:
            raise Refusal("not-your-stream", "only the run hook that was given a job's streams can have lost them")
        if running.over.wait(_EVENT_S):
            return
        if isinstance(running, JobRun) and (running.is_alive() or not self.node.engine.probe()):
            lose_output(running)
            return
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            if isinstance(running, ExecRun):
                finish_exec(self.node, running)
            elif isinstance(running, JobRun):
                finish(self.node, running)
            if running.over.wait(0.05):
                return


def lose_output(running: JobRun) -> None:
    """The output of a job that runs on is lost from here on, which its end will say."""
    running.stream_lost_at = running.stream_lost_at or time.time()
