"""What every ``docker`` command of a job has at hand: who asks, from where, and the children of their job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pbsdock.agent.node import Node
from pbsdock.agent.shim.owner import Asker, asker_of
from pbsdock.core.child import Child, ChildNetwork
from pbsdock.core.errors import Refusal
from pbsdock.host.process import Caller
from pbsdock.rm.base import Job
from pbsdock.shim.commands import Exec, Run
from pbsdock.shim.refusal import FAILED, ShimRefusal

if TYPE_CHECKING:
    from pbsdock.agent.session import Session


@dataclass(frozen=True, slots=True)
class Asked:
    """A command line, and where it was given: believed, since it can only hurt the user's own job."""

    argv: tuple[str, ...]
    called_as: str
    environment: Mapping[str, str]
    directory: str
    umask: int
    terminals: frozenset[str]

    def check_terminal(self, command: Run | Exec) -> None:
        """Raises ShimRefusal where *command* wants one of an input that is none."""
        if command.tty and command.interactive and not command.detach and "0" not in self.terminals:
            raise ShimRefusal("the input device is not a TTY", FAILED)


@dataclass(slots=True)
class Context:
    """Of one command. The job is looked up when it is first needed: ``docker --help`` needs none."""

    session: Session
    caller: Caller
    asked: Asked
    _asker: Asker | None = None
    _job: Job | None = None

    @property
    def node(self) -> Node:
        """This node."""
        return self.session.node

    @property
    def asker(self) -> Asker:
        """Whose command it is. Raises Refusal for a process that is in no job."""
        if self._asker is None:
            self._asker = asker_of(self.node, self.caller)
        return self._asker

    @property
    def job(self) -> Job:
        """The job as it was granted. Raises Refusal."""
        if self._job is None:
            self._job = self._granted()
        return self._job

    def _granted(self) -> Job:
        try:
            return self.asker.live.job(self.asked.environment)
        except KeyError:
            raise Refusal("unknown-user", f"user {self.caller.uid} is not known on {self.node.name}") from None

    def look_again(self) -> None:
        """After something that may have taken long: whether the job is still there, and still the same. Raises
        Refusal."""
        before = self._asker
        now = self._asker = asker_of(self.node, self.caller)
        self._job = None
        if before is not None and (
            now.live.id != before.live.id or (before.record is not None and now.record is not before.record)
        ):
            raise Refusal("job-over", f"job {before.live.id} is over; nothing more is started in it")

    # -- children -----------------------------------------------------------------------------------------------------

    @property
    def children(self) -> list[Child]:
        """The job's, the oldest first."""
        record = self.asker.record
        known = self.node.children.of(record.name) if record is not None else []
        return [child for child in known if child.id and not child.is_gone]

    @property
    def networks(self) -> list[ChildNetwork]:
        """The job's own."""
        record = self.asker.record
        return self.node.children.networks(record.name) if record is not None else []

    def child(self, name: str) -> Child:
        """By its name, its id or as much of that as is enough. Raises ShimRefusal."""
        children = self.children
        plain = name.removeprefix("/")
        exact = [child for child in children if plain == child.name or name == child.id]
        begun = [child for child in children if name and child.id.startswith(name)]
        if found := exact or begun:
            if len(found) > 1:
                raise ShimRefusal(f"multiple IDs found with provided prefix: {name}", FAILED)
            return found[0]
        raise ShimRefusal(f"No such container: {name} (docker sees the containers of this job alone)", FAILED)

    def running(self, name: str) -> Child:
        """One that runs. Raises ShimRefusal."""
        child = self.child(name)
        if child.is_over:
            raise ShimRefusal(f"Container {child.id} is not running", FAILED)
        return child

    def network(self, name: str) -> ChildNetwork:
        """By its name, or the beginning of its id. Raises ShimRefusal."""
        for network in self.networks:
            if name == network.name or (name and network.id.startswith(name)):
                return network
        raise ShimRefusal(f"No such network: {name} (docker sees the networks of this job alone)", FAILED)
