"""What all parts of the agent share: the node's facts, its edges, and which jobs are under way."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pbsdock.agent import outage
from pbsdock.agent.arrivals import Arrivals
from pbsdock.agent.attempts import Attempts
from pbsdock.agent.child_book import Book
from pbsdock.agent.drain import Drain
from pbsdock.agent.health_flag import HealthFlag
from pbsdock.agent.history import History
from pbsdock.agent.host_facts import closed_paths, host_facts
from pbsdock.agent.image_cache import ImageCache
from pbsdock.agent.image_profile import ImageProfiles
from pbsdock.agent.image_properties import PropertiesFile
from pbsdock.agent.jobs import Jobs
from pbsdock.agent.known_nodes import KnownNodes
from pbsdock.agent.later import Later
from pbsdock.agent.locks import Locks
from pbsdock.agent.looks import Looks
from pbsdock.agent.ordered_pulls import OrderedPulls
from pbsdock.agent.passes import Passes
from pbsdock.agent.planning import Planning
from pbsdock.agent.promises import Promises
from pbsdock.agent.pulse import Pulse
from pbsdock.agent.questions import Questions
from pbsdock.agent.stores import Stores
from pbsdock.agent.streams import Streams
from pbsdock.agent.workers import Spawner
from pbsdock.cluster.signing import Signer
from pbsdock.cluster.signing import choose as choose_signer
from pbsdock.config.lines import Place
from pbsdock.config.tables import Config, seccomp_of
from pbsdock.core.cpus import parse_cpus
from pbsdock.core.errors import HookError, NodeFault
from pbsdock.core.ledger import Ledger
from pbsdock.core.pathrules import ClosedPaths
from pbsdock.core.paths import Paths
from pbsdock.core.record import Record, State
from pbsdock.core.trail import phase_of
from pbsdock.engine.base import EngineCapabilities, EngineError
from pbsdock.engine.credentials import load_site
from pbsdock.engine.images import PullSettings
from pbsdock.engine.make import connect_with_images
from pbsdock.engine.private import PrivateImages
from pbsdock.events.stream import EventStream
from pbsdock.host.cgroup.base import JobCgroup
from pbsdock.host.cgroup.detect import choose
from pbsdock.host.facts import boot_id
from pbsdock.policy.decide import HostFacts
from pbsdock.policy.explain import Rules
from pbsdock.rm.choose import manager

_LOOK_FOR_SIGNER_S = 5.0


class Node:
    """The agent's shared state, with its edges: engine, cgroups, stores, resource manager, ledger.

    Many methods because each is one fact of the node that several parts of the agent ask for; none decides anything.
    """

    def __init__(
        self,
        paths: Paths,
        config: Config,
        events: EventStream,
        ledger: Ledger,
        lines: Mapping[Place, int] = MappingProxyType({}),
    ) -> None:
        """*lines*: where the site's file has each of its keys."""
        self.paths = paths
        self.config = config
        self.rules = Rules(config, lines)
        self.events = events
        self.name = socket.gethostname()
        self.boot = boot_id()
        self.image_cache = ImageCache(paths.state_dir / "images.json", self)
        self.engine, self.images = connect_with_images(
            config.engine.socket,
            config.engine.timeout_s,
            seccomp=seccomp_of(config.security),
            on_change=self._engine_changed,
            emit=self.emit,
            private=PrivateImages(paths.state_dir / "private_images.json"),
            keeper=self.image_cache,
            settings=lambda: PullSettings(at_once=self.config.images.max_pulls, registries=self.config.registry),
        )
        labels = {"pbsdock.owner": self.owner, "pbsdock.boot": self.boot}
        self.image_profiles = ImageProfiles(self.engine, labels, self.emit)
        self.stores = Stores(config, self.owner, self.emit)
        self.jobs = Jobs(ledger, self.emit)
        self.later = Later("shim")  # what the commands of jobs' docker have left to do
        self.adopting = Later("adopt", 4)  # runs the resource manager's tools, which may take their time
        self.children = Book(paths.state_dir / "children", self.emit)
        self.history = History(paths.state_dir / "history", config.history, self.emit)
        self.streams = Streams()
        self.pulse = Pulse()
        self.passes = Passes()
        self.spawner = Spawner(paths.lib)
        self.rm = manager(paths, self.name, client_dir=config.torque.client_dir)
        self.health_flag = HealthFlag(paths.unhealthy, self)
        self.drain = Drain(paths.drained)
        self._cgroups: JobCgroup | None = None
        self._locks = Locks()
        self.attempts = Attempts(paths.state_dir / "attempts.json")
        self.planning = Planning()
        self.questions = Questions()
        self.looks = Looks()
        self.known_nodes = KnownNodes(paths.state_dir / "nodes.json")
        self.ordered_pulls = OrderedPulls()
        self.properties_file = PropertiesFile()
        self.arrivals = Arrivals()
        self.promises = Promises()
        self.cpu_lock = threading.Lock()  # two jobs must not be given the same CPUs; nothing else is done under it
        self.tools_lock = threading.Lock()
        self.promised: dict[str, frozenset[int]] = {}  # CPUs by incarnation, until its record is written
        self.planned_by: dict[str, Config] = {}  # by incarnation, until it is released
        self._info: EngineCapabilities | None = None
        self._signer: Signer | None = None
        self._signer_at = 0.0
        self._signer_lock = threading.Lock()

    @property
    def signer(self) -> Signer | None:
        """How this node signs what it tells the others; None where the site has no way, which may come later.

        Raises SigningError.
        """
        with self._signer_lock:
            if self._signer is None and time.monotonic() >= self._signer_at:
                self._signer = choose_signer(self.config.nodes, self.paths.config)
                self._signer_at = time.monotonic() + _LOOK_FOR_SIGNER_S
            return self._signer

    # -- events -------------------------------------------------------------------------------------------------

    def emit(self, event: str, record: Record | None = None, **fields: Any) -> None:
        """Emit an event, with the job's identity when it is about one."""
        if record is not None:
            if (phase := phase_of(event, fields, time.time())) is not None:
                record.put_down(phase)
            fields = {"job": record.job_id, "incarnation": record.incarnation, "user": record.user, **fields}
        self.events.emit(event, **fields)

    def _engine_changed(self, up: bool, why: str) -> None:
        if up:
            self.engine_back()
            self.emit("engine.back")
        else:
            self.emit("engine.lost", level="error", reason=why)
            self.engine_lost()

    def engine_lost(self) -> None:
        """What runs may end by it."""
        now = time.time()
        for run in self.jobs.job_runs():
            run.outage = outage.lost(run.outage, now)

    def engine_back(self) -> None:
        """What ends from here on does not end by it."""
        now = time.time()
        for run in self.jobs.job_runs():
            run.outage = outage.back(run.outage, now)

    # -- facts --------------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """The label that says "made by this installation on this node"; nothing without it is ever removed."""
        return f"pbsdock.owner={self.owner}"

    @property
    def owner(self) -> str:
        """This instance on this node; two nodes that share an engine do not share it."""
        return f"{self.paths.instance}@{self.name}"

    def tasks(self, record: Record) -> int:
        """How many tasks of a job the engine has something open for."""
        return len(self.jobs.tasks_of(record.incarnation) | self.streams.tasks(record.incarnation))

    def labels(self, record: Record) -> dict[str, str]:
        """Labels of a job's container."""
        return {
            "pbsdock.owner": self.owner,
            "pbsdock.node": self.name,
            "pbsdock.job": record.job_id,
            "pbsdock.incarnation": record.incarnation,
            "pbsdock.boot": self.boot,
            "pbsdock.user": record.user,
        }

    def engine_info(self) -> EngineCapabilities:
        """The engine's own description, asked once per connection to it."""
        if self._info is None:
            self._info = self.engine.info()
        return self._info

    @property
    def cgroups(self) -> JobCgroup:
        """The cgroup backend, found out from the engine and the host. Raises NodeFault."""
        if self._cgroups is None:
            self._cgroups = self._choose(self.engine_info())
        return self._cgroups

    def _choose(self, info: EngineCapabilities) -> JobCgroup:
        root, parent = self.paths.instance, self.config.cgroup.parent
        return choose(info.cgroup_driver, info.cgroup_version, root=root, parent=parent)

    def look_again(self) -> None:
        """The engine may have been restarted with another cgroup driver; while it is away the old answer serves."""
        try:
            info = self.engine.info()
            fresh = self._choose(info)
        except (HookError, EngineError):
            return
        self._info = info
        if type(fresh) is not type(self._cgroups):
            self._cgroups = fresh

    def host(self) -> HostFacts:
        """What policy needs to know of this execution host."""
        return host_facts(self.name, self.closed_paths())

    def closed_paths(self) -> ClosedPaths:
        """The paths of this host that are not given to containers."""
        try:
            root = self.engine_info().root_dir
        except (HookError, EngineError):
            root = ""  # nothing can be prepared then either, and that is told in its place
        return closed_paths(self.paths, self.rm, root)

    def free_cpus(self) -> tuple[int, ...]:
        """CPUs no other job on this node has for itself; one whose container is over has none any more."""
        taken = {cpu for cpus in list(self.promised.values()) for cpu in cpus}  # before the records they end in
        for record in self.jobs.records():
            if record.plan is not None and record.state is not State.ENDED:
                taken.update(parse_cpus(record.plan.limits.cpuset or ""))
        return tuple(sorted(os.sched_getaffinity(0) - taken))

    # -- the container ------------------------------------------------------------------------------------------

    def remove_container(self, name: str, within_s: float) -> None:
        """Remove a container and wait until it is gone, if it is there. Raises NodeFault, EngineError.

        Asked by name: a crash between the engine's create and our record leaves no id.
        """
        deadline = time.monotonic() + within_s
        while not self.engine.remove(name):
            if time.monotonic() > deadline:
                raise NodeFault("container-stays", f"container {name} cannot be removed")
            time.sleep(0.02)

    # -- one job at a time --------------------------------------------------------------------------------------

    @contextmanager
    def job_lock(self, job_id: str, wait_s: float) -> Iterator[None]:
        """Serialise prepare, start and release of one job id. Raises NodeFault after *wait_s*."""
        with ExitStack() as held:
            try:
                held.enter_context(self._locks.hold(job_id, wait_s))
            except TimeoutError:
                sentence = f"another hook of job {job_id} has been at work for {wait_s:.0f} s"
                raise NodeFault("job-busy", sentence) from None
            yield

    # -- a job's files -----------------------------------------------------------------------------------------------

    def mark(self, record: Record) -> None:
        """Show the hooks that this job is ours."""
        self.paths.mark(record.job_id)

    def unmark(self, record: Record) -> None:
        """Take the marker away, unless a newer incarnation of the job needs it."""
        newest = self.jobs.newest(record.job_id)
        if newest is None or newest.incarnation == record.incarnation:
            self.paths.unmark(record.job_id)

    def work_dir(self, record: Record) -> Path:
        """Root-only directory of a job's generated files."""
        return self.paths.work / record.name

    def store_dir(self, record: Record) -> Path:
        """Where a job's object-store credentials lie: a tmpfs of its own in its work directory."""
        return self.work_dir(record) / "s3"

    def init_dir(self, record: Record) -> Path:
        """Where a job's first process listens: a tmpfs of its own in its work directory."""
        return self.work_dir(record) / "init"

    # -- the site ----------------------------------------------------------------------------------------------

    def reconfigure(self, config: Config, lines: Mapping[Place, int]) -> None:
        """Have this in force for what begins from now on; each job keeps what it was planned by."""
        self.rules = Rules(config, lines)
        self.config = config
        self.history.reconfigure(config.history)

    def config_of(self, record: Record) -> Config:
        """What a job was planned by; after a restart what is in force."""
        return self.planned_by.get(record.incarnation, self.config)

    def check_logins(self) -> None:
        """Whether the site's registry logins can be used. Raises NodeFault."""
        if path := self.config.engine.docker_config:
            load_site(Path(path))


def ms_since(began: float) -> float:
    """Milliseconds since a reading of the monotonic clock, as events have them."""
    return round((time.monotonic() - began) * 1000, 1)
