"""The way to a Docker Engine: a connection pool, a deadline on every call, and a circuit breaker.

A hung engine must cost each hook one short wait, not mom's whole alarm: after a call has run into its deadline the
next ones are refused at once until a probe answers again.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

import docker
import docker.errors
import requests.exceptions

from pbsdock.core.errors import NodeFault
from pbsdock.engine.base import EngineError
from pbsdock.engine.docker.answers import failure, message
from pbsdock.engine.docker.http import Pool, take_over

_SILENT = "no answer within the deadline"
_HUNG_S = 2.0  # after a deadline, how long calls are refused without another probe


class Link:
    """To the engine at one socket; every call takes at most *timeout_s* seconds. *on_change* is told up and why not."""

    def __init__(
        self, socket_path: str, timeout_s: float, probe_timeout_s: float, on_change: Callable[[bool, str], None]
    ) -> None:
        self.socket_path = socket_path
        self.timeout_s = timeout_s
        self.probe_timeout_s = probe_timeout_s
        self.on_change = on_change
        self.down_because: str | None = None
        self._hung_until = 0.0
        self._lock = threading.Lock()
        self._client: Any = None
        self._pool = Pool(socket_path, timeout_s)

    def client(self, timeout_s: float | None) -> Any:
        """The SDK's client for a long conversation (a pull, the events); None: without a deadline for what is read."""
        return self._connect(self._pooled().api_version, timeout_s)

    def _connect(self, version: str, timeout_s: float | None) -> Any:
        # The SDK's stubs lag behind it: it takes fractions of a second, and None for no deadline.
        timeout: Any = timeout_s
        client = docker.APIClient(base_url=f"unix://{self.socket_path}", version=version, timeout=timeout, num_pools=64)
        client.trust_env = False  # a unix socket has no proxy, and looking for one costs a third of a call
        return client

    def _pooled(self) -> Any:
        with self._lock:
            if self._client is None:
                # Whoever had the lock has waited for all who stand here.
                if self.down_because is not None and time.monotonic() < self._hung_until:
                    raise NodeFault("engine-unreachable", f"the Docker engine does not answer: {self.down_because}")
                self._client = self._connect("auto", self.timeout_s)
            return self._client

    def ask(self, doing: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call and the JSON it answers with. Raises NodeFault, EngineError."""
        content = None if body is None else json.dumps(body).encode()
        with self._guard(doing) as client:
            status, answer = self._pool.ask(method, f"/v{client.api_version}{path}", content)
        if status >= 400:
            raise _refused(doing, status, message(answer))
        return json.loads(answer) if answer else None

    def begin(self, doing: str, path: str, most_bytes: int) -> bytes:
        """How a long answer begins; the rest is never sent. Raises NodeFault, EngineError."""
        with self._guard(doing) as client:
            status, answer = self._pool.begin("GET", f"/v{client.api_version}{path}", most_bytes)
        if status >= 400:
            raise _refused(doing, status, message(answer))
        return answer

    def fetch(
        self, doing: str, method: str, path: str, *, header: str, accept: Callable[[str], bool]
    ) -> tuple[str, bytes]:
        """One call: the value of a header, and the body unless *accept* does not take that value.

        Raises NodeFault, EngineError.
        """
        with self._guard(doing) as client:
            target = f"/v{client.api_version}{path}"
            status, value, content = self._pool.fetch(method, target, header=header, accept=accept)
        if status >= 400:
            raise _refused(doing, status, message(content))
        return value, content

    def stream(self, doing: str, path: str, body: bytes) -> socket.socket:
        """A socket past the HTTP header of the answer; nothing of the stream is read. Raises NodeFault, EngineError."""
        with self._guard("attach") as client:
            target = f"/v{client.api_version}{path}"
            status, text, stream = take_over(self.socket_path, self.timeout_s, target, body)
        if status not in (101, 200):
            stream.close()
            raise _refused(doing, status, text)
        return stream

    @contextmanager
    def _guard(self, doing: str) -> Iterator[Any]:
        # A hung engine costs a probe's whole deadline each time: the many calls of one hook share one.
        if self.down_because is not None and (time.monotonic() < self._hung_until or not self.probe()):
            raise NodeFault("engine-unreachable", f"the Docker engine does not answer: {self.down_because}")
        try:
            yield self._pooled()
        except docker.errors.APIError as error:
            status = error.response.status_code if error.response is not None else 500
            raise EngineError(status, str(error.explanation or error)) from None
        except (requests.exceptions.RequestException, docker.errors.DockerException, HTTPException, OSError) as error:
            self._lost(f"{doing} failed: {_short(error)}")
            raise NodeFault("engine-unreachable", f"the Docker engine does not answer: {self.down_because}") from None

    def _lost(self, why: str) -> None:
        if why.endswith(_SILENT):
            self._hung_until = time.monotonic() + _HUNG_S
        if self.down_because is None:
            self.down_because = why
            self.on_change(False, why)
        else:
            self.down_because = why

    def probe(self) -> bool:
        """Ask the engine for a sign of life, shortly; closes the circuit again when it gives one."""
        try:
            # Without a version: an engine refuses one below its minimum, 1.44 since Docker 29.
            pool = Pool(self.socket_path, self.probe_timeout_s)
            try:
                status, answer = pool.ask("GET", "/_ping")
            finally:
                pool.close()
            if status != 200:
                raise OSError(f"it answers {status}: {message(answer)}")
        except (HTTPException, OSError) as error:
            self._lost(f"no sign of life: {_short(error)}")
            return False
        if self.down_because is not None:
            with self._lock:
                self._client = None  # its kept-alive connections are dead
            self._pool.close()
            self.down_because = None
            self.on_change(True, "")
        return True


def _refused(doing: str, status: int, text: str) -> EngineError:
    return EngineError(status, text, failure(doing, status, text))


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "timed out" in text.lower():
        return _SILENT
    if "No such file" in text or "FileNotFound" in text:
        return "its socket does not exist"
    if "refused" in text.lower():
        return "connection refused"
    return text[:200] or type(error).__name__
