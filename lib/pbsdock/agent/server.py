"""The agent's door: a unix socket on which root asks for everything and a user for their own job only."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pbsdock import torque, wire
from pbsdock.agent import facts, prepare, stage, vigil
from pbsdock.agent.channel import Channel, ClientGone
from pbsdock.agent.finish import AWAY, begin_stage_out, finish
from pbsdock.agent.manners import Held, Manners, cost
from pbsdock.agent.memory import few_arenas
from pbsdock.agent.node import Node, Running
from pbsdock.agent.process import Caller, start_time
from pbsdock.agent.reconcile import reconcile
from pbsdock.agent.release import release
from pbsdock.agent.service import Service
from pbsdock.agent.start import discard_half_started, finish_task, start_job, start_task
from pbsdock.agent.watch import Watcher
from pbsdock.config import Config, ConfigError, load
from pbsdock.doctor_engine import untrusted
from pbsdock.engine import EngineError
from pbsdock.errors import HookError, NodeFault, Refusal
from pbsdock.events import EventStream
from pbsdock.ledger import Ledger, Record
from pbsdock.paths import Paths
from pbsdock.redact import known

if TYPE_CHECKING:
    from pbsdock.credentials.secret import Secret

_FIRST_MESSAGE_S = 10.0
_ROOM_S = 120.0  # how long a request waits until its user's others have been answered
_JOB_FILE_S = 5.0  # how long mom's file of a job that has just begun is waited for
_AWAITED = 32  # such waits of one user at a time
_TASK = re.compile(r"[0-9a-f]{64}")  # the engine's name of an exec
_ALIVE_S = 20.0  # how long a root hook is left without a message, of which both its clients take 120 s at least
_READ_S = 10.0  # how long a client may take to read an answer
_ACCEPT_S = 30.0
_EVENT_S = 0.3  # how long the engine's own event of an end is waited for
_SIGNALS = frozenset({
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT,
    signal.SIGTSTP, signal.SIGXCPU,
})  # fmt: skip
_FATAL = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_ROOT_OPS = frozenset({"prepare", "failed", "release", "sweep", "reap", "list"})
_PBS_TRACK = ("/usr/local/bin/pbs_track", "/usr/bin/pbs_track", "/opt/torque/bin/pbs_track")


class Peer:
    """Who is at the other end, as the kernel says (unix(7), SO_PEERCRED)."""

    def __init__(self, connection: socket.socket) -> None:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.pid, self.uid, self.gid = struct.unpack("3i", raw)
        self.started = start_time(self.pid)


class Connection:
    """One client, one thread."""

    def __init__(self, node: Node, connection: socket.socket, peer: Peer, manners: Manners) -> None:
        self.node = node
        self.channel = Channel(connection)
        self.peer = peer
        self.manners = manners
        self.running: Running | None = None

    def serve(self) -> None:
        """Answer messages until the client goes."""
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """Answer one message, and keep nothing of it; False if the client goes."""
        if (size := self._announced()) is None:
            return False
        self.manners.wait(self.peer.uid)
        with self.manners.held(self.peer.uid) as held:
            message = self._recv(size, held)
            if message is None:
                return False
            try:
                self._handle(message)
            except Refusal as error:
                self._answer(wire.Message("refused", code=error.code, sentence=error.sentence))
            except NodeFault as error:
                self._answer(wire.Message("fault", code=error.code, sentence=error.sentence))
            except (EngineError, HookError) as error:
                self._answer(wire.Message("fault", code="engine-error", sentence=str(error)))
            except torque.BadValue as error:  # told, not hung up on: a hook would take silence for a dead agent
                self.node.emit("client.refused", level="warning", uid=self.peer.uid, reason=str(error))
                self._answer(wire.Message("refused", code="bad-request", sentence=str(error)))
            except (ClientGone, wire.WireError):
                raise
            except Exception as error:  # a full disk, no descriptors, a slip of ours: the client is there, and is told
                self._unforeseen(message.op, error)
        return True

    def _unforeseen(self, op: str, error: Exception) -> None:
        self.node.emit("agent.error", level="error", where=op, uid=self.peer.uid, reason=repr(error)[:500])
        what = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        sentence = f"the pbsdock agent of {self.node.name} could not do this: {what}"
        self._answer(wire.Message("fault", code="agent-error", sentence=sentence))

    def leave(self) -> None:
        """The client is gone: what it waited for is told to whoever comes back for it."""
        if self.running is not None:
            self.running.leave(self.channel)

    def _announced(self) -> int | None:
        # Only a run hook whose job runs has a reason to be silent for long.
        waits = self.running is not None and not self.running.over.is_set()
        header = self.channel.read(wire.HEADER, None if waits else _FIRST_MESSAGE_S)
        return None if header is None else wire.length(header, self.node.config.agent.message_bytes)

    def _recv(self, size: int, held: Held) -> wire.Message | None:
        # What is not read yet lies in the client's own memory: it may wait there for room here.
        if not held.grow(cost(size, 0), _ROOM_S):
            self._too_much()
            return None
            return None
        payload = self.channel.read(size, self.node.config.agent.request_timeout_s)
        if payload is None:
            return None
        if not held.grow(cost(size, payload.count(b"\0") + 1), _ROOM_S):
            self._too_much()
            return None
        return wire.decode(payload)

    def _too_much(self) -> None:
        self.node.emit("client.refused", level="warning", uid=self.peer.uid, reason="too many bytes under way")

    def _answer(self, message: wire.Message, fds: list[int] | None = None) -> None:
        if "sentence" in message.fields:
            message.fields["sentence"] = [known.clean(one.decode("utf-8", "replace")).encode("utf-8", "replace")
                                          for one in message.fields["sentence"]]
        if fds:
            message.fields["fds"] = [str(len(fds)).encode()]  # the kernel may deliver them with an earlier message
        self.channel.send(message, fds or [], wait_s=_READ_S)

    def _notify(self, sentence: str) -> None:
        try:
            self._answer(wire.Message("notice", sentence=sentence))
        except ClientGone:
            pass

    @contextmanager
    def _kept_waiting(self) -> Iterator[None]:
        """Let a root hook know now and then, by a notice without a sentence, that it is still at work for it.

        How long a hook may wait is mom's to say, who ends it ($prologalarm): one that gave up before would let the
        job's directories go while its results are staged out.
        """
        over = threading.Event()

        def tell() -> None:
            while not over.wait(_ALIVE_S):
                self._notify("")

        with suppress(RuntimeError):  # no thread more can be had
            threading.Thread(target=tell, name="alive", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _handle(self, message: wire.Message) -> None:
        if message.op in _ROOT_OPS and self.peer.uid != 0:
            self.node.emit("client.refused", level="warning", uid=self.peer.uid, op=message.op)
            raise Refusal("root-only", f"{message.op} is for root; you may start, signal and ask about your own job")
        handlers: dict[str, Callable[[wire.Message], None]] = {
            "prepare": self._prepare, "failed": self._failed, "release": self._release, "sweep": self._sweep,
            "reap": self._reap,
            "list": self._list, "start": self._start, "rejoin": self._rejoin, "signal": self._signal,
            "resize": self._resize, "adopted": self._adopted, "eof": self._eof, "ping": self._ping,
        }  # fmt: skip
        if message.op not in handlers:
            raise Refusal("unknown-request", f"the agent knows no request {message.op!r}")
        handlers[message.op](message)

    # -- root's requests ----------------------------------------------------------------------------------------

    def _prepare(self, message: wire.Message) -> None:
        argv = _argv(message)
        try:
            with self._kept_waiting():
                record = prepare.from_prologue(self.node, argv, _env(message), self._notify)
        except torque.BadValue as error:
            self._answer(self._aborted(argv, str(error)))
            return
        except Exception as error:
            record = prepare.failed(self.node, argv, error)
        try:
            self._answer(wire.Message("prepared", state=record.state if record else "none"))
        except ClientGone:
            # Mom has killed the prologue meanwhile, and its epilogue may be over: nobody else would release this.
            if record is not None:
                with self.node.job_lock(record.job_id, 90.0):
                    release(self.node, record, why="prologue-gone")
            raise

    def _aborted(self, argv: list[str], reason: str) -> wire.Message:
        """What names no job can have no record to be told from, and would be the same on every node."""
        if not prepare.has_directive(argv):
            return wire.Message("prepared", state="none")
        job = argv[0] if argv else ""
        self.node.emit("job.refused", job=job, code="bad-arguments", sentence=reason, phase="prologue")
        return wire.Message("aborted", sentence=f"the job is ended: {reason}")

    def _failed(self, message: wire.Message) -> None:
        """The prologue's agent was gone in the middle of it, or gave no answer; this one is here."""
        sentence = f"the agent of {self.node.name} gave no answer about the job"
        prepare.failed(self.node, _argv(message), NodeFault("agent-error", sentence))
        self._answer(wire.Message("prepared", state="refused"))

    def _release(self, message: wire.Message) -> None:
        with self._kept_waiting():
            self._release_now(_argv(message))

    def _release_now(self, argv: list[str]) -> None:
        job_id = torque.parse_job_id(argv[0] if argv else "").text
        exit_status = _exit_status(argv)
        asked = time.monotonic()
        mine = self._of(job_id)
        until = time.monotonic() + self.node.config.prologue.alarm_s - self.node.config.prologue.margin_s
        for one in mine:
            stage.settle(self.node, one, until, lambda running: finish(self.node, running), self._notify)
        # Where the container is over nothing of the job runs any more: mom need not wait while the engine tidies up.
        mine = self._there(job_id, asked, mine)
        early = bool(mine) and all(one.state == "ended" and _is_revoked(one) for one in mine)
        if early:
            self._answer(wire.Message("released", clean=1))
        with self.node.job_lock(job_id, 90.0):
            mine = self._there(job_id, asked, mine)
            clean = all([release(self.node, one, why="epilogue") for one in mine])
            for one in mine:
                self._finished(one, exit_status)
        if not clean:
            self.node.emit("job.fault", level="warning", job=job_id, code="release-failed",
                           sentence="the release is not complete; the reaper goes on with it")
        if not early:
            self._answer(wire.Message("released", clean=int(clean)))

    def _of(self, job_id: str) -> list[Record]:
        return [one for one in self.node.ledger.load_all()[0] if one.job_id == job_id]

    def _there(self, job_id: str, asked: float, seen: list[Record]) -> list[Record]:
        """Those of *seen* that are still there, and what hooks have made that asked before *asked* (monotonic).

        No others: while an epilogue waits, a rerun of its job may have begun, and its records have the same job id.
        """
        return [
            one
            for one in self._of(job_id)
            if any(one is other for other in seen) or float(one.facts.get("asked_at", asked)) < asked
        ]

    def _finished(self, record: Record, exit_status: int | None) -> None:
        usage = record.facts.get("usage", {})
        end = record.exit or {}
        started = record.facts.get("started_at")
        self.node.emit(
            "job.finished", record, exit_status=exit_status, code=end.get("code"), oom=end.get("oom"),
            outcome="refused" if record.refusal else "ran" if started else "not-started",
            image_digest=record.image_digest, memory_peak_bytes=usage.get("memory_peak_bytes"),
            cpu_seconds=usage.get("cpu_seconds"), io_read_bytes=usage.get("io_read_bytes"),
            io_write_bytes=usage.get("io_write_bytes"), pids_peak=usage.get("pids_peak"),
            run_s=round(end["at"] - started, 3) if started and "at" in end else None,
            total_s=round(time.time() - record.created, 3), phase="epilogue",
        )

    def _sweep(self, message: wire.Message) -> None:
        job_id = torque.parse_job_id(_argv(message)[0]).text
        asked = time.monotonic()
        older = self._of(job_id)
        with self.node.job_lock(job_id, 60.0):
            count = prepare.sweep(self.node, self._there(job_id, asked, older))
        self._answer(wire.Message("swept", count=count))

    def _reap(self, message: wire.Message) -> None:
        done = reconcile(self.node, dry_run=bool(message.number("dry_run")))
        self._answer(wire.Message("reaped", json=json.dumps(done.to_dict())))

    def _list(self, _message: wire.Message) -> None:
        records, problems = self.node.ledger.load_all()
        rows = [
            {
                "job": one.job_id, "user": one.user, "state": one.state, "image": (one.plan or {}).get("image"),
                "container": one.container_id, "since": one.created, "incarnation": one.incarnation,
            }
            for one in records
        ]
        self._answer(wire.Message("jobs", json=json.dumps({"jobs": rows, "problems": [str(one) for one in problems]})))

    def _ping(self, _message: wire.Message) -> None:
        self._answer(wire.Message("pong", pid=os.getpid()))

    # -- a user's requests --------------------------------------------------------------------------------------

    def _own(self, message: wire.Message) -> Record | None:
        """The newest record of the job asked about, if it is the peer's own."""
        try:
            job_id = torque.parse_job_id(message.text("job")).text
        except torque.BadValue as error:
            raise Refusal("bad-job-id", str(error)) from None
        record = self.node.ledger.for_job(job_id)
        if record is not None and record.uid != self.peer.uid:
            self.node.emit("client.refused", record, level="warning", uid=self.peer.uid, op=message.op)
            raise Refusal("not-your-job", f"job {job_id} belongs to another user")
        return record

    def _start(self, message: wire.Message) -> None:
        self._must_be_free(is_again=bool(message.number("again")))
        if self.peer.uid == 0:
            raise Refusal("root-start", "a job is never started as root; install the run hook as $job_starter only")
        record = self._own(message) or self._on_demand(message)
        if record is None:
            # The hook saw the marker: a container was prepared, and released since. Never run on the host in its place.
            raise Refusal(
                "no-such-job", f"what was prepared for job {message.text('job')} is gone; nothing was started, please"
                " submit it again",
            )  # fmt: skip
        if record.state == "refused":
            refusal = record.refusal or {}
            raise Refusal(refusal.get("code", "refused"), refusal.get("sentence", "refused"))
        with self._in_turn(record, message):
            self._await_stage_in(record)
            with self.node.job_lock(record.job_id, 120.0):
                running, stream = self._started(record, message)
        if record.facts.get("nodes", 1) > 1 and not running.exec_id:
            self._notify("tasks on the other nodes of this job run there without the container")
        if lost := record.facts.pop("cwd_lost", None):
            self._notify(f"the job's directory {lost} is not in the container; it starts in /")
        started = wire.Message("started", pid=running.pid, task=running.exec_id, pbs_track=self._pbs_track(record))
        with self.node.streams.giving(running, stream) as fd:
            self._answer(started, [fd])
            self.running, over = running, running.join(self.channel)
        if over is not None:
            self._answer_end(running, over)
        if record.facts.get("tty") and not running.exec_id:
            self._resize(message)

    @contextmanager
    def _in_turn(self, record: Record, message: wire.Message) -> Iterator[None]:
        """One start of a prepared job's shell at a time: mom asks once, and there are no tasks before it runs.

        One more may be asked for in its place when an agent or engine was lost. Where there was no prologue (a task on
        another node of the job) all tasks ask at once, and whichever is first is the container's. Raises Refusal.
        """
        if record.state != "ready" or not record.script_path:
            yield
            return
        most = 2 if message.number("again") else 1
        with self.manners.under_way(("start", record.incarnation), most) as granted:
            if not granted:
                raise Refusal("busy", f"job {record.job_id} is being started already")
            yield

    def _started(self, record: Record, message: wire.Message) -> tuple[Running, socket.socket]:
        if message.number("again"):
            discard_half_started(self.node, record, message)
        if record.state == "ready":
            caller = Caller(self.peer.pid, self.peer.uid, self.peer.started)
            return start_job(self.node, record, message, caller)
        if record.state == "running":
            return start_task(self.node, record, message)
        raise Refusal("job-over", f"job {record.job_id} is over; nothing can be started in it any more")

    def _must_be_free(self, *, is_again: bool = False, of: Running | None = None) -> None:
        """One run a connection: whoever may start many must hold as many connections, which are counted."""
        mine = self.running
        if mine is not None and mine is not of and not is_again and not mine.over.is_set():
            raise Refusal("one-run-a-connection", "what was started by this connection still runs")

    def _answer_end(self, running: Running, over: wire.Message) -> None:
        self._answer(over)
        running.record.facts.pop("untold", None)  # now it is; the epilogue need not

    def _await_stage_in(self, record: Record) -> None:
        """Wait without the job's lock, which an epilogue may want meanwhile."""
        if record.state != "ready":
            return
        try:
            said = stage.await_in(self.node, record, lambda: self._answer(wire.Message("waiting")))
        except Refusal as error:
            with self.node.job_lock(record.job_id, 120.0):
                if record.state == "ready":
                    prepare.refuse(self.node, record, error)
            raise
        for sentence in said:
            self._notify(sentence)

    def _on_demand(self, message: wire.Message) -> Record | None:
        directive = message.text("directive")
        if not directive:
            return None
        job_id = torque.parse_job_id(message.text("job"))
        name, file = self.node.job_files.find(job_id) or self._await_job_file(job_id)
        if file.uid != self.peer.uid:
            raise Refusal("not-your-job", f"job {job_id.text} belongs to another user")
        job = facts.from_job_file(name, file, self.node.name, _env(message), self.node.paths.mom_priv)
        return prepare.on_demand(self.node, job, directive, self._notify, file.wrong)

    def _await_job_file(self, job_id: torque.JobId) -> tuple[str, torque.JobFile]:
        """A job's .JB may come a moment after its shell. Raises Refusal if it does not, or too many are waited for."""
        gone = Refusal("no-such-job", f"job {job_id.text} is not alive on {self.node.name}")
        with self.manners.under_way(("job file", self.peer.uid), _AWAITED) as granted:
            if not granted:
                raise gone
            pause, deadline = 0.02, time.monotonic() + _JOB_FILE_S
            while time.monotonic() < deadline:
                time.sleep(pause)
                pause = min(2 * pause, 0.32)
                if (found := self.node.job_files.find(job_id)) is not None:
                    return found
        raise gone

    def _pbs_track(self, record: Record) -> str:
        for path in _PBS_TRACK:
            if os.access(path, os.X_OK):
                return path
        self.node.emit("job.adoption_skipped", record, reason="pbs_track is not installed on this node")
        return ""

    def _rejoin(self, message: wire.Message) -> None:
        record = self._own(message)
        if record is None:
            raise Refusal("no-such-job", f"job {message.text('job')} has no container here")
        task = message.text("task")
        running = self._task(record, task) if task else self.node.running.get(record.incarnation)
        if running is None:
            end = record.exit or {"code": 137, "sentences": []}
            sentences = [str(one).encode() for one in end.get("sentences", [])]
            self._answer(wire.Message("ended", code=end["code"], sentence=sentences))
            record.facts.pop("untold", None)
            return
        self._must_be_free(of=running)
        owner = running.channel
        if owner is not None and owner is not self.channel and not owner.is_gone:
            raise Refusal("has-a-run-hook", f"the run hook of job {record.job_id} is there and waits for it")
        self.running = running
        if (over := running.join(self.channel)) is not None:
            self._answer_end(running, over)
        elif not message.number("attached") and not task:
            if owner is self.channel and not self.node.streams.is_lost(running):
                raise Refusal("stream-not-lost", f"the streams of job {record.job_id} are not lost")
            self._may_have_another(running)
            try:
                self._reattach(running)
            except (EngineError, HookError):
                self._begin_to_restore(running)

    def _task(self, record: Record, task: str) -> Running:
        """A task of this very job: what others' are called is no secret, since /proc and the cgroup tree show it.

        One that no agent remembers is looked up in the engine, which alone knows whose container it is in.
        """
        running = self.node.running.get(task)
        if running is None and _TASK.fullmatch(task):
            running = Running(record=record, exec_id=task)
            try:
                is_ours = self.node.engine.exec_inspect(task).get("ContainerID") == record.container_id
            except EngineError:
                finish_task(self.node, running)  # forgotten: its end is told, and not kept
                return running
            if is_ours:
                return self.node.running.setdefault(task, running)
            running = None
        if running is None or not running.exec_id or running.record.incarnation != record.incarnation:
            raise Refusal("no-such-task", f"job {record.job_id} has no such task here")
        return running

    def _reattach(self, running: Running, sentence: str = "") -> None:
        """Hand over new streams. A shell that never got its script's path is started anew: by new streams it would get
        the path, but no end of input (observed after a restart of Docker 20.10 with live-restore)."""
        record = running.record
        if not record.facts.get("tty") and running.awaits_script():
            self._answer(wire.Message("again"))
            return
        stream = self.node.engine.attach(record.container_id or record.container_name)
        with self.node.streams.giving(running, stream) as fd:
            self._answer(wire.Message("attached", sentence=sentence), [fd])

    def _may_have_another(self, running: Running) -> None:
        if not self.node.streams.again(running):
            running.stream_lost_at = running.stream_lost_at or time.time()
            raise Refusal(
                "too-many-streams", f"the streams of job {running.record.job_id} were lost again and again although the"
                " Docker engine was there; they are not opened any more",
            )  # fmt: skip

    def _mine(self, message: wire.Message) -> Running:
        record = self._own(message)
        running = self.node.running.get(message.text("task") or record.incarnation) if record else None
        if running is None or record is None or running.record.incarnation != record.incarnation:
            raise Refusal("not-running", f"job {message.text('job')} has nothing running here")
        return running

    def _signal(self, message: wire.Message) -> None:
        number = message.number("signal")
        if number not in _SIGNALS:
            raise Refusal("bad-signal", f"signal {number} is not passed on")
        running = self._mine(message)
        if running.record.state == "staging":
            if number in _FATAL:
                stage.interrupt(self.node, running.record, f"the job got {signal.Signals(number).name}")
            return
        count = self.node.signal(running, number)
        self.node.emit("job.signalled", running.record, signal=signal.Signals(number).name, processes=count)

    def _resize(self, message: wire.Message) -> None:
        rows, columns = message.number("rows"), message.number("columns")
        if 0 < rows < 10000 and 0 < columns < 10000 and not message.text("task"):
            running = self._mine(message)
            if not running.record.facts.get("tty"):
                return
            try:
                self.node.engine.resize(running.record.container_id or "", rows, columns)
            except EngineError:
                pass  # the container ended meanwhile

    def _adopted(self, message: wire.Message) -> None:
        running, status = self._mine(message), message.number("status")
        if status == 0:
            self.node.emit("job.adopted", running.record, pid=running.pid)
        else:
            self.node.emit("job.adoption_skipped", running.record, reason=f"pbs_track ended with {status}")

    def _eof(self, message: wire.Message) -> None:
        """The streams are over; the job is so too, or the engine dropped the connection."""
        running = self._mine(message)
        if running.channel is not self.channel:
            raise Refusal("not-your-stream", "only the run hook that was given a job's streams can have lost them")
        if running.over.wait(_EVENT_S):
            return
        if not running.exec_id and (running.is_alive() or not self.node.engine.probe()):
            if not self.node.streams.is_lost(running):
                raise Refusal("stream-not-lost", f"the streams of job {running.record.job_id} are not lost")
            if running.restoring is not self.channel:
                self._may_have_another(running)
                self._begin_to_restore(running)
            return
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            (finish_task if running.exec_id else finish)(self.node, running)
            if running.over.wait(0.05):
                return

    def _begin_to_restore(self, running: Running) -> None:
        running.restoring, running.stream_lost_at = self.channel, time.time()
        threading.Thread(target=self._restore_stream, args=(running,), daemon=True).start()

    def _restore_stream(self, running: Running) -> None:
        """Attach again as soon as the engine answers: with live-restore the container runs on without it."""
        try:
            self._restore(running)
        finally:
            if running.restoring is self.channel:
                running.restoring = None

    def _restore(self, running: Running) -> None:
        while not running.over.wait(0.2) and running.channel is self.channel:
            if not self.node.engine.probe():
                continue
            if not running.is_alive():
                finish(self.node, running)
                continue
            away = math.ceil(time.time() - (running.stream_lost_at or 0.0))
            sentence = f"{AWAY} for {away} s; anything the job wrote meanwhile is missing from its output"
            try:
                self._reattach(running, sentence)
                running.stream_lost_at = None
                return
            except (EngineError, HookError):
                continue  # it has ended, or the engine is gone again
            except ClientGone:
                return  # the run hook is gone, or comes back and asks for itself


