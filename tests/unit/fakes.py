"""A node for unit tests: the agent's own Node over fakes of what is outside of the process.

The engine, the cgroups, the object stores and the staging workers are fakes in memory, which fail where a test says so;
locks, ledger, markers, health flag and directories are the agent's, below a directory of the test's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from pbsdock.agent.channel import Channel
from pbsdock.agent.node import Node
from pbsdock.agent.quota import UserQuota
from pbsdock.agent.requests import respond
from pbsdock.agent.session import Peer, Session
from pbsdock.config.tables import parse
from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Level, Usage
from pbsdock.core.ledger import Ledger
from pbsdock.core.paths import Paths
from pbsdock.core.plan import Limits, Plan
from pbsdock.core.record import Record, State
from pbsdock.engine.base import (
    ContainerEngine,
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
from pbsdock.engine.images import Image
from pbsdock.engine.private import PrivateImages
from pbsdock.engine.turns import Turns
from pbsdock.host.cgroup.base import JobCgroup
from pbsdock.protocol import wire
from pbsdock.stores.secret import Secret
from tests.unit.records import record_in

AWAY = NodeFault("engine-unreachable", "the Docker engine does not answer")


class Failing:
    """Fails at the calls a test names, with the error it gives; remembers every call."""

    def __init__(self) -> None:
        self.fails: dict[str, BaseException] = {}
        self.calls: list[str] = []

    def called(self, call: str) -> None:
        self.calls.append(call)
        if call in self.fails:
            raise self.fails[call]


@dataclass
class FakeContainer:
    """A container in memory."""

    id: str
    name: str
    spec: ContainerSpec | None
    labels: dict[str, str]
    created_at: float = 0.0
    state: ContainerState = field(default_factory=ContainerState)


class FakeEngine(Failing):
    """Containers by id. A call that fails has done its work all the same, as an engine's may have.

    Many methods because it is a whole :class:`pbsdock.engine.base.ContainerEngine`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down_because: str | None = None
        self.containers: dict[str, FakeContainer] = {}
        self.execs: dict[str, ExecState] = {}
        self.streams: list[socket.socket] = []  # the engine's ends
        self.coming: list[EngineEvent] = []
        self.first_pid = 0  # of every container that is started; 0: it is over at once
        self.removal_under_way = False
        self.exit_code = 0  # of one that is over at once
        self.files: dict[str, FoundFile] = {}  # of every image
        self.listed_images: list[ListedImage] = []
        self.made_networks: dict[str, ListedNetwork] = {}
        self.image_variables = {"PATH"}  # of every image
        self.image_files = {"/bin/sh": ImageFile(is_program=True, content=None)}

    def probe(self) -> bool:
        self.calls.append("probe")
        return self.down_because is None

    def info(self) -> EngineCapabilities:
        self.called("info")
        return EngineCapabilities(
            version="1",
            architecture="x86_64",
            cgroup_driver="cgroupfs",
            cgroup_version=2,
            root_dir="/var/lib/fake",
            security_options=(),
            live_restore=True,
            runtimes=("runc",),
            default_runtime="runc",
            maps_user_ids=False,
        )

    def components(self) -> dict[str, str]:
        return {"fake": "1"}

    def check_login(self, registry: str, login: Mapping[str, str]) -> None:
        self.called(f"check_login {registry}")

    def add(self, name: str, *, created_at: float = 0.0, **labels: str) -> FakeContainer:
        """A container that is there already; labels by the end of their names."""
        named = {f"pbsdock.{label}": value for label, value in labels.items()}
        made = FakeContainer(f"id-{name}", name, None, named, created_at)
        self.containers[made.id] = made
        return made

    def images(self) -> list[ListedImage]:
        self.called("images")
        return list(self.listed_images)

    def remove_image(self, name: str) -> bool:
        self.called(f"remove_image {name}")
        self.listed_images = [image for image in self.listed_images if name not in (*image.tags, *image.digests)]
        return True

    def read_image(
        self, image_id: str, wanted: Mapping[str, int], labels: Mapping[str, str]
    ) -> tuple[frozenset[str], dict[str, ImageFile]]:
        self.called("read_image")
        found = {path: file for path, file in self.image_files.items() if path in wanted}
        return frozenset(self.image_variables), found

    def create_network(self, name: str, labels: Mapping[str, str], *, internal: bool) -> str:
        self.called(f"create_network {name}")
        self.made_networks[name] = ListedNetwork(id=f"id-{name}", name=name, labels=labels, created_at=0.0)
        return f"id-{name}"

    def remove_network(self, name: str) -> None:
        self.called(f"remove_network {name}")
        self.made_networks = {
            key: network for key, network in self.made_networks.items() if name not in (network.id, network.name)
        }

    def networks(self, label: str) -> list[ListedNetwork]:
        self.called("networks")
        key, _, value = label.partition("=")
        return [network for network in self.made_networks.values() if network.labels.get(key) == value]

    def create(self, spec: ContainerSpec, name: str) -> str:
        made = FakeContainer(f"id-{name}", name, spec, dict(spec.labels))
        self.containers[made.id] = made
        self.called("create")
        return made.id

    def look(self, container: str, path: str) -> FoundFile | None:
        self.called("look")
        return self.files.get(path)

    def attach(self, container: str) -> socket.socket:
        self.called("attach")
        return self._stream()

    def _stream(self) -> socket.socket:
        ours, engines = socket.socketpair()
        engines.settimeout(5)
        self.streams.append(engines)
        return ours

    def start(self, container: str) -> None:
        self._found(container).state = ContainerState(
            is_running=bool(self.first_pid), pid=self.first_pid, exit_code=self.exit_code
        )
        self.called("start")

    def limit(self, container: str, limits: Limits) -> None:
        self.called(f"limit {container} to {limits.memory_bytes}")

    def find(self, container: str) -> FakeContainer | None:
        """By id or name."""
        return next((known for known in self.containers.values() if container in (known.id, known.name)), None)

    def _found(self, container: str) -> FakeContainer:
        found = self.find(container)
        if found is None:
            raise EngineError(404, f"no such container: {container}")
        return found

    def inspect(self, container: str) -> ContainerState | None:
        self.called("inspect")
        found = self.find(container)
        return found.state if found is not None else None

    def inspect_image(self, reference: str) -> ImageFacts | None:
        return None

    def remove(self, container: str) -> bool:
        self.called("remove")
        if self.removal_under_way:
            return False
        found = self.find(container)
        if found is not None:
            del self.containers[found.id]
        return True

    def labelled(self, label: str) -> list[ListedContainer]:
        self.called("labelled")
        key, _, value = label.partition("=")
        return [
            ListedContainer(id=known.id, labels=known.labels, created_at=known.created_at)
            for known in self.containers.values()
            if known.labels.get(key) == value
        ]

    def resize(self, container: str, rows: int, columns: int) -> None:
        self.called(f"resize {rows}x{columns}")

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
        self.called(f"exec_create {uid}:{gid} {directory} {argv[-1]}")
        identifier = f"{len(self.execs):064x}"
        self.execs[identifier] = ExecState(
            container_id=self._found(container).id, is_running=False, pid=0, exit_code=None
        )
        return identifier

    def exec_start(self, exec_id: str, *, tty: bool) -> socket.socket:
        self.called("exec_start")
        before = self.execs[exec_id]
        self.execs[exec_id] = ExecState(container_id=before.container_id, is_running=False, pid=0, exit_code=0)
        return self._stream()

    def exec_inspect(self, exec_id: str) -> ExecState:
        self.called("exec_inspect")
        if exec_id not in self.execs:
            raise EngineError(404, "no such exec")
        return self.execs[exec_id]

    @contextmanager
    def events(self, label: str) -> Iterator[Iterator[EngineEvent]]:
        self.called("events")
        coming, self.coming = self.coming, []
        yield iter(coming)


