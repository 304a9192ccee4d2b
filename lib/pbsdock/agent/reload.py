"""Read the site's file again while the agent runs: checked first, refused whole if anything in it is wrong.

What is read is in force for jobs that begin afterwards; each job keeps what it was planned by.
"""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pbsdock.agent.node import Node
from pbsdock.config.change import changes, in_force
from pbsdock.config.tables import ConfigError, load_with_lines
from pbsdock.core.errors import NodeFault
from pbsdock.engine.credentials import load_site

_MOST_SAID = 2000  # characters of an event
_lock = threading.Lock()


class BadFile(ValueError):
    """``str()`` says what stays as it was, and has a line for each problem."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload has changed, and what waits until the agent is started anew: keys."""

    changed: tuple[str, ...]
    waiting: tuple[str, ...]


def reload(node: Node) -> Reloaded:
    """Read and check the file, and put it in force. Raises BadFile with every problem; nothing has changed then."""
    with _lock:
        try:
            config, lines = load_with_lines(node.paths.config)
            if config.engine.docker_config:
                load_site(Path(config.engine.docker_config))
        except (ConfigError, NodeFault, OSError) as error:
            node.emit("config.refused", level="error", reason=str(error)[:_MOST_SAID])
            raise BadFile(f"the configuration stays as it was:\n{error}") from None
        before = node.config
        # The file against what is in force, so that a key that waits is told each time.
        waiting = tuple(change.key for change in changes(before, config) if change.needs_restart)
        merged = in_force(before, config)
        changed = tuple(change.key for change in changes(before, merged))
        node.reconfigure(merged, lines)
        node.emit("config.reloaded", changed=" ".join(changed), waiting=" ".join(waiting))
        return Reloaded(changed, waiting)


class Hangups:
    """SIGHUP means: reload. Made before the file is first read, so that no signal is lost."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()  # whose put may interrupt another, as a signal does
        signal.signal(signal.SIGHUP, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])  # which the supervisor has held back

    def _note(self, *_: Any) -> None:
        self._queue.put(None)

    def follow(self, node: Node) -> None:
        """From now on, in a thread of its own."""
        threading.Thread(target=self._run, args=(node,), name="reload", daemon=True).start()

    def _run(self, node: Node) -> None:
        while True:
            self._queue.get()
            try:
                reload(node)
            except BadFile:
                continue  # the event has told
            except Exception as error:  # the next file may be read
                node.emit("agent.error", level="error", where="reload", reason=repr(error)[:300])