def _is_revoked(record: Record) -> bool:
    """Whether nothing of the job's works any more at any store."""
    return bool(record.steps.get("credentials", {"gone": True}).get("gone"))


def _exit_status(argv: list[str]) -> int | None:
    """As an epilogue was told it, if it was: whatever the arguments, a job has to be released."""
    try:
        return torque.parse_epilogue_argv(argv).exit_status
    except torque.BadValue:
        return None


def _argv(message: wire.Message) -> list[str]:
    return [one.decode("utf-8", "surrogateescape") for one in message.raw("argv")]


def _env(message: wire.Message) -> dict[str, str]:
    pairs = (one.decode("utf-8", "surrogateescape").partition("=") for one in message.raw("env"))
    return {name: value for name, _, value in pairs}


class Door:
    """Accepts connections, bounded in all and per user, a thread each."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.manners = Manners(node.config.agent.max_connections, node.config.agent.message_bytes)

    def open(self, service: Service) -> socket.socket:
        """Take the service manager's socket, or bind one in place of the file a dead agent left (the lock says so)."""
        if (given := service.socket()) is not None:
            return given
        path = str(self.node.paths.socket)
        for stale in self.node.paths.run_dir.glob("agent.sock.*"):
            stale.unlink(missing_ok=True)  # of an agent that was killed just here
        temporary = f"{path}.{os.getpid()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(temporary)
        os.chmod(temporary, 0o666)  # noqa: S103 - everybody may knock, SO_PEERCRED decides
        listener.listen(512)
        os.rename(temporary, path)
        return listener

    def accept_for_ever(self, listener: socket.socket) -> None:
        """Serve until the process ends."""
        threading.current_thread().name = "accept"
        self.node.pulse.watch(threading.current_thread())
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                time.sleep(0.05)  # out of descriptors: clients wait in the backlog meanwhile
                continue
            with self.node.pulse.at_work(_ACCEPT_S):
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        peer = Peer(connection)
        if not self.manners.enter(peer.uid):
            connection.close()
            return
        try:
            threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()
        except RuntimeError:  # no thread more can be had: who comes later may find one
            connection.close()
            self.manners.leave(peer.uid)

    def _serve(self, connection: socket.socket, peer: Peer) -> None:
        served = Connection(self.node, connection, peer, self.manners)
        try:
            with connection:
                try:
                    served.serve()
                finally:
                    served.leave()
        except (ClientGone, wire.WireError):
            pass  # the client went, stalled, or does not speak our language: nothing is owed to it
        except torque.BadValue as error:
            self.node.emit("client.refused", level="warning", uid=peer.uid, reason=str(error))
        except Exception as error:
            self.node.emit("agent.error", level="error", where="connection", uid=peer.uid, reason=repr(error)[:500])
        finally:
            self.manners.leave(peer.uid)


