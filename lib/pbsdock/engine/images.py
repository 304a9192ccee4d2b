"""Images: present by policy, one pull however many jobs wait, errors told apart by who can mend them."""

from __future__ import annotations

import base64
import binascii
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests.exceptions
from urllib3.exceptions import ReadTimeoutError

from pbsdock.config.tables import is_root_only
from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.directive.image_ref import parse_image
from pbsdock.engine.base import ImageFacts

_PROGRESS_S = 2.0
_HUB = "https://index.docker.io/v1/"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_LOOK_S, _TELL_S = 0.25, 0.5  # those who wait
Client = Callable[[float | None], Any]
_Key = tuple[str, str | None, tuple[tuple[str, str], ...]]  # reference, platform, credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of this node: ``id`` is what runs, ``digest`` what the registry calls it (None if never pulled)."""

    id: str
    digest: str | None
    architecture: str
    size: int


def load_auth(path: Path) -> dict[str, dict[str, str]]:
    """Read registry credentials from a docker ``config.json`` that only root can read. Raises NodeFault."""
    try:
        if not is_root_only(path):
            raise NodeFault("registry-credentials", f"{path} can be read by others than root; use chmod 600")
        entries = json.loads(path.read_bytes()).get("auths", {})
        found = {}
        for host, entry in entries.items():
            user, _, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
            name = "docker.io" if host == _HUB else host.removeprefix("https://").rstrip("/")
            found[name] = {"username": user, "password": password}
        return found
    except (OSError, ValueError, AttributeError, binascii.Error) as error:
        raise NodeFault("registry-credentials", f"{path} is not a docker config.json: {type(error).__name__}") from None


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What one waiting job grants a pull: seconds without progress and in all, and bytes (0: any)."""

    inactivity_s: float
    total_s: float
    max_bytes: int


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

    def give_up(self) -> None:
        """Nobody waits any more: its thread, which reads without a deadline, is let go."""
        self.given_up = self.why
        sock = getattr(self.stream.raw.connection, "sock", None) if self.stream is not None else None
        if sock is not None:
            with suppress(OSError):  # it has ended
                sock.shutdown(socket.SHUT_RDWR)

    def refusal(self, reference: str, bounds: _Bounds, began: float, now: float) -> Refusal | None:
        """Why one who has waited since *began* will not wait any longer."""
        if now - began > bounds.total_s:
            return _too_slow(reference, f"in {bounds.total_s:.0f} s")
        if now - max(began, self.last_change) > bounds.inactivity_s:
            return _too_slow(reference, f"without any progress for {bounds.inactivity_s:.0f} s")
        if bounds.max_bytes and self.bytes > bounds.max_bytes:
            # What a registry says of a layer's size binds nobody: one without an end would fill the disk.
            return _too_large(reference, f"has {self.bytes} bytes and more to come", bounds.max_bytes)
        return None


class Images:
    """The node's images; ``ensure`` may be called from many threads at once."""

    def __init__(
        self,
        client: Client,
        inspect: Callable[[str], ImageFacts | None],
        emit: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client  # one of its own for a pull: closing it is what cancels the pull
        self.inspect = inspect
        self.emit = emit
        self.clock = clock
        self._lock = threading.Lock()
        self._pulls: dict[_Key, _Pull] = {}
        self._host: str | None = None

    def ensure(
        self,
        reference: str,
        *,
        pull: str,
        platform: str | None,
        inactivity_s: float,
        total_s: float,
        max_bytes: int = 0,
        auth: Mapping[str, Mapping[str, str]] | None = None,
        progress: Callable[[str], None] = lambda text: None,
    ) -> Image:
        """Make the image present as *pull* says and return it. Raises Refusal or NodeFault, always a HookError."""
        image = self._inspect(reference) if pull != "always" else None
        if image is None:
            if pull == "never":
                raise Refusal(
                    "image-not-present",
                    f"image {reference!r} is not on this node and --pull never forbids to fetch it",
                )
            self._wait_for_pull(reference, platform, _Bounds(inactivity_s, total_s, max_bytes), auth or {}, progress)
            image = self._inspect(reference)
            if image is None:
                raise NodeFault("pull-failed", f"image {reference!r} was pulled but is not there")
        else:
            self.emit("image.present", image=reference, image_id=image.id, digest=image.digest)
        self._check(reference, image, platform, max_bytes)
        return image

    def _check(self, reference: str, image: Image, platform: str | None, max_bytes: int) -> None:
        wanted = platform.split("/")[1] if platform and "/" in platform else self._architecture()
        if image.architecture and image.architecture != wanted:
            raise Refusal(
                "image-wrong-architecture",
                f"image {reference!r} is built for {image.architecture}; this node runs {wanted}",
            )
        if max_bytes and image.size > max_bytes:
            raise _too_large(reference, f"has {image.size} bytes", max_bytes)

    def _architecture(self) -> str:
        if self._host is None:
            client = self.client(None)
            try:
                name = str(client.info().get("Architecture", ""))
            finally:
                client.close()
            self._host = _ARCHITECTURES.get(name, name)
        return self._host

    def _inspect(self, reference: str) -> Image | None:
        found = self.inspect(reference)
        if found is None:
            return None
        name = parse_image(reference).name
        digests = [one.partition("@") for one in found.digests]
        digest = next((tail for head, _, tail in digests if parse_image(head).name == name), None)
        return Image(id=found.id, digest=digest, architecture=found.architecture, size=found.size_bytes)

    # -- pulling ------------------------------------------------------------------------------------------------

    def _wait_for_pull(
        self,
        reference: str,
        platform: str | None,
        bounds: _Bounds,
        auth: Mapping[str, Mapping[str, str]],
        progress: Callable[[str], None],
    ) -> None:
        mine = auth.get(parse_image(reference).registry) or {}
        key = (reference, platform, tuple(sorted(mine.items())))
        with self._lock:
            pull = self._pulls.get(key)
            if pull is None:
                pull = self._pulls[key] = _Pull(self.clock())
                threading.Thread(target=self._pull, args=(key, pull, mine), name="pull", daemon=True).start()
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
                if pull.stream is not None:
                    self._end_unless_wanted(key, pull)

    def _end_unless_wanted(self, key: _Key, pull: _Pull) -> None:
        """To be called with the lock: who comes afterwards needs a new one."""
        if pull.waiting == 0 and pull.given_up is None and self._pulls.get(key) is pull:
            del self._pulls[key]
            pull.give_up()

    def _await(self, pull: _Pull, reference: str, bounds: _Bounds, progress: Callable[[str], None]) -> None:
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

    def _pull(self, key: _Key, pull: _Pull, auth: Mapping[str, str]) -> None:
        reference = key[0]
        began = self.clock()
        self.emit("image.pulling", image=reference)
        try:
            self._stream(key, pull, auth)
            image = self._inspect(reference)
            self.emit(
                "image.pulled",
                image=reference,
                ms=round((self.clock() - began) * 1000, 1),
                image_id=image.id if image else None,
                digest=image.digest if image else None,
                size_bytes=image.size if image else None,
            )
            result: HookError | None = None
        except HookError as error:
            result = pull.given_up or error
        except Exception as error:  # whatever the SDK's transport raises must reach those who wait
            failed = NodeFault("pull-failed", f"image {reference!r} could not be pulled: {_short(error)}")
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

    def _stream(self, key: _Key, pull: _Pull, auth: Mapping[str, str]) -> None:
        reference, platform, _ = key
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
            for line in self._lines(client, reference, platform, auth):
                now = self.clock()
                if "error" in line:
                    raise classify(reference, str(line["error"]))
                with self._lock:
                    self._end_unless_wanted(key, pull)
                if pull.given_up is not None:
                    raise pull.given_up
                text = json.dumps(line, sort_keys=True)
                if text != before and "Retrying" not in text:
                    pull.last_change, before = now, text
                _note(layers, line)
                pull.bytes = sum(one[0] for one in layers.values())
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
            raise NodeFault("engine-unreachable", f"the Docker engine does not answer: {_short(error)}") from None
        except docker.errors.APIError as error:
            raise classify(reference, str(error.explanation or error)) from None
        finally:
            # The engine cancels a pull whose client is gone; closing a client leaves the stream under way open.
            for one in answers:
                one.close()
            client.close()

    def _lines(
        self, client: Any, reference: str, platform: str | None, auth: Mapping[str, str] | None
    ) -> Iterator[dict[str, Any]]:
        image = parse_image(reference)
        repository = image.repository if image.registry == "docker.io" else image.name
        # An empty auth_config would let the SDK look for root's own ~/.docker/config.json.
        yield from client.pull(
            repository,
            tag=image.digest or image.tag,
            stream=True,
            decode=True,
            platform=platform,
            auth_config=dict(auth) if auth else {"username": "", "password": ""},
        )

    def _progress(self, reference: str, layers: Mapping[str, tuple[int, int, bool]]) -> None:
        self.emit(
            "image.progress",
            image=reference,
            layers=len(layers),
            layers_done=sum(one[2] for one in layers.values()),
            bytes_done=sum(one[0] for one in layers.values()),
            bytes=sum(one[1] for one in layers.values()),
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


def _too_large(reference: str, how: str, max_bytes: int) -> Refusal:
    return Refusal("image-too-large", f"image {reference!r} {how}; this site allows {max_bytes}")


def _too_slow(reference: str, how: str) -> Refusal:
    return Refusal("pull-too-slow", f"image {reference!r} could not be pulled {how}; nothing was started")


# What the engine (20.10 to 28) writes into the pull stream, which carries no status code of the registry's answer.
_TEXTS: tuple[tuple[str, str], ...] = (
    (r"no space left on device", "disk-full"),
    (
        r"no matching manifest|does not match the specified platform|image operating system .* cannot be used",
        "image-wrong-architecture",
    ),
    (r"manifest .*(not found|unknown)|manifest unknown", "image-tag-not-found"),
    (
        r"unauthorized|no basic auth credentials|authentication required|access forbidden|403 Forbidden",
        "image-access-denied",
    ),
    (r"repository .* not found|pull access denied|name unknown|repository does not exist", "image-not-found"),
    (
        r"dial tcp|no such host|connection refused|i/o timeout|TLS handshake|server misbehaving|unexpected EOF|EOF$"
        r"|no route to host|network is unreachable|proxyconnect|Client\.Timeout|connection reset|deadline exceeded"
        r"|status: 5\d\d|x509|http: server gave HTTP response|received unexpected HTTP status",
        "registry-unreachable",
    ),
)


def classify(reference: str, text: str) -> HookError:
    """Turn the engine's pull error into one that says who can mend it."""
    code = next((code for pattern, code in _TEXTS if re.search(pattern, text, re.IGNORECASE)), "pull-failed")
    short = " ".join(text.split())[:300]
    image = repr(reference)
    sentences = {
        "disk-full": f"image {image} does not fit on this node's disk; the job is queued again",
        "image-wrong-architecture": f"image {image} is not built for this node's architecture",
        "image-tag-not-found": f"image {image} has no such tag or digest in its registry; check what follows the name",
        "image-access-denied": f"image {image} cannot be pulled: its registry denies access",
        "image-not-found": f"image {image} does not exist in its registry, or is not public; check the name",
        "registry-unreachable": f"the registry of image {image} cannot be reached; nothing was started: {short}",
        "pull-failed": f"image {image} could not be pulled; nothing was started: {short}",
    }
    # Whoever names a registry could otherwise take node after node out of service with it, and a batch user whose job
    # goes back to the queue is told nothing. A full disk is the one thing here that the node is to blame for.
    kind = NodeFault if code == "disk-full" else Refusal
    return kind(code, sentences[code])


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
