"""A container that a job has started by itself, through the ``docker`` client it is given. Pure."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from enum import StrEnum

from pbsdock.core.facts import Bound
from pbsdock.core.plan import Plan

VERSION = 1
# Of its container: its key, and the incarnation of its job.
LABEL, PARENT_LABEL = "pbsdock.child", "pbsdock.parent"
_SHORT = 12  # digits of an id that Docker shows


class ChildState(StrEnum):
    """Where a child is. One that is over is kept for ``docker ps -a`` and ``docker wait`` unless it had ``--rm``."""

    CREATED = "created"  # written down; its container may be there
    RUNNING = "running"
    EXITED = "exited"  # its container is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One child. Times are seconds since the epoch, ``pid_start`` clock ticks since the boot.

    ``key`` tells it from all others of its job, before the engine has given it an ``id``; ``name`` is the user's.
    ``command`` is what runs, for a person.
    """

    version: int = VERSION
    key: str
    name: str
    plan: Plan
    image_text: str = ""
    image_id: str = ""
    command: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    aliases: tuple[str, ...] = ()  # on its network, beside its name
    id: str = ""
    state: ChildState = ChildState.CREATED
    created: float
    started: float | None = None
    ended: float | None = None
    pid: int = 0  # the first process
    pid_start: int = 0
    code: int = 0
    oom: bool = False
    bound: tuple[Bound, ...] = ()
    own_files: tuple[tuple[str, str], ...] = ()
    detached: bool = False
    client: tuple[int, int] = (0, 0)  # who waits for it: process id and start, in clock ticks since the boot
    terminal: bool = False
    removes_itself: bool = False  # --rm: nothing of it is remembered
    stop_signal: int = 15
    stop_timeout: float = 10.0
    adopted: bool = False  # by the resource manager

    @property
    def short(self) -> str:
        """Its id as Docker shows it."""
        return self.id[:_SHORT]

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs, or will."""
        return self.state is ChildState.EXITED

    @property
    def is_gone(self) -> bool:
        """Whether it is not there for its user any more, while what is left of it is still being removed."""
        return self.is_over and self.removes_itself


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildNetwork:
    """A network that a job has made for its children: the user's name, and what the engine knows it by."""

    name: str
    engine_name: str
    id: str = ""
    created: float = 0.0
    is_internal: bool = True


def new_key() -> str:
    """Of a child: short, and of no other of its job."""
    return f"c{secrets.token_hex(6)}"


_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def is_name(text: str) -> bool:
    """Whether Docker takes it for a container's name (its names package, RestrictedNamePattern)."""
    return _NAME.fullmatch(text) is not None and len(text) <= 253