class FakeCgroups(Failing):
    """Cgroups by name, with the limits they were made with. Nobody in them survives being killed unless told so."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, Limits | None] = {}
        self.used = Usage(limit_hit=False)
        self.members: list[int] = []  # of every cgroup
        self.is_stubborn = False
        self.signalled: list[int] = []
        self.frozen: list[tuple[str, bool]] = []

    def create(self, name: str, limits: Limits) -> None:
        self.made[name] = limits
        self.called("create")

    def cgroup_parent(self, name: str) -> str:
        return f"/fake/{name}"

    def verify(self, name: str, limits: Limits) -> None:
        self.called("verify")

    def usage(self, name: str) -> Usage:
        self.called("usage")
        return self.used

    def level(self, name: str) -> Level:
        self.called("level")
        return Level(memory_bytes=1 << 20, pids=len(self.members))

    def pids(self, name: str) -> list[int]:
        return list(self.members)

    def contains(self, name: str, pid: int) -> bool:
        self.called("contains")
        return pid in self.members

    def kill(self, name: str, deadline_s: float) -> bool:
        self.called("kill")
        return not self.is_stubborn

    def remove(self, name: str, deadline_s: float) -> None:
        self.called("remove")
        self.made.pop(name, None)

    def signal(self, name: str, signum: int, exclude: frozenset[int] = frozenset()) -> int:
        self.called("signal")
        self.signalled.append(signum)
        return len(set(self.members) - exclude)

    def freeze(self, name: str, frozen: bool) -> None:
        self.called("freeze")
        self.frozen.append((name, frozen))

    def names(self) -> list[str]:
        self.called("names")
        return list(self.made)


class FakeStores(Failing):
    """Object stores that have what a test puts there."""

    def __init__(self) -> None:
        super().__init__()
        self.handles: list[tuple[str, str, str]] = []  # store, handle, incarnation

    def begin(self, record: Record, plan: Plan) -> None:
        self.called("begin")

    def deliver(self, record: Record, plan: Plan, directory: Path) -> None:
        self.called("deliver")

    def refresh(self, record: Record, directory: Path) -> bool:
        self.called("refresh")
        return False

    def staging(self, record: Record, plan: Plan) -> dict[str, Secret]:
        self.called("staging")
        return {"ceph": Secret("access", "secret")}

    def revoke(self, record: Record) -> None:
        self.called("revoke")

    def listed(self, *, is_idle: bool = False) -> list[tuple[str, str, str]]:
        self.called("listed when idle" if is_idle else "listed")
        return list(self.handles)

    def revoke_orphan(self, store: str, name: str) -> None:
        self.called(f"revoke {store}:{name}")
        self.handles = [handle for handle in self.handles if handle[:2] != (store, name)]


class FakeImages(Failing):
    """Every image is there."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.private = PrivateImages(None)

    def ensure(self, reference: str, **_bounds: Any) -> Image:
        self.called("ensure")
        return Image(id="sha256:1", digest=None, architecture="amd64", size=1)