def adopt(node: Node) -> None:
    """After a restart: go on with what runs, finish what ended meanwhile, release what was half prepared."""
    records, _problems = node.ledger.load_all()
    adopted = 0
    for record in records:
        if record.boot_id != node.boot:
            continue
        if record.state in ("running", "staging"):
            pid, started = (int(record.facts.get(one) or 0) for one in ("pid", "pid_start"))
            running = Running(record=record, pid=pid, pid_start=started)
            node.running[record.incarnation] = running
            adopted += 1
            node.stores.recall(record, node.store_dir(record))
            if record.state == "staging":
                begin_stage_out(node, running)
        elif record.state in ("preparing", "releasing"):
            with node.job_lock(record.job_id, 10.0):
                release(node, record, why="agent-restarted")
    if records:
        node.emit("agent.adopted", records=len(records), running=adopted)


def serve(paths: Paths, service: Service) -> int:
    """Run the agent until it is told to stop; returns its exit code."""
    for problem in untrusted(paths):
        return _unusable(paths, "untrusted-files", f"pbsdock does not run from files others can change: {problem}")
    try:
        config = load(paths.config)
    except (ConfigError, OSError) as error:
        service.turn_away()
        return _unusable(paths, "bad-configuration", f"the configuration is not usable: {error}")
    few_arenas()
    events = EventStream.from_config(config.events, paths.log_dir, socket.gethostname())
    ledger = Ledger(paths.state_dir / "jobs")
    node = Node(paths, config, events, ledger)
    for directory, mode in ((paths.run_dir, 0o755), (paths.markers, 0o711), (paths.work, 0o700), (paths.pins, 0o700)):
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        directory.chmod(mode)
    _note_stores(paths, config)
    node.emit("agent.started", pid=os.getpid(), version=_version())
    signal.signal(signal.SIGTERM, lambda *_: _stop(node, service))
    adopt(node)
    Watcher(node).start()
    _offer_sessions(node)
    door = Door(node)
    listener = door.open(service)
    threading.Thread(target=lambda: reconcile(node), daemon=True).start()
    vigil.keep(node, is_watched=bool(service.watchdog_s))
    service.ready(str(paths.socket), lambda: not node.pulse.stuck())
    door.accept_for_ever(listener)
    return 0


