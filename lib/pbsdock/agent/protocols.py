"""What parts of the agent ask of the node they work for, where they need little of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pbsdock.agent.jobs import Jobs
from pbsdock.agent.workers import Worker
from pbsdock.config.tables import Config
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record
from pbsdock.engine.base import ContainerEngine
from pbsdock.host.cgroup.base import JobCgroup
from pbsdock.protocol import wire
from pbsdock.rm.base import ResourceManager

if TYPE_CHECKING:
    from pbsdock.stores.secret import Secret


class Emits(Protocol):
    """Tells of events."""

    def emit(self, event: str, record: Record | None = None, **fields: Any) -> None:
        """Emit an event, with the job's identity when it is about one."""


class Conversation(Protocol):
    """A command that a client carries out step by step."""

    is_over: bool

    def go_on(self, answer: wire.Message | None = None) -> None:
        """Take the next steps. Raises ClientGone."""

    def leave(self) -> None:
        """The client is gone. Waits for nobody."""


class HasCgroups(Protocol):
    """Knows the cgroup backend."""

    @property
    def cgroups(self) -> JobCgroup:
        """Found out from the engine when it is first asked for. Raises NodeFault."""


class RunsTasks(Emits, Protocol):
    """What a TM task needs."""

    @property
    def engine(self) -> ContainerEngine:
        """Where the job's container is."""

    @property
    def jobs(self) -> Jobs:
        """Where a task is known while it runs."""

    @property
    def rm(self) -> ResourceManager:
        """Whose words a sentence may need."""

    def tasks(self, record: Record) -> int:
        """How many tasks of a job the engine has something open for."""


class MakesWorkers(Protocol):
    """Makes staging workers."""

    def worker(self) -> Worker:
        """A worker that waits for its order. Raises OSError."""


class StagingKeys(Protocol):
    """Has the keys of staging workers."""

    def staging(self, record: Record, plan: Plan) -> dict[str, Secret]:
        """By store. Raises StoreError."""


class GivesOrders(Emits, Protocol):
    """What an order to a staging worker needs."""

    @property
    def config(self) -> Config:
        """The site's."""

    @property
    def spawner(self) -> MakesWorkers:
        """Where workers come from."""

    @property
    def stores(self) -> StagingKeys:
        """Where their keys come from."""
