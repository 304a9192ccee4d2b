"""Notice when containers end: the engine's event stream, and the kernel where the stream was silent."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import requests.exceptions

from pbsdock.agent.finish import finish
from pbsdock.agent.memory import heap
from pbsdock.agent.node import Node, Running, alive
from pbsdock.agent.reconcile import reconcile
from pbsdock.agent.start import finish_task
from pbsdock.engine import EngineError
from pbsdock.errors import HookError

_LOOK_S = 1.0


class Watcher:
    """Two threads: one on the engine's events, one that ticks."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.stop = threading.Event()
        self.was_down = False

    def start(self) -> None:
        """Start both."""
        threading.Thread(target=self._follow, name="events", daemon=True).start()
        threading.Thread(target=self._tick, name="tick", daemon=True).start()
        if self.node.config.s3:
            threading.Thread(target=self._refresh, name="refresh", daemon=True).start()

    # -- events -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self.stop.is_set():
            if self.node.engine.probe():
                try:
                    self._stream()
                except (HookError, EngineError, OSError, ValueError, requests.exceptions.RequestException):
                    pass
                except Exception as error:  # the SDK raises what its transport raised; the stream is simply reopened
                    self.node.emit("agent.error", level="warning", where="events", reason=repr(error)[:300])
                for one in list(self.node.running.values()):
                    one.engine_was_lost = one.engine_was_lost or not self.node.engine.probe()
            self.stop.wait(0.2)

    def _stream(self) -> None:
        client = self.node.engine.endless()
        try:
            wanted = {"type": "container", "label": [self.node.label], "event": ["die", "exec_die", "oom"]}
            stream: Any = client.events(decode=False, filters=wanted)
            self.node.look_again()
            self.look()  # whatever ended before the stream was open
            buffer = b""
            for chunk in stream:
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    if line.strip():
                        self._event(json.loads(line))
        finally:
            client.close()
        self._lost()

    def _lost(self) -> None:
        for one in list(self.node.running.values()):
            one.engine_was_lost = True

    def _event(self, event: dict[str, Any]) -> None:
        attributes = event.get("Actor", {}).get("Attributes", {})
        if event.get("Action") == "exec_die":
            key = attributes.get("execID", "")
        else:
            key = attributes.get("pbsdock.incarnation", "")
        running = self.node.running.get(key)
        if running is None:
            return
        if event.get("Action") == "oom":
            running.out_of_memory = True
            return
        code = attributes.get("exitCode", "")
        said = int(code) if code.isdigit() else None
        threading.Thread(target=self._finish, args=(running, said), daemon=True).start()

    def _finish(self, running: Running, said: int | None = None) -> None:
        try:
            if running.exec_id:
                finish_task(self.node, running)
            else:
                finish(self.node, running, said)
        except (HookError, EngineError, OSError) as error:
            self.node.emit("agent.error", level="warning", where="finish", reason=str(error)[:300])

    # -- sessions -----------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Replace sessions that would end before their jobs. A thread of its own: a gateway may be slow."""
        while not self.stop.wait(_LOOK_S):
            for record in self.node.ledger.load_all()[0]:
                if record.state != "running":
                    continue
                try:
                    if self.node.stores.refresh(record, self.node.store_dir(record)):
                        self.node.ledger.save(record)
                except Exception as error:  # one job's trouble must not end the others' sessions
                    self.node.emit("agent.error", level="error", where="refresh", reason=repr(error)[:300])

    # -- ticks --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Check every job whose first process is gone: an event may have been lost with a connection."""
        for running in list(self.node.running.values()):
            if running.ended is None and not alive(running.pid):
                running.gone_since = running.gone_since or time.monotonic()
                self._finish(running)

    def _came_back(self) -> bool:
        """Whether the engine answers again since the last look: what could not be released then can be now."""
        before, self.was_down = self.was_down, self.node.engine.down_because is not None
        return before and not self.was_down

    def _tick(self) -> None:
        next_pass = time.monotonic() + self.node.config.reaper.period_s
        next_probe = 0.0
        while not self.stop.wait(_LOOK_S):
            try:
                self.look()
                self.node.events.tell_limited()
                heap.tidy()
                now = time.monotonic()
                if now >= next_probe:
                    next_probe = now + 5.0
                    self.node.recover()
                if self._came_back() or now >= next_pass:
                    next_pass = now + self.node.config.reaper.period_s
                    reconcile(self.node)
            except Exception as error:  # the ticking thread must outlive whatever one pass meets
                self.node.emit("agent.error", level="error", where="tick", reason=repr(error)[:300])