def _offer_sessions(node: Node) -> None:
    """Open the endpoint for clients in containers, where there is anything to be had from it."""
    if not node.config.s3 or not node.config.agent.credentials_port:
        return
    from pbsdock.agent.endpoint import Endpoint

    def answer(incarnation: str, store: str) -> Secret | None:
        found = [one for one in node.ledger.load_all()[0] if one.incarnation == incarnation and one.state == "running"]
        return node.stores.session(found[0], store) if found else None

    try:
        Endpoint(node.config.agent.credentials_port, node.stores.sessions, answer).start()
    except OSError as error:
        reason = f"no sessions on port {node.config.agent.credentials_port} of 127.0.0.1: {error.strerror}"
        node.emit("agent.error", level="warning", where="credentials-port", reason=reason)


def _note_stores(paths: Paths, config: Config) -> None:
    """Leave word for the node check whether this node has object stores, and so always needs an agent."""
    file = paths.state_dir / "stores"
    if config.s3:
        file.write_text("".join(f"{name}\n" for name in config.s3))
    else:
        file.unlink(missing_ok=True)


def _stop(node: Node, service: Service) -> None:
    service.stopping()
    node.events.tell_limited(now=True)
    node.emit("agent.stopped", pid=os.getpid())
    os._exit(0)


def _unusable(paths: Paths, code: str, text: str) -> int:
    sentence = " ".join(text.split())
    try:
        paths.unhealthy.write_text(f"{sentence}\n{code}\n")
        paths.unhealthy.chmod(0o644)
    except OSError:
        pass
    return 1


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pbsdock")
    except PackageNotFoundError:
        return "unknown"
