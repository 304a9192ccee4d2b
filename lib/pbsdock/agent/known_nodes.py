"""What the agents of other nodes have said of themselves last: which pbsdock they are, and what their clock shows.

For ``pbsdock doctor``, which reads the file. Best effort: what cannot be read or written is not known.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pbsdock.cluster.channel import is_same_host
from pbsdock.core import whole_file

_MOST = 4096  # nodes
_KEPT_S = 30 * 86400.0
_AGAIN_S = 3600.0  # between two writings of the same
_CLOCK_S = 30.0  # a change of a clock that is worth one
_WORD = 64  # characters of a version


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNode:
    """``version`` "" where the agent has told none; ``ahead_s`` is its clock less this node's, None where not known."""

    version: str
    at: float  # seconds since the epoch
    ahead_s: float | None = None


class KnownNodes:
    """Any thread; kept in one file."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._nodes = read(file)

    def heard(self, host: str, version: object, ahead_s: float | None = None) -> None:
        """The agent of *host* has said that; *ahead_s* None: nothing of its clock."""
        word = version[:_WORD] if isinstance(version, str) and version.isprintable() else ""
        now = self._clock()
        with self._lock:
            name = self._name_of(host)
            before = self._nodes.get(name)
            if before is not None and ahead_s is None:
                ahead_s = before.ahead_s
            told = KnownNode(version=word, at=now, ahead_s=None if ahead_s is None else round(ahead_s, 1))
            if before is not None and _is_same(before, told):
                return
            self._nodes.pop(name, None)
            self._nodes[name] = told  # the dictionary's order is that of the last ones heard
            self._nodes = {name: node for name, node in self._nodes.items() if abs(now - node.at) < _KEPT_S}
            while len(self._nodes) > _MOST:
                del self._nodes[next(iter(self._nodes))]
            self._write()

    def _name_of(self, host: str) -> str:
        """As it is known already: with its domain, or without."""
        if host in self._nodes:
            return host
        return next((name for name in self._nodes if is_same_host(name, host)), host)

    def _write(self) -> None:
        data = json.dumps({name: asdict(node) for name, node in self._nodes.items()}).encode()
        with suppress(OSError):  # a full disk is the node's fault, and told as that
            whole_file.write_over(self._file, data)


def _is_same(before: KnownNode, now: KnownNode) -> bool:
    """Whether there is nothing new to write down."""
    has_moved = abs((now.ahead_s or 0.0) - (before.ahead_s or 0.0)) >= _CLOCK_S
    is_told = before.ahead_s is not None or now.ahead_s is None
    return before.version == now.version and now.at - before.at < _AGAIN_S and is_told and not has_moved


def read(file: Path) -> dict[str, KnownNode]:
    """The nodes in a file, by name; none from what is no such file."""
    try:
        found: Any = json.loads(file.read_bytes())
        return {
            str(name): KnownNode(
                version=str(node["version"]),
                at=float(node["at"]),
                ahead_s=None if node.get("ahead_s") is None else float(node["ahead_s"]),
            )
            for name, node in list(found.items())[-_MOST:]
        }
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return {}
