"""A ``docker`` command as a conversation: what its client is to do, step by step, and what that answers.

A command is a generator of steps. It is carried on by whatever thread has the answer, so that no thread waits for a
client, nor for a container to end. What the client can be told to do is its own right in every case: it reads, writes
and runs as its user (``init/docker.c``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from pbsdock.agent.channel import ClientGone
from pbsdock.agent.runs import ChildRun
from pbsdock.core.errors import BadValue, HookError, NodeFault, Refusal
from pbsdock.engine.base import EngineError
from pbsdock.protocol import wire
from pbsdock.shim.refusal import FAILED, ShimRefusal

if TYPE_CHECKING:
    from pbsdock.agent.session import Session

_NOT_STARTED = 125
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Tell:
    """Have the client do something; *fds* are closed when they are sent. *is_answered*: go on with its answer."""

    message: wire.Message
    fds: Sequence[int] = ()
    is_answered: bool = False


@dataclass(frozen=True, slots=True)
class Until:
    """Go on when a child is over, or after so many *seconds*."""

    running: ChildRun
    seconds: float | None = None


Step = Tell | Until
Steps = Generator[Step, wire.Message | None, int]  # returns the exit code


@dataclass(slots=True)
class Dialogue:
    """One command of one client, from its first step to its exit code.

    ``starts`` tells ``docker run`` from the commands whose failure is 1 in Docker, not 125.
    """

    session: Session
    steps: Steps
    starts: bool
    is_over: bool = False
    when_over: Callable[[], None] | None = None  # may be called more than once
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _turn: int = 0

    def go_on(self, answer: wire.Message | None = None) -> None:
        """Take the next steps until the client has to answer, or a child to end. Raises ClientGone."""
        with self._lock:
            if self.is_over:
                return
            self._turn += 1
            try:
                while True:
                    step = self.steps.send(answer)
                    answer = None
                    if isinstance(step, Until):
                        self._wait(step)
                        return
                    self._tell(step)
                    if step.is_answered:
                        return
                    if self.is_over:
                        self._leave()
                        return
            except StopIteration as end:
                self._end(wire.Message("exit", code=int(end.value)))
            except (HookError, EngineError) as error:
                self._refuse(error)
            except BadValue as error:
                self._refuse(ShimRefusal(str(error), _NOT_STARTED if self.starts else FAILED))
            except ClientGone:
                self._leave()
                raise
            except OSError as error:
                self._unforeseen(error, error.strerror or type(error).__name__)
            except Exception as error:  # a slip of ours: the client is there, and is told
                self._unforeseen(error, type(error).__name__)
        if self.is_over:  # the client has gone meanwhile
            self.leave()

    def _unforeseen(self, error: Exception, what: str) -> None:
        """Of another error than one of the system's its kind alone is told: its words may be the user's, and secret."""
        reason = repr(error)[:300] if isinstance(error, OSError) else f"{type(error).__name__} at {_place_of(error)}"
        self.session.node.emit("agent.error", level="error", where="shim", reason=reason)
        self._refuse(
            NodeFault("agent-error", f"the pbsdock agent of {self.session.node.name} could not do this: {what}")
        )

    def leave(self) -> None:
        """The client is gone."""
        self.is_over = True
        if self._lock.acquire(blocking=False):  # else whoever takes steps finds out
            try:
                self._leave()
            finally:
                self._lock.release()

    def _leave(self) -> None:
        self.is_over = True
        if self.when_over is not None:
            self.when_over()
        with suppress(Exception):
            self.steps.close()

    def _tell(self, step: Tell) -> None:
        try:
            self.session.answer(step.message, step.fds)
        finally:
            for fd in step.fds:
                os.close(fd)

    def _wait(self, step: Until) -> None:
        turn = self._turn
        once = threading.Lock()

        def resume() -> None:
            if not once.acquire(blocking=False):
                return
            with suppress(ClientGone):
                if self._turn == turn:
                    self.go_on()

        later = self.session.node.later
        step.running.when_over(lambda: later.soon(resume))
        if step.seconds is not None:
            later.after(step.seconds, resume)

    def _refuse(self, error: HookError | EngineError) -> None:
        status = getattr(error, "status", 0) if isinstance(error, HookError) else 0
        code = error.code if isinstance(error, HookError) else "engine-error"
        if isinstance(error, Refusal) and not code.startswith("docker-usage"):
            self.session.node.emit(
                "child.refused", uid=self.session.peer.uid, code=code, sentence=error.sentence[:1000], phase="run"
            )
        message = wire.Message("refused", code=code, sentence=str(error))
        message.fields["status"] = [str(status or (_NOT_STARTED if self.starts else FAILED)).encode()]
        self._end(message)

    def _end(self, message: wire.Message) -> None:
        self.is_over = True
        if self.when_over is not None:
            self.when_over()
        with suppress(ClientGone):
            self.session.answer(message)


def _place_of(error: BaseException) -> str:
    """Module and line of what has raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace is not None else "?"


def out(text: str, stream: int = 1) -> Tell:
    """Have the client write *text*."""
    message = wire.Message("out", stream=stream)
    message.fields["text"] = [text.replace("\0", "").encode("utf-8", "surrogateescape")]
    return Tell(message)


def notice(sentence: str) -> Tell:
    """Have the client write a line on standard error."""
    return Tell(wire.Message("notice", sentence=sentence.replace("\0", "").encode("utf-8", "surrogateescape")))


def each(
    names: Sequence[str],
    find: Callable[[str], Found],
    act: Callable[[str, Found], Steps],
    *,
    missing: str = "Error: {sentence}",
    code_of_missing: int = FAILED,
) -> Steps:
    """*act* on all of *names* that *find* finds; for each that it refuses the line *missing*, where that is not ""."""
    code = 0
    for name in names:
        try:
            found = find(name)
        except ShimRefusal as error:
            if missing:
                yield notice(missing.format(name=name, sentence=error.sentence))
            code = code_of_missing or code
            continue
        code = (yield from act(name, found)) or code
    return code
