"""The Docker Engine behind one kept-alive connection pool, a deadline on every call, and a circuit breaker.

A hung engine must cost each hook one short wait, not mom's whole alarm: after a call has run into its deadline the
next ones are refused at once until a probe answers again.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

import docker
import docker.errors
import requests.exceptions

from pbsdock.core.errors import NodeFault
from pbsdock.engine.docker.http import Pool, take_over

_SILENT = "no answer within the deadline"
_HUNG_S = 2.0  # after a deadline, how long calls are refused without another probe


class EngineError(Exception):
    """The engine answered a call with an error: ``status`` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Engine:
    """The calls pbsdock makes, no others; all of them take at most *timeout_s* seconds."""

    def __init__(
        self,
        socket_path: str,
        timeout_s: float,
        *,
        probe_timeout_s: float = 3.0,
        on_change: Callable[[bool, str], None] = lambda up, why: None,
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

    def client(self, timeout_s: float | None = None) -> Any:
        """A client of its own for a long conversation (a pull, the event stream)."""
        return self._connect(self._pooled().api_version, timeout_s if timeout_s is not None else self.timeout_s)

    def endless(self) -> Any:
        """A client without a read deadline, for the event stream."""
        return self._connect(self._pooled().api_version, None)

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
                raise OSError(f"it answers {status}: {_message(answer)}")
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

    def info(self) -> dict[str, Any]:
        """``GET /info``."""
        return dict(self._ask("info", "GET", "/info"))

    def version(self) -> dict[str, Any]:
        """``GET /version``: the engine's and its components'."""
        return dict(self._ask("version", "GET", "/version"))

    def create(self, config: Mapping[str, Any], name: str) -> str:
        """Create a container from a whole config; returns its id."""
        return str(self._ask("create", "POST", f"/containers/create?name={quote(name)}", config)["Id"])

    def start(self, container: str) -> None:
        """Start a container."""
        self._ask("start", "POST", f"/containers/{quote(container)}/start")

    def inspect(self, container: str) -> dict[str, Any] | None:
        """Inspect a container by id or name; None if there is none."""
        with _absent(404):
            return dict(self._ask("inspect", "GET", f"/containers/{quote(container)}/json"))
        return None

    def inspect_image(self, reference: str) -> dict[str, Any] | None:
        """Inspect an image by reference; None if it is not here."""
        with _absent(404):
            return dict(self._ask("image inspect", "GET", f"/images/{quote(reference, safe='/:@')}/json"))
        return None

    def remove(self, container: str) -> bool:
        """Kill and remove a container and its anonymous volumes; False while another removal is under way."""
        with _absent(409):
            with _absent(404):
                self._ask("remove", "DELETE", f"/containers/{quote(container)}?v=1&force=1")
            return True
        return False

    def _ask(self, doing: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        with self._guard(doing) as client:
            status, answer = self._pool.ask(method, f"/v{client.api_version}{path}", content)
        if status >= 400:
            raise EngineError(status, _message(answer))
        return json.loads(answer) if answer else None

    def labelled(self, label: str) -> list[dict[str, Any]]:
        """All containers with *label* (``key=value``), running or not, as the list call describes them."""
        filters = quote(json.dumps({"label": [label]}))
        return [dict(one) for one in self._ask("list", "GET", f"/containers/json?all=1&filters={filters}")]

    def resize(self, container: str, rows: int, columns: int) -> None:
        """Set the terminal's size."""
        self._ask("resize", "POST", f"/containers/{quote(container)}/resize?h={rows}&w={columns}")

    def exec_create(
        self, container: str, argv: Sequence[str], *, environment: Sequence[str], user: str, directory: str, tty: bool
    ) -> str:
        """Create an exec with all three streams; returns its id."""
        body = {
            "Cmd": [*argv],
            "Env": [*environment],
            "User": user,
            "WorkingDir": directory,
            "Tty": tty,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Privileged": False,
        }
        return str(self._ask("exec", "POST", f"/containers/{quote(container)}/exec", body)["Id"])

    def exec_inspect(self, exec_id: str) -> dict[str, Any]:
        """Inspect an exec."""
        return dict(self._ask("exec inspect", "GET", f"/exec/{quote(exec_id)}/json"))

    def attach(self, container: str) -> socket.socket:
        """Open the container's streams; the socket is past the HTTP header and nothing of the stream is read."""
        return self._hijack(f"/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1", b"")

    def exec_start(self, exec_id: str, *, tty: bool) -> socket.socket:
        """Start an exec and return its streams."""
        return self._hijack(f"/exec/{exec_id}/start", b'{"Detach":false,"Tty":%s}' % (b"true" if tty else b"false"))

    def _hijack(self, path: str, body: bytes) -> socket.socket:
        with self._guard("attach") as client:
            target = f"/v{client.api_version}{path}"
            status, text, stream = take_over(self.socket_path, self.timeout_s, target, body)
        if status not in (101, 200):
            stream.close()
            raise EngineError(status, text)
        return stream


def _message(answer: bytes) -> str:
    """What the engine says of an error: ``{"message": …}``, unless something between us answered in its stead."""
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode("utf-8", "replace").strip()[:400]


@contextmanager
def _absent(*statuses: int) -> Iterator[None]:
    """Take these answers of the engine for "there is none"."""
    try:
        yield
    except EngineError as error:
        if error.status not in statuses:
            raise


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "timed out" in text.lower():
        return _SILENT
    if "No such file" in text or "FileNotFound" in text:
        return "its socket does not exist"
    if "refused" in text.lower():
        return "connection refused"
    return text[:200] or type(error).__name__


def boot_id() -> str:
    """The kernel's id of this boot: everything recorded under another is dead."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def process_groups(pid: int) -> frozenset[int]:
    """The supplementary groups the kernel shows for *pid* (proc(5))."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Groups:"):
                return frozenset(int(one) for one in line.split()[1:])
    return frozenset()


def host_memory() -> int:
    """Bytes of memory of this host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
