"""Pulls: one under way however many jobs wait for it, each with bounds of its own."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import docker.errors
import requests.exceptions
from urllib3.exceptions import ReadTimeoutError

from pbsdock.core.errors import HookError, NodeFault
from pbsdock.directive.image_ref import parse_image
from pbsdock.engine.credentials import ANONYMOUS, Login
from pbsdock.engine.pull_errors import PullFailure, RetryPolicy, failure, short, too_large, too_slow, tried

_PROGRESS_S = 2.0
_LOOK_S, _TELL_S = 0.25, 0.5  # those who wait
Client = Callable[[float | None], Any]
_Key = tuple[str, str | None, tuple[tuple[str, str], ...], bool]  # reference, platform, login, whether a user's


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one waiting job grants a pull: seconds without progress and in all, and bytes (0: any)."""

    inactivity_s: float
    total_s: float
    max_bytes: int
    is_hurried: bool = False  # a registry that is busy is for this job one to be asked otherwise


class _Pull:
    """One pull under way for however many wait. It has no bounds but theirs, and ends when nobody waits any more."""

    def __init__(self, now: float) -> None:
        self.done: Future[None] = Future()
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
        sock = getattr(self.stream.raw.connection, "sock", None) if self.stream is not None else None
        if sock is not None:
            with suppress(OSError):  # it has ended
                sock.shutdown(socket.SHUT_RDWR)

    def rest(self, error: HookError, now: float, seconds: float) -> None:
        """There will be another try after so many seconds, which count as progress."""
        self.trouble, self.resume_at, self.last_change = error, now + seconds, now + seconds

    def refusal(self, reference: str, bounds: Bounds, began: float, now: float) -> HookError | None:
        """Why one who has waited since *began* will not wait any longer."""
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


