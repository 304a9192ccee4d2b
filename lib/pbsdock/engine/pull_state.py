"""One pull under way, as those who wait for it see it. Pure but for the end of its connection."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pbsdock.core.errors import HookError
from pbsdock.engine.pull_errors import not_our_turn, too_large, too_slow, tried
from pbsdock.engine.turns import Turn


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one waiting job grants a pull: seconds without progress and in all, and bytes (0: any)."""

    inactivity_s: float
    total_s: float
    max_bytes: int
    is_hurried: bool = False  # a registry that is busy is for this job one to be asked otherwise


class Pull:
    """One pull under way for however many wait. It has no bounds but theirs, and ends when nobody waits any more."""

    def __init__(self, now: float, registry: str, mirror_s: float) -> None:
        self.done: Future[None] = Future()
        self.users: set[int] = set()  # changed by Turns alone
        self.turn = Turn(registry, registry, self.users)
        self.mirror_s = mirror_s  # a mirror without any progress for so long is left
        self.is_at_mirror = False
        self.is_leaving = False
        self.waiting = 0
        self.last_change = now
        self.bytes = 0
        self.why: HookError | None = None  # the last one who waited went
        self.given_up: HookError | None = None  # and it is ended for that
        self.stream: Any = None  # the engine's answer, once it has begun
        self.tries = 0
        self.trouble: HookError | None = None  # why the last try failed, until another gets further
        self.resume_at = now  # when the next one begins
        self.is_resting = False
        self.wake = threading.Event()

    def give_up(self) -> None:
        """Nobody waits any more: its thread, which reads without a deadline, is let go."""
        self.given_up = self.why
        self.wake.set()
        self._hang_up()

    def leave_mirror(self, now: float) -> None:
        """If it gets no further there."""
        if self.is_at_mirror and not self.is_leaving and now - self.last_change > self.mirror_s:
            self.is_leaving = True
            self._hang_up()

    def _hang_up(self) -> None:
        sock = getattr(self.stream.raw.connection, "sock", None) if self.stream is not None else None
        if sock is not None:
            with suppress(OSError):  # it has ended
                sock.shutdown(socket.SHUT_RDWR)

    def rest(self, error: HookError, now: float, seconds: float) -> None:
        """There will be another try after so many seconds, which count as progress."""
        self.trouble, self.resume_at, self.last_change = error, now + seconds, now + seconds

    def refusal(self, reference: str, bounds: Bounds, began: float, now: float, at_once: int) -> HookError | None:
        """Why one who has waited since *began* will not wait any longer. *at_once*: how many pulls may be."""
        if self.turn.why:
            is_hurried = bounds.is_hurried and self.turn.why == "registry"
            if is_hurried or max(now, self.turn.until) - began > bounds.total_s:
                return not_our_turn(reference, self.turn, at_once, now - began)
            return None
        if self.trouble is not None and (
            (bounds.is_hurried and self.trouble.code == "registry-busy")
            or max(now, self.resume_at) - began > bounds.total_s
        ):
            return tried(self.trouble, self.tries)
        if now - began > bounds.total_s:
            return too_slow(reference, f"in {bounds.total_s:.0f} s")
        if now - max(began, self.last_change) > bounds.inactivity_s:
            return too_slow(reference, f"without any progress for {bounds.inactivity_s:.0f} s")
        if bounds.max_bytes and self.bytes > bounds.max_bytes:
            # What a registry says of a layer's size binds nobody: one without an end would fill the disk.
            return too_large(reference, f"has {self.bytes} bytes and more to come", bounds.max_bytes)
        return None


def told(reference: str, turn: Turn) -> str:
    """What a job's stderr says of a wait."""
    waits = {
        "turn": f": {turn.ahead} others wait for theirs before it" if turn.ahead else ", after others",
        "rate": f", as this node asks {turn.registry} only so often",
        "registry": ", as its registry has told this node to wait",
    }
    return f"waiting for image {reference} to be pulled{waits.get(turn.why, '')}"
