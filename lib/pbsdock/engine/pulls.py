"""Pulls: one under way however many jobs wait for it, each with bounds of its own, and some of them at once.

A pull goes to the registry's mirrors in their order, then to the registry itself, which alone is asked again when it is
busy.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import docker.errors
import requests.exceptions
from urllib3.exceptions import ReadTimeoutError

from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.directive.image_ref import parse_image
from pbsdock.engine.credentials import ANONYMOUS, Login
from pbsdock.engine.mirrors import Mirrors, Source
from pbsdock.engine.pull_errors import PullFailure, RetryPolicy, failure, short, tried
from pbsdock.engine.pull_state import Bounds, Pull, told
from pbsdock.engine.turns import Turn, Turns

_PROGRESS_S = 2.0
_LOOK_S, _TELL_S = 0.25, 0.5  # those who wait
Client = Callable[[float | None], Any]
_Key = tuple[str, str | None, tuple[tuple[str, str], ...], bool]  # reference, platform, login, whether a user's


class Pulls:
    """The pulls under way; any thread may wait for one.

    *pulled* is told of each that ended well, with milliseconds and what a mirror had, by its digest, "" for none.
    *guard* is entered around each by a user's own login. *before* may have no room for one, and raise HookError.
    """

    def __init__(
        self,
        client: Client,
        emit: Callable[..., None],
        pulled: Callable[[str, float, str], None],
        guard: Callable[[str], AbstractContextManager[None]],
        retry_after: Callable[[str], float | None],
        before: Callable[[str, str | None, Login, str], None],
        mirrors: Mirrors,
        turns: Turns,
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
        self.mirrors = mirrors
        self.turns = turns
        self.policy = policy or RetryPolicy()
        self.clock = clock
        self._lock = threading.Lock()
        self._pulls: dict[_Key, Pull] = {}

    def wait(
        self,
        reference: str,
        platform: str | None,
        bounds: Bounds,
        login: Login,
        progress: Callable[[str], None],
        *,
        is_own: bool = False,
        user: int = 0,
        sources: Sequence[Source] = (),
    ) -> None:
        """Wait for a pull with this *login*, begun if there is none; *is_own*: it is a user's, not the site's.

        *user* is who waits, *sources* are to be asked first. Raises Refusal or NodeFault.
        """
        key = (reference, platform, tuple(sorted(login.items())), is_own)
        with self._lock:
            pull = self._pulls.get(key)
            if pull is None:
                registry = parse_image(reference).registry
                pull = self._pulls[key] = Pull(self.clock(), registry, bounds.inactivity_s / 2)
                self.turns.join(pull.turn, user)
                arguments = (key, pull, login, tuple(sources))
                threading.Thread(target=self._pull, args=arguments, name="pull", daemon=True).start()
            pull.waiting += 1
            self.turns.join(pull.turn, user)
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

    def _end_unless_wanted(self, key: _Key, pull: Pull) -> None:
        """To be called with the lock: who comes afterwards needs a new one."""
        if pull.waiting == 0 and pull.given_up is None and self._pulls.get(key) is pull:
            del self._pulls[key]
            pull.give_up()
            self.turns.drop(pull.turn)

    def _await(self, pull: Pull, reference: str, bounds: Bounds, progress: Callable[[str], None]) -> None:
        began = told_at = self.clock()
        while True:
            try:
                pull.done.result(timeout=_LOOK_S)
                return
            except HookError as error:
                # The error belongs to the pull; each waiting job gets one of its own to pass on.
                raise type(error)(error.code, error.sentence) from None
            except FutureTimeout:
                now = self.clock()
                if now - told_at >= _TELL_S:
                    told_at = now
                    progress(told(reference, pull.turn))
                if (refusal := pull.refusal(reference, bounds, began, now, self.turns.at_once())) is not None:
                    raise refusal from None
                with self._lock:
                    pull.leave_mirror(now)

    def _pull(self, key: _Key, pull: Pull, login: Login, sources: Sequence[Source]) -> None:
        reference = key[0]
        arrived = self.clock()
        try:
            first = sources[0] if sources else Source(mirror="", reference=reference, login=login)
            self._await_turn(key, pull, first.registry, first.login)
            began = self.clock()
            self.emit("image.pulling", image=reference, waited_ms=round((began - arrived) * 1000, 1))
            self.before(reference, key[1], first.login, first.reference)
            with self.guard(reference) if key[3] else nullcontext():
                exact = self._from_mirrors(key, pull, login, sources)
                if not exact:
                    self._persist(key, pull, login)
            self.pulled(reference, round((self.clock() - began) * 1000, 1), exact)
            result: HookError | None = None
        except HookError as error:
            result = pull.given_up or error
        except Exception as error:  # whatever the SDK's transport raises must reach those who wait
            failed = NodeFault("pull-failed", f"image {reference!r} could not be pulled: {short(error)}")
            result = pull.given_up or failed
        self.turns.give_back(pull.turn)
        if result is not None:
            self.emit("image.failed", level="warning", image=reference, code=result.code, sentence=result.sentence)
        with self._lock:
            if self._pulls.get(key) is pull:
                del self._pulls[key]
        if result is None:
            pull.done.set_result(None)
        else:
            pull.done.set_exception(result)

    # -- in the pull's own thread ---------------------------------------------------------------------------------

    def _await_turn(self, key: _Key, pull: Pull, registry: str, login: Login) -> None:
        """Raises what the pull was given up for."""
        door = (registry, tuple(sorted(login.items())))
        with self._lock:
            if pull.given_up is not None:
                raise pull.given_up
            pull.turn = turn = Turn(registry, door, pull.users)
        if self.turns.enter(turn):
            return
        self.emit("image.queued", image=key[0], why=turn.why, ahead=turn.ahead)
        with self._lock:
            pull.stream, pull.is_resting = None, True
            self._end_unless_wanted(key, pull)
        with self._while_resting(pull):
            self.turns.wait(turn)
        pull.last_change = self.clock()

    @contextmanager
    def _while_resting(self, pull: Pull) -> Iterator[None]:
        """Raises afterwards what the pull was given up for meanwhile."""
        try:
            yield
        finally:
            with self._lock:
                pull.is_resting = False
        if pull.given_up is not None:
            raise pull.given_up

    def _from_mirrors(self, key: _Key, pull: Pull, login: Login, sources: Sequence[Source]) -> str:
        """What a mirror had, by its digest; "" where none has given it. Raises HookError for what ends it all."""
        if not sources:
            return ""
        reference = key[0]
        try:
            digest = self.mirrors.digest(reference, login)
        except HookError:
            sources = ()  # the registry tells itself what is the matter
        for source in sources:
            try:
                if source is not sources[0]:
                    self._move_on(key, pull, source.registry, source.login)
                return self._from_mirror(key, pull, source, digest)
            except HookError as error:
                if pull.given_up is not None or error.code in ("disk-full", "engine-unreachable"):
                    raise
                self.mirrors.failed(source, error)
                self.emit(
                    "image.mirror_failed",
                    level="warning",
                    image=reference,
                    mirror=source.mirror,
                    code=error.code,
                    reason=error.sentence,
                )
        self._move_on(key, pull, parse_image(reference).registry, login)
        return ""

    def _move_on(self, key: _Key, pull: Pull, registry: str, login: Login) -> None:
        self.turns.give_back(pull.turn)
        with self._lock:
            pull.last_change, pull.bytes, pull.stream, pull.is_leaving = self.clock(), 0, None, False
        self._await_turn(key, pull, registry, login)

    def _from_mirror(self, key: _Key, pull: Pull, source: Source, digest: str | None) -> str:
        reference, platform = key[0], key[1]
        exact = self.mirrors.exact(source, digest)
        with self._lock:
            pull.is_at_mirror, pull.is_leaving, pull.last_change = True, False, self.clock()
        try:
            self._stream(key, pull, (exact, platform, source.login))
        except PullFailure as answer:
            if answer.error.code == "registry-busy":
                self._hold(pull, self.retry_after(source.reference))
            raise answer.error from None
        except Exception:  # of a connection that was closed under it
            if pull.is_leaving and pull.given_up is None:
                raise Refusal("pull-too-slow", f"no progress for {pull.mirror_s:.0f} s") from None
            raise
        finally:
            with self._lock:
                pull.is_at_mirror = False
        self.mirrors.adopt(exact, reference)
        return exact

    def _hold(self, pull: Pull, asked_s: float | None) -> None:
        """No other pull of this node's asks there before the registry wants to be asked."""
        if asked_s:
            self.turns.hold(pull.turn.door, asked_s)

    def _persist(self, key: _Key, pull: Pull, login: Login) -> None:
        """Try until it is done, nobody waits any more, or a try fails for good. Raises HookError."""
        reference = key[0]
        while True:
            pull.tries += 1
            pull.stream = None
            try:
                self._stream(key, pull, (reference, key[1], login))
                return
            except PullFailure as answer:
                if not answer.is_passing:
                    raise tried(answer.error, pull.tries) from None
                error = answer.error
            asked_s = self.retry_after(reference)
            pause = self.policy.delay_s(pull.tries, asked_s)
            self._hold(pull, asked_s)
            self.turns.give_back(pull.turn)
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
            with self._while_resting(pull):
                pull.wake.wait(pause)
            self._await_turn(key, pull, parse_image(reference).registry, login)

    def _stream(self, key: _Key, pull: Pull, what: tuple[str, str | None, Login]) -> None:
        """*what*: reference, platform and login. Raises PullFailure, HookError."""
        reference, platform, login = what
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
                if pull.is_leaving:
                    break
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
            if pull.is_leaving:
                raise Refusal("pull-too-slow", "it was left")
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
