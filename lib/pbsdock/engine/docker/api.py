"""The Docker Engine as a :class:`pbsdock.engine.base.ContainerEngine`."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from pbsdock.core.plan import Limits
from pbsdock.engine.base import (
    ContainerSpec,
    ContainerState,
    EngineCapabilities,
    EngineError,
    EngineEvent,
    ExecState,
    FoundFile,
    ImageFacts,
    ImageFile,
    ListedContainer,
    ListedImage,
    ListedNetwork,
)
from pbsdock.engine.docker import answers, image_files
from pbsdock.engine.docker.host_config import create_body, limit_fields
from pbsdock.engine.docker.link import Link
from pbsdock.engine.docker.seccomp import profile

_HEAD_BYTES = 64 << 10  # of an archive: its first header, and what of a program tells how it is run


class Engine:
    """The calls pbsdock makes, each of at most *timeout_s* seconds.

    Many methods because ContainerEngine has as many, and each is a line or two.
    """

    def __init__(
        self,
        socket_path: str,
        timeout_s: float,
        *,
        probe_timeout_s: float = 3.0,
        on_change: Callable[[bool, str], None] = lambda up, why: None,
        seccomp: str = "engine",
    ) -> None:
        """*seccomp*: "engine", "hpc" or a profile in JSON."""
        self._link = Link(socket_path, timeout_s, probe_timeout_s, on_change)
        self._seccomp = seccomp
        self._profile: str | None = None  # of "hpc", once the engine's version is known

    @property
    def down_because(self) -> str | None:
        return self._link.down_because

    def client(self, timeout_s: float | None = None) -> Any:
        """A client of the SDK's of its own for a pull; without *timeout_s* the deadline of every call is its too."""
        return self._link.client(self._link.timeout_s if timeout_s is None else timeout_s)

    def probe(self) -> bool:
        return self._link.probe()

    def info(self) -> EngineCapabilities:
        found = answers.capabilities(self._link.ask("info", "GET", "/info"))
        if self._seccomp == "hpc":
            # Asked anew whenever the connection was lost: another version's filter allows other calls. An engine
            # without seccomp refuses every profile, and forbids no call either.
            self._profile = profile(found.version) if found.has_seccomp else ""
        return found

    def components(self) -> dict[str, str]:
        return answers.components(self._link.ask("version", "GET", "/version"))

    def check_login(self, registry: str, login: Mapping[str, str]) -> None:
        address = "https://index.docker.io/v1/" if registry == "docker.io" else registry
        self._link.ask("auth", "POST", "/auth", {**login, "serveraddress": address})

    def create(self, spec: ContainerSpec, name: str) -> str:
        body = create_body(spec, self._seccomp_profile())
        return str(self._link.ask("create", "POST", f"/containers/create?name={quote(name)}", body)["Id"])

    def _seccomp_profile(self) -> str:
        if self._seccomp != "hpc":
            return "" if self._seccomp == "engine" else self._seccomp
        if self._profile is None:
            self.info()
        return self._profile or ""

    def attach(self, container: str) -> socket.socket:
        return self._link.stream("attach", f"/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1", b"")

    def start(self, container: str) -> None:
        self._link.ask("start", "POST", f"/containers/{quote(container)}/start")

    def limit(self, container: str, limits: Limits) -> None:
        self._link.ask("update", "POST", f"/containers/{quote(container)}/update", limit_fields(limits))

    def inspect(self, container: str) -> ContainerState | None:
        with _absent(404):
            return answers.container_state(self._link.ask("inspect", "GET", f"/containers/{quote(container)}/json"))
        return None

    def look(self, container: str, path: str) -> FoundFile | None:
        with _absent(404):
            target = f"/containers/{quote(container)}/archive?path={quote(path, safe='')}"
            return answers.first_file(self._link.begin("archive", target, _HEAD_BYTES))
        return None

    def inspect_image(self, reference: str) -> ImageFacts | None:
        with _absent(404):
            name = quote(reference, safe="/:@")
            return answers.image_facts(self._link.ask("image inspect", "GET", f"/images/{name}/json"))
        return None

    def images(self) -> list[ListedImage]:
        return [answers.listed_image(image) for image in self._link.ask("images", "GET", "/images/json")]

    def remove_image(self, name: str) -> bool:
        with _absent(404, 409):
            self._link.ask("image remove", "DELETE", f"/images/{quote(name, safe='/:@')}")
            return True
        return False

    def read_image(
        self, image_id: str, wanted: Mapping[str, int], labels: Mapping[str, str]
    ) -> tuple[frozenset[str], dict[str, ImageFile]]:
        return image_files.read(self._link, image_id, wanted, labels)

    def remove(self, container: str) -> bool:
        """Its anonymous volumes too."""
        with _absent(409):
            with _absent(404):
                self._link.ask("remove", "DELETE", f"/containers/{quote(container)}?v=1&force=1")
            return True
        return False

    def labelled(self, label: str) -> list[ListedContainer]:
        filters = quote(json.dumps({"label": [label]}))
        found = self._link.ask("list", "GET", f"/containers/json?all=1&filters={filters}")
        return [answers.listed(container) for container in found]

    def create_network(self, name: str, labels: Mapping[str, str], *, internal: bool) -> str:
        # Without an address of the host's on it: what listens on all of its addresses is not reached by the network.
        options = {"com.docker.network.bridge.inhibit_ipv4": "true"} if internal else {}
        body = {"Name": name, "CheckDuplicate": True, "Internal": internal, "Options": options, "Labels": dict(labels)}
        return str(self._link.ask("network create", "POST", "/networks/create", body)["Id"])

    def remove_network(self, name: str) -> None:
        with _absent(404):
            self._link.ask("network remove", "DELETE", f"/networks/{quote(name)}")

    def networks(self, label: str) -> list[ListedNetwork]:
        filters = quote(json.dumps({"label": [label]}))
        found = self._link.ask("networks", "GET", f"/networks?filters={filters}")
        return [answers.listed_network(network) for network in found]

    def resize(self, container: str, rows: int, columns: int) -> None:
        self._link.ask("resize", "POST", f"/containers/{quote(container)}/resize?h={rows}&w={columns}")

    def exec_create(
        self,
        container: str,
        argv: Sequence[str],
        *,
        environment: Sequence[str],
        uid: int,
        gid: int,
        directory: str,
        tty: bool,
    ) -> str:
        body = {
            "Cmd": [*argv],
            "Env": [*environment],
            "User": f"{uid}:{gid}",
            "WorkingDir": directory,
            "Tty": tty,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Privileged": False,
        }
        return str(self._link.ask("exec", "POST", f"/containers/{quote(container)}/exec", body)["Id"])

    def exec_start(self, exec_id: str, *, tty: bool) -> socket.socket:
        body = b'{"Detach":false,"Tty":%s}' % (b"true" if tty else b"false")
        return self._link.stream("exec start", f"/exec/{exec_id}/start", body)

    def exec_inspect(self, exec_id: str) -> ExecState:
        return answers.exec_state(self._link.ask("exec inspect", "GET", f"/exec/{quote(exec_id)}/json"))

    @contextmanager
    def events(self, label: str) -> Iterator[Iterator[EngineEvent]]:
        client = self._link.client(None)
        try:
            wanted = {"type": "container", "label": [label], "event": [*answers.EVENTS]}
            yield answers.events(client.events(decode=False, filters=wanted))
        finally:
            client.close()


@contextmanager
def _absent(*statuses: int) -> Iterator[None]:
    """Take these answers of the engine for "there is none"."""
    try:
        yield
    except EngineError as error:
        if error.status not in statuses:
            raise