class FakeWorker:
    """Tells what it was given to tell, whatever its order."""

    def __init__(self, told: Sequence[dict[str, Any]]) -> None:
        self.told = told
        self.is_killed = False

    def obey(self, order: Any, keys: Any) -> Iterator[dict[str, Any]]:
        yield from self.told

    def kill(self) -> None:
        self.is_killed = True


class FakeSpawner(Failing):
    """Workers that all tell the same."""

    def __init__(self) -> None:
        super().__init__()
        counters = {"files": 1, "bytes": 3, "skipped": 0, "unverified": 0, "left_out": [], "kept": []}
        self.told: list[dict[str, Any]] = [{"done": counters}]

    def worker(self) -> FakeWorker:
        self.called("worker")
        return FakeWorker(self.told)


class FakeEvents:
    """The stream of events, in a list."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def emit(self, event: str, **fields: Any) -> None:
        self.told.append((event, fields))

    def tell_limited(self, now: bool = False) -> None:
        pass

    def names(self) -> list[str]:
        """Of the events, in order."""
        return [event for event, _fields in self.told]


class FakeNode(Node):
    """The agent's own node, with its edges as fakes by their own types."""

    engine: FakeEngine
    stores: FakeStores  # type: ignore[assignment]  # a fake
    images: FakeImages  # type: ignore[assignment]  # a fake
    spawner: FakeSpawner  # type: ignore[assignment]  # a fake
    events: FakeEvents  # type: ignore[assignment]  # a fake

    @property
    def fake_cgroups(self) -> FakeCgroups:
        """The cgroups, for a test to change."""
        assert isinstance(self._cgroups, FakeCgroups)
        return self._cgroups


