"""Notice when containers end: the engine's event stream, and the kernel where the stream was silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pbsdock.agent import health, suspend
from pbsdock.agent.children import logs
from pbsdock.agent.children.finish import finish as finish_child
from pbsdock.agent.children.mend import Mender
from pbsdock.agent.exec_tasks import finish_exec
from pbsdock.agent.finish import finish
from pbsdock.agent.memory import heap
from pbsdock.agent.node import Node
from pbsdock.agent.reconcile import reconcile
from pbsdock.agent.refresh import Refresher
from pbsdock.agent.runs import ChildRun, ExecRun, JobRun, Run, TaskRun
from pbsdock.agent.tasks import finish_task
from pbsdock.core.child import LABEL, PARENT_LABEL
from pbsdock.core.errors import HookError
from pbsdock.engine.base import EngineError, EngineEvent, EventKind

_LOOK_S = 1.0
# What one thing may take: some calls of the engine that run into their deadlines one after another; a pass of the
# reaper some releases of jobs with all they wait for.
_CALLS, _LEAST_S = 4, 10.0
_PASS_S = 1200.0


class Watcher:
    """Two threads: one on the engine's events, one that ticks. What may take long has further ones.

    Many methods because each is a step of one of them.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.stop = threading.Event()
        self.was_down = False
        self._mender = Mender(node)
        self._reaper: threading.Thread | None = None
        self._looked_at: set[str] = set()  # what a thread is finishing because its first process is gone

    def start(self) -> None:
        """Start them."""
        self._begin(self._follow, "events")
        self._begin(self._tick, "tick")
        if self.node.config.s3:
            self._begin(Refresher(self.node, self.stop).run, "refresh")

    def _begin(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self.node.pulse.watch(thread)
        return thread

    @property
    def _limit_s(self) -> float:
        return max(_LEAST_S, _CALLS * self.node.config.engine.timeout_s)

    # -- events -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self.stop.is_set():
            if self.node.engine.probe():
                try:
                    self._stream()
                except (HookError, EngineError, OSError, ValueError):
                    pass
                except Exception as error:  # whatever its client's transport raised; the stream is simply reopened
                    self.node.emit("agent.error", level="warning", where="events", reason=repr(error)[:300])
                if not self.node.engine.probe():
                    self.node.engine_lost()
            self.stop.wait(0.2)

    def _stream(self) -> None:
        with self.node.engine.events(self.node.label) as events:
            with self.node.pulse.at_work(self._limit_s):
                self.node.look_again()
                self.node.engine_back()  # where it was away for so short that no call has noticed
                self.look()  # whatever ended before the stream was open
            for event in events:
                with self.node.pulse.at_work(self._limit_s):
                    self._event(event)
        self._lost()

    def _lost(self) -> None:
        self.node.engine_lost()

    def _event(self, event: EngineEvent) -> None:
        if (child := event.labels.get(LABEL)) is not None:
            self._child(event, child)
            return
        is_exec = event.kind is EventKind.EXEC_DIED
        running = self.node.jobs.run(event.exec_id if is_exec else event.labels.get("pbsdock.incarnation", ""))
        if running is None:
            return
        if event.kind is EventKind.OUT_OF_MEMORY:
            if isinstance(running, JobRun):
                running.out_of_memory = True
            return
        threading.Thread(target=self._finish, args=(running, event.exit_code), daemon=True).start()

    def _child(self, event: EngineEvent, name: str) -> None:
        running = self.node.jobs.child_run(event.labels.get(PARENT_LABEL, ""), name)
        if running is not None and event.kind is EventKind.CONTAINER_DIED:
            threading.Thread(target=self._finish, args=(running,), daemon=True).start()

    def _finish(self, running: Run, said: int | None = None) -> None:
        try:
            if isinstance(running, ExecRun):
                finish_exec(self.node, running)
            elif isinstance(running, TaskRun):
                finish_task(self.node, running)
            elif isinstance(running, ChildRun):
                finish_child(self.node, running)
            elif isinstance(running, JobRun):
                finish(self.node, running, said)
        except (HookError, EngineError, OSError) as error:
            self.node.emit("agent.error", level="warning", where="finish", reason=str(error)[:300])

    # -- ticks --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Check every job whose first process is gone: an event may have been lost with a connection."""
        for running in self.node.jobs.runs():
            if running.ended is None and not running.is_alive():
                running.gone_since = running.gone_since or time.monotonic()
                self._look_at(running)
            elif isinstance(running, JobRun):
                running.look_at_shm()
                suspend.follow(self.node, running)

    def _look_at(self, running: Run) -> None:
        """Finish it in a thread of its own, one at a time: the engine may let it wait, and the other jobs must not."""
        if running.key in self._looked_at:
            return
        self._looked_at.add(running.key)

        def act() -> None:
            try:
                self._finish(running)
            finally:
                self._looked_at.discard(running.key)

        try:
            threading.Thread(target=act, daemon=True).start()
        except RuntimeError:  # no thread more can be had; the next look may have one
            self._looked_at.discard(running.key)

    def _came_back(self) -> bool:
        """Whether the engine answers again since the last look: what could not be released then can be now."""
        before, self.was_down = self.was_down, self.node.engine.down_because is not None
        return before and not self.was_down

    def _tick(self) -> None:
        next_pass = time.monotonic() + self.node.config.reaper.period_s
        next_probe = 0.0
        is_due = False
        while not self.stop.wait(_LOOK_S):
            try:
                with self.node.pulse.at_work(self._limit_s):
                    self.look()
                    self.node.streams.look()
                    logs.trim(self.node)
                    self._mender.look()
                    self.node.events.tell_limited()
                    heap.tidy()
                    self.node.image_cache.flush()
                    now = time.monotonic()
                    if now >= next_probe:
                        next_probe = now + 5.0
                        health.recover(self.node)
                    is_due = self._came_back() or is_due or now >= next_pass
                    if is_due and self._reap():
                        is_due, next_pass = False, now + self.node.config.reaper.period_s
            except Exception as error:  # the ticking thread must outlive whatever one pass meets
                self.node.emit("agent.error", level="error", where="tick", reason=repr(error)[:300])

    def _tidy_images(self) -> None:
        try:
            self.node.image_cache.collect()
        except (HookError, EngineError, OSError) as error:
            self.node.emit("agent.error", level="warning", where="images", reason=str(error)[:300])
        if problem := self.node.properties_file.write(self.node):
            self.node.emit("agent.error", level="warning", where="properties", reason=problem[:300])

    def _reap(self) -> bool:
        """Begin a pass in a thread of its own; False while the one before is under way."""
        if self._reaper is not None and self._reaper.is_alive():
            return False

        def act() -> None:
            try:
                self.node.pulse.watch(threading.current_thread())
                with self.node.pulse.at_work(_PASS_S):
                    reconcile(self.node, is_routine=True)
                self._tidy_images()
            except Exception as error:  # the next pass may fare better
                self.node.emit("agent.error", level="error", where="reaper", reason=repr(error)[:300])
            finally:
                self.node.pulse.forget(threading.current_thread())

        self._reaper = threading.Thread(target=act, name="reaper", daemon=True)
        self._reaper.start()
        return True
