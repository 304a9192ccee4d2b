"""Who looks whether the agent's shared threads hang, and what becomes of an agent in which one does.

Its jobs do not need it while they run, and a new agent takes them over within a second; an agent whose reaper or whose
look-out for lost events is over for good is worth less than that. So where systemd watches it is not told any more that
all is well, and ends the agent; elsewhere the agent ends itself, and its supervisor starts the next one. The node's
health flag is left alone: jobs are still taken.
"""

from __future__ import annotations

import os
import threading
import time

from pbsdock.agent.node import Node

_LOOK_S = 2.0
_TELL_S = 5.0
_HANGS = 70  # EX_SOFTWARE of sysexits.h


def keep(node: Node, *, is_watched: bool) -> None:
    """Look from now on, in a thread of its own; *is_watched*: the service manager ends an agent that is not well."""
    threading.Thread(target=_look, args=(node, is_watched), name="vigil", daemon=True).start()


def _look(node: Node, is_watched: bool) -> None:
    told: set[str] = set()
    while True:
        time.sleep(_LOOK_S)
        stuck = node.pulse.stuck()
        for name in stuck.keys() - told:
            _tell(node, name, stuck[name])
        told = set(stuck)
        if stuck and not is_watched:
            os._exit(_HANGS)


def _tell(node: Node, name: str, for_s: float) -> None:
    """Say so, in a thread of its own: what hangs may be the disk with the events, or hold their lock."""
    fields = {"thread": name, "seconds": for_s}
    teller = threading.Thread(target=node.emit, args=("agent.stuck",), kwargs={"level": "error", **fields}, daemon=True)
    teller.start()
    teller.join(_TELL_S)