def fake_node(directory: Path, config: str = "") -> FakeNode:
    """A node with the site's configuration *config* below *directory*, whose fakes hold nothing yet."""
    paths = Paths(
        python=Path("/usr/bin/python3"),
        lib=directory / "lib",
        run_dir=directory / "run",
        state_dir=directory / "state",
        log_dir=directory / "log",
        config=directory / "etc/pbsdock.toml",
        mom_priv=directory / "mom/mom_priv",
        instance="test",
        prefix=directory,
        home=directory,
    )
    for place in (paths.work, paths.markers, paths.pins, paths.state_dir, paths.mom_priv / "jobs"):
        place.mkdir(parents=True)
    engine: ContainerEngine = FakeEngine()
    with mock.patch("pbsdock.agent.node.connect_with_images", return_value=(engine, FakeImages())):
        node = FakeNode(paths, parse(config), FakeEvents(), Ledger(paths.state_dir / "jobs"))  # type: ignore[arg-type]
    cgroups: JobCgroup = FakeCgroups()
    node._cgroups, node.stores, node.spawner = cgroups, FakeStores(), FakeSpawner()
    return node


def known(node: Node, state: State | str, **changes: Any) -> Record:
    """A record in that state which the node has, its handles named as prepare names them; see ``record_in``."""
    record = record_in(state, **changes)
    record.boot_id, record.node = node.boot, node.owner
    record.container_name, record.cgroup, record.image_id = f"c-{record.incarnation}", record.name, "sha256:1"
    node.jobs.create(record)
    return record


@contextmanager
def session_of(node: Node, uid: int) -> Iterator[Session]:
    """A connection of that user's, over a real socket whose client's end is ``session.client``."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        peer = Peer(ours)
        peer.uid = uid
        session = FakeClientSession(node, Channel(ours), peer, UserQuota(32, 1 << 20))
        session.client = theirs
        yield session


class FakeClientSession(Session):
    """A session that knows its client."""

    client: socket.socket


def ask(node: Node, uid: int, *messages: wire.Message, session: Session | None = None) -> list[wire.Message]:
    """What a client of that user is answered to each message, but notices; in a session of its own by default."""
    if session is None:
        with session_of(node, uid) as fresh:
            return ask(node, uid, *messages, session=fresh)
    assert isinstance(session, FakeClientSession)
    for message in messages:
        session.handle(message, respond)
    return [answer for answer in _received(session.client) if answer.op not in ("notice", "waiting")]


def _received(client: socket.socket) -> Iterator[wire.Message]:
    """What has come in; nobody waits, since the agent answers before it returns."""
    data = b""
    while True:
        try:
            part, fds, *_ = socket.recv_fds(client, 65536, 8)
        except BlockingIOError:
            break
        for fd in fds:
            os.close(fd)
        data += part
    while data:
        length = int.from_bytes(data[:4], "big")
        yield wire.decode(data[4 : 4 + length])
        data = data[4 + length :]
