"""Give a run hook new streams in place of those an engine took along when it was restarted."""

from __future__ import annotations

import math
import threading
import time

from pbsdock.agent.channel import ClientGone
from pbsdock.agent.ending import AWAY
from pbsdock.agent.finish import finish
from pbsdock.agent.runs import JobRun
from pbsdock.agent.session import Session
from pbsdock.core.errors import HookError, Refusal
from pbsdock.engine.base import EngineError
from pbsdock.protocol import wire


class StreamRestorer:
    """For one session, whose client is the run hook of what lost its streams."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.node = session.node

    def reattach(self, running: JobRun, sentence: str = "") -> None:
        """Hand over new streams. A shell that never got its script's path is started anew: by new streams it would get
        the path, but no end of input (observed after a restart of Docker 20.10 with live-restore)."""
        record = running.record
        if not record.facts.tty and running.awaits_script():
            self.session.answer(wire.Message("again"))
            return
        stream = self.node.engine.attach(record.container_id or record.container_name)
        with self.node.streams.giving(running, stream) as fd:
            self.session.answer(wire.Message("attached", sentence=sentence), [fd])

    def check_again(self, running: JobRun) -> None:
        if not self.node.streams.again(running):
            running.stream_lost_at = running.stream_lost_at or time.time()
            raise Refusal(
                "too-many-streams",
                f"the streams of job {running.record.job_id} were lost again and again although the"
                " Docker engine was there; they are not opened any more",
            )

    def begin_to_restore(self, running: JobRun) -> None:
        running.restoring, running.stream_lost_at = self.session.channel, time.time()
        threading.Thread(target=self._restore_stream, args=(running,), daemon=True).start()

    def _restore_stream(self, running: JobRun) -> None:
        """Attach again as soon as the engine answers: with live-restore the container runs on without it."""
        try:
            self._restore(running)
        finally:
            if running.restoring is self.session.channel:
                running.restoring = None

    def _restore(self, running: JobRun) -> None:
        while not running.over.wait(0.2) and running.channel is self.session.channel:
            if not self.node.engine.probe():
                continue
            if not running.is_alive():
                finish(self.node, running)
                continue
            away = math.ceil(time.time() - (running.stream_lost_at or 0.0))
            sentence = f"{AWAY} for {away} s; anything the job wrote meanwhile is missing from its output"
            try:
                self.reattach(running, sentence)
                running.stream_lost_at = None
                return
            except (EngineError, HookError):
                continue  # it has ended, or the engine is gone again
            except ClientGone:
                return  # the run hook is gone, or comes back and asks for itself
