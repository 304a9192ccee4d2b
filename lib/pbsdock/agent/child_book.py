"""The children of all jobs of this node, each in a file of its own: a job may have hundreds, one after another.

As in the ledger, a child is written down before anything of it is made. What is over is remembered, within bounds, for
``docker ps -a``, ``docker wait`` and ``docker logs``, and all of it is forgotten with the job.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pbsdock.core import whole_file
from pbsdock.core.child import Child, ChildNetwork, ChildState
from pbsdock.core.errors import Refusal
from pbsdock.core.plain import from_plain, to_plain

MOST_REMEMBERED = 256  # children of a job that are over
_NETWORKS = "networks"
_OF_A_CHILD = (".json", ".out", ".err")  # its record, and what it has written (pbsdock.agent.children.logs)


@dataclass(slots=True)
class _Job:
    """One job's: children in the order in which they were made."""

    children: dict[str, Child] = field(default_factory=dict)
    networks: dict[str, ChildNetwork] = field(default_factory=dict)
    starting: int = 0
    making: set[str] = field(default_factory=set)  # keys of those that some thread makes, or removes, at this moment
    is_closed: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remember of it."""
        return not (self.children or self.networks or self.starting)


class Book:
    """All children, by the name of their job's record; any thread.

    Many methods because one lock guards all that is known of them.
    """

    def __init__(self, directory: Path, emit: Callable[..., None]) -> None:
        self._directory = directory
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in sorted(directory.iterdir()):
            if place.is_dir():
                self._jobs[place.name], problems = _read(place)
                for problem in problems:
                    emit("agent.error", level="error", where="children", reason=f"{place.name}: {problem}"[:300])

    # -- looking ------------------------------------------------------------------------------------------------------

    def jobs(self) -> list[str]:
        """The names of the records that have any."""
        with self._changed:
            return list(self._jobs)

    def of(self, job: str) -> list[Child]:
        """A job's children, the oldest first."""
        with self._changed:
            found = self._jobs.get(job)
            return list(found.children.values()) if found else []

    def child(self, job: str, key: str) -> Child | None:
        """One by its key."""
        with self._changed:
            found = self._jobs.get(job)
            return found.children.get(key) if found else None

    def networks(self, job: str) -> list[ChildNetwork]:
        """The networks a job has made."""
        with self._changed:
            found = self._jobs.get(job)
            return list(found.networks.values()) if found else []

    def live(self, job: str) -> list[Child]:
        """Those that are not over."""
        return [child for child in self.of(job) if not child.is_over]

    def half_made(self) -> list[tuple[str, str]]:
        """Job and key of each that was being made when its maker was lost, or could not remove it."""
        with self._changed:
            return [
                (job, child.key)
                for job, own in self._jobs.items()
                for child in own.children.values()
                if child.state is ChildState.CREATED and child.key not in own.making and not own.is_closed
            ]

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(self, job: str, child: Child) -> None:
        """Write down a child that is to be made. Raises OSError; Refusal if its name is taken, or the job is over."""
        with self._changed:
            own = self._open(job)
            if any(other.name == child.name and not other.is_gone for other in own.children.values()):
                raise Refusal(
                    "name-taken",
                    f'Conflict. The container name "/{child.name}" is already in use by another container of this job;'
                    " remove (docker rm) or rename that one to be able to reuse the name",
                )
            self._write(job, child)
            own.children[child.key] = child
            over = [other for other in own.children.values() if other.is_over]
            for other in over[: max(0, len(over) - MOST_REMEMBERED)]:
                self._forget(job, other.key)

    def note(self, job: str, key: str, **changes: Any) -> Child | None:
        """Put down what has become of a child; returns it, None if it is not remembered. Raises OSError."""
        with self._changed:
            own = self._jobs.get(job)
            before = own.children.get(key) if own else None
            if own is None or before is None:
                return None
            child = own.children[key] = replace(before, **changes)
            self._write(job, child)
            self._changed.notify_all()
            return child

    def forget(self, job: str, key: str) -> None:
        """Remember nothing of a child. Raises OSError."""
        with self._changed:
            self._forget(job, key)

    def add_network(
        self, job: str, network: ChildNetwork, most: int, of_user: Collection[str], most_of_user: int
    ) -> None:
        """Write down a network that is to be made, where the job and its user, whose jobs are *of_user*, may have one
        more. Raises OSError, Refusal."""
        with self._changed:
            own = self._open(job)
            if len(own.networks) >= most:
                raise Refusal("too-many-networks", f"the job has {most} networks, as many as it may")
            if sum(len(self._jobs[name].networks) for name in of_user if name in self._jobs) >= most_of_user:
                raise Refusal(
                    "too-many-networks", f"your jobs here have {most_of_user} networks, as many as one user's may"
                )
            if network.name in own.networks:
                raise Refusal("network-exists", f"network with name {network.name} already exists")
            own.networks[network.name] = network
            self._write_networks(job)

    def note_network(self, job: str, network: ChildNetwork) -> None:
        """What the engine has called it. Raises OSError."""
        with self._changed:
            if (own := self._jobs.get(job)) is not None:
                own.networks[network.name] = network
                self._write_networks(job)

    def forget_network(self, job: str, name: str) -> None:
        """It is gone. Raises OSError."""
        with self._changed:
            own = self._jobs.get(job)
            if own is not None and own.networks.pop(name, None) is not None:
                self._write_networks(job)

    # -- the job's end ------------------------------------------------------------------------------------------------

    @contextmanager
    def starting(self, job: str, key: str = "") -> Iterator[None]:
        """While something is made for a job: :meth:`close` waits for that. Raises Refusal where the job is over.

        Of a job that is forgotten nothing is known here: whoever makes something looks at the record, once this is
        entered. *key*: of the child that is made, or removed.
        """
        with self._changed:
            own = self._open(job)
            own.starting += 1
            own.making.add(key)
        try:
            yield
        finally:
            with self._changed:
                own.starting -= 1
                own.making.discard(key)
                if own.is_empty and not own.is_closed and self._jobs.get(job) is own:
                    del self._jobs[job]
                self._changed.notify_all()

    def close(self, job: str, seconds: float) -> bool:
        """No child more; whether none is being made any more after *seconds* at most."""
        with self._changed:
            own = self._jobs.get(job)
            if own is None:
                return True
            own.is_closed = True
            return self._changed.wait_for(lambda: own.starting == 0, seconds)

    def is_closed(self, job: str) -> bool:
        """Whether the job is over."""
        with self._changed:
            own = self._jobs.get(job)
            return own is not None and own.is_closed

    def remove(self, job: str) -> None:
        """Forget a job, of which nothing is left. Raises OSError."""
        with self._changed:
            self._jobs.pop(job, None)
        shutil.rmtree(self._directory / job, ignore_errors=False, onerror=_unless_missing)

    # -- files --------------------------------------------------------------------------------------------------------

    def _open(self, job: str) -> _Job:
        own = self._jobs.get(job)
        if own is None:
            own = self._jobs[job] = _Job()
        if own.is_closed:
            raise Refusal("job-over", "the job is over; nothing more is started in it")
        return own

    def _forget(self, job: str, key: str) -> None:
        own = self._jobs.get(job)
        if own is not None and own.children.pop(key, None) is not None:
            for suffix in _OF_A_CHILD:
                (self._directory / job / f"{key}{suffix}").unlink(missing_ok=True)

    def _write(self, job: str, child: Child) -> None:
        self._replace(job, child.key, to_plain(child, sparse=True) | {"plan": child.plan.to_dict()})

    def _write_networks(self, job: str) -> None:
        own = self._jobs[job]
        self._replace(job, _NETWORKS, [to_plain(network) for network in own.networks.values()])

    def _replace(self, job: str, name: str, data: Any) -> None:
        place = self._directory / job
        place.mkdir(mode=0o700, exist_ok=True)
        whole_file.write_new(place / f"{name}.json", json.dumps(data, separators=(",", ":")).encode())


def _unless_missing(_function: Any, _path: Any, error: Any) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _read(place: Path) -> tuple[_Job, list[str]]:
    """What can be read, and a sentence for each file that cannot: a damaged one must not hide the others."""
    own, found, problems = _Job(), list[Child](), list[str]()
    for path in sorted(place.iterdir()):
        try:
            if path.name.startswith(whole_file.UNFINISHED):
                path.unlink()
            elif path.stem == _NETWORKS:
                listed = [from_plain(ChildNetwork, item, newer=True) for item in json.loads(path.read_bytes())]
                own.networks = {network.name: network for network in listed}
            elif path.suffix == ".json":
                found.append(from_plain(Child, json.loads(path.read_bytes()), newer=True))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{path.name}: {error}")
    own.children = {child.key: child for child in sorted(found, key=lambda child: child.created)}
    return own, problems


def over(code: int, now: float, *, oom: bool = False) -> dict[str, Any]:
    """What is put down of a child's end: its mounts are of no use any more. Pure."""
    return {
        "bound": (),
        "own_files": (),
        "state": ChildState.EXITED,
        "code": code,
        "ended": now,
        "oom": oom,
        "pid": 0,
        "pid_start": 0,
    }