class Pulls:
    """The pulls under way; any thread may wait for one.

    *pulled* is told of each that ended well, with milliseconds; *guard* is entered around each by a user's own login.
    *before* may have no room for one, and raise HookError.
    """

    def __init__(
        self,
        client: Client,
        emit: Callable[..., None],
        pulled: Callable[[str, float], None],
        guard: Callable[[str], AbstractContextManager[None]],
        retry_after: Callable[[str], float | None],
        before: Callable[[str, str | None, Login], None] = lambda reference, platform, login: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        policy: RetryPolicy | None = None,
    ) -> None:
        self.client = client  # one of its own for a pull: closing it is what cancels the pull
        self.emit = emit
        self.pulled = pulled
        self.guard = guard
        self.retry_after = retry_after
        self.before = before
        self.policy = policy or RetryPolicy()
        self.clock = clock
        self._lock = threading.Lock()
        self._pulls: dict[_Key, _Pull] = {}

    def wait(
        self,
        reference: str,
        platform: str | None,
        bounds: Bounds,
        login: Login,
        progress: Callable[[str], None],
        *,
        is_own: bool = False,
    ) -> None:
        """Wait for a pull with this *login*, begun if there is none; *is_own*: it is a user's, not the site's.

        Raises Refusal or NodeFault.
        """
        key = (reference, platform, tuple(sorted(login.items())), is_own)
        with self._lock:
            pull = self._pulls.get(key)
            if pull is None:
                pull = self._pulls[key] = _Pull(self.clock())
                threading.Thread(target=self._pull, args=(key, pull, login), name="pull", daemon=True).start()
            pull.waiting += 1
        why: HookError = NodeFault("pull-failed", f"nobody waits for image {reference!r} any more")
        try:
            self._await(pull, reference, bounds, progress)
        except HookError as error:
            why = error
            raise
        finally:
            with self._lock:
                pull.waiting -= 1
                pull.why = why
                # One the engine has not begun to answer cannot be ended, and is there for who comes next.
                if pull.stream is not None or pull.is_resting:
                    self._end_unless_wanted(key, pull)

    def _end_unless_wanted(self, key: _Key, pull: _Pull) -> None:
        """To be called with the lock: who comes afterwards needs a new one."""
        if pull.waiting == 0 and pull.given_up is None and self._pulls.get(key) is pull:
            del self._pulls[key]
            pull.give_up()

    def _await(self, pull: _Pull, reference: str, bounds: Bounds, progress: Callable[[str], None]) -> None:
        began = told = self.clock()
        while True:
            try:
                pull.done.result(timeout=_LOOK_S)
                return
            except HookError as error:
                # The error belongs to the pull; each waiting job gets one of its own to pass on.
                raise type(error)(error.code, error.sentence) from None
            except FutureTimeout:
                now = self.clock()
                if now - told >= _TELL_S:
                    told = now
                    progress(f"waiting for image {reference} to be pulled")
                if (refusal := pull.refusal(reference, bounds, began, now)) is not None:
                    raise refusal from None

    def _pull(self, key: _Key, pull: _Pull, login: Login) -> None:
        reference = key[0]
        began = self.clock()
        self.emit("image.pulling", image=reference)
        try:
            self.before(reference, key[1], login)
            with self.guard(reference) if key[3] else nullcontext():
                self._persist(key, pull, login)
            self.pulled(reference, round((self.clock() - began) * 1000, 1))
            result: HookError | None = None
        except HookError as error:
            result = pull.given_up or error
        except Exception as error:  # whatever the SDK's transport raises must reach those who wait
            failed = NodeFault("pull-failed", f"image {reference!r} could not be pulled: {short(error)}")
            result = pull.given_up or failed
        if result is not None:
            self.emit("image.failed", level="warning", image=reference, code=result.code, sentence=result.sentence)
        with self._lock:
            if self._pulls.get(key) is pull:
                del self._pulls[key]
        if result is None:
            pull.done.set_result(None)
        else:
            pull.done.set_exception(result)

    def _persist(self, key: _Key, pull: _Pull, login: Login) -> None:
        """Try until it is done, nobody waits any more, or a try fails for good. Raises HookError."""
        reference = key[0]
        while True:
            pull.tries += 1
            pull.stream = None
            try:
                self._stream(key, pull, login)
                return
            except PullFailure as answer:
                if not answer.is_passing:
                    raise tried(answer.error, pull.tries) from None
                error = answer.error
            pause = self.policy.delay_s(pull.tries, self.retry_after(reference))
            self.emit(
                "image.retry",
                level="warning",
                image=reference,
                code=error.code,
                reason=error.sentence,
                tries=pull.tries,
                after_s=round(pause, 1),
            )
            with self._lock:
                pull.rest(error, self.clock(), pause)
                pull.is_resting = True
                self._end_unless_wanted(key, pull)
            pull.wake.wait(pause)
            with self._lock:
                pull.is_resting = False
            if pull.given_up is not None:
                raise pull.given_up

    def _stream(self, key: _Key, pull: _Pull, login: Login) -> None:
        reference, platform, _, _ = key
        layers: dict[str, tuple[int, int, bool]] = {}
        told = self.clock()
        before = ""
        # The engine repeats "Retrying" or nothing at all: only changed content counts as progress.
        client = self.client(None)
        answers: list[Any] = []

        def bound(answer: Any, *_: object, **__: object) -> None:
            answers.append(answer)
            pull.stream = answer

        client.hooks["response"].append(bound)
        try:
            for line in self._lines(client, reference, platform, login):
                now = self.clock()
                if "error" in line:
                    raise failure(reference, str(line["error"]))
                with self._lock:
                    self._end_unless_wanted(key, pull)
                if pull.given_up is not None:
                    raise pull.given_up
                text = json.dumps(line, sort_keys=True)
                if text != before and "Retrying" not in text:
                    pull.last_change, before = now, text
                    if line.get("progressDetail"):
                        pull.trouble = None
                _note(layers, line)
                pull.bytes = sum(layer[0] for layer in layers.values())
                if now - told >= _PROGRESS_S:
                    told = now
                    self._progress(reference, layers)
            if pull.given_up is not None:  # the end of the stream was our own doing
                raise pull.given_up
        except (
            requests.exceptions.Timeout,
            requests.exceptions.ConnectionError,
            ReadTimeoutError,
            TimeoutError,
        ) as error:
            raise NodeFault("engine-unreachable", f"the Docker engine does not answer: {short(error)}") from None
        except docker.errors.APIError as error:
            raise failure(reference, str(error.explanation or error)) from None
        finally:
            # The engine cancels a pull whose client is gone; closing a client leaves the stream under way open.
            for answer in answers:
                answer.close()
            client.close()

    def _lines(self, client: Any, reference: str, platform: str | None, login: Login) -> Iterator[dict[str, Any]]:
        image = parse_image(reference)
        repository = image.repository if image.registry == "docker.io" else image.name
        yield from client.pull(
            repository,
            tag=image.digest or image.tag,
            stream=True,
            decode=True,
            platform=platform,
            auth_config=dict(login) or dict(ANONYMOUS),
        )

    def _progress(self, reference: str, layers: Mapping[str, tuple[int, int, bool]]) -> None:
        self.emit(
            "image.progress",
            image=reference,
            layers=len(layers),
            layers_done=sum(layer[2] for layer in layers.values()),
            bytes_done=sum(layer[0] for layer in layers.values()),
            bytes=sum(layer[1] for layer in layers.values()),
        )


def _note(layers: dict[str, tuple[int, int, bool]], line: Mapping[str, Any]) -> None:
    identifier, status = line.get("id"), str(line.get("status", ""))
    if not identifier or status.startswith("Pulling from"):
        return
    detail = line.get("progressDetail") or {}
    done, total, _over = layers.get(identifier, (0, 0, False))
    if status == "Downloading":
        done, total = int(detail.get("current", done)), int(detail.get("total", total))
    layers[identifier] = (done, total, status in ("Pull complete", "Already exists"))
