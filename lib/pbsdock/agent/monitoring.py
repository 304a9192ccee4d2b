"""What a monitoring system gets of this agent: a file for node_exporter, and an HTTP endpoint where the site has one.

Nothing of it is loaded, and no event is counted, before there is somebody to have it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pbsdock.agent.engine_sample import EngineSampler
from pbsdock.agent.node import Node
from pbsdock.core.paths import Paths
from pbsdock.metrics.textfile import TextFile

if TYPE_CHECKING:
    from pbsdock.metrics.meters import Meters

_NODE_EXPORTERS = "/var/lib/prometheus/node-exporter"  # of Debian's package
_HOSTS_OWN = Path("/run/pbsdock")  # the run directory of the instance that is not below a root of its own
Load = Callable[[], tuple[int, int, int]]  # connections, requests being answered, requests that wait


def _no_load() -> tuple[int, int, int]:
    return 0, 0, 0


def directory_for(setting: str, paths: Paths) -> str:
    """Where the file goes, "" for nowhere.

    Two instances with one directory would have the same series twice, for which node_exporter gives out neither.
    """
    if setting != "auto":
        return setting
    return _NODE_EXPORTERS if paths.run_dir == _HOSTS_OWN else ""


class Monitoring:
    """Counting begins when this is made, where there is somebody to have it; else when there is."""

    def __init__(self, node: Node) -> None:
        self.node = node
        config = node.config.metrics
        directory = directory_for(config.directory, node.paths)
        self._file = TextFile(Path(directory), node.paths.instance) if directory else None
        self._sampler = EngineSampler(node)
        self._meters: Meters | None = None
        self._load: Load = _no_load
        self._problem = ""
        if self._is_wanted():
            self._turn_on()

    def start(self, load: Load) -> None:
        """Write and serve from now on; *load* is asked for the state of the agent's door."""
        self._load = load
        config = self.node.config.metrics
        if config.listen:
            self._listen(config.listen, config.socket_group)
        if config.listen or self._file is not None:
            threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def stop(self) -> None:
        """Leave no file that would be taken for the state of an agent that runs."""
        if self._meters is not None and self._file is not None:
            self._file.remove()

    def _is_wanted(self) -> bool:
        return bool(self.node.config.metrics.listen) or (self._file is not None and self._file.is_wanted)

    def _turn_on(self) -> Meters:
        from pbsdock.agent.gauges import NodeCollector
        from pbsdock.metrics.meters import Meters

        meters = Meters()
        meters.registry.register(NodeCollector(self.node, self._sampler, lambda: self._load()))
        self.node.events.observer = meters.observe
        self._meters = meters
        return meters

    def _listen(self, listen: str, group: str) -> None:
        from pbsdock.metrics.endpoint import serve

        meters = self._meters or self._turn_on()
        try:
            serve(listen, group, meters.text)
        except (OSError, KeyError) as error:
            reason = f"there is no group {group!r}" if isinstance(error, KeyError) else error.strerror or str(error)
            self._tell(f"no metrics at {listen}: {reason}")

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                if self._is_wanted():
                    self._turn()
            except Exception as error:  # the next turn may fare better
                self._tell(repr(error)[:300])
            time.sleep(max(0.5, self.node.config.metrics.interval_s - (time.monotonic() - began)))

    def _turn(self) -> None:
        meters = self._meters or self._turn_on()
        self._sampler.look()
        if self._file is None or not self._file.is_wanted:
            return
        try:
            self._file.write(meters.text()[0])
            self._problem = ""
        except OSError as error:
            self._tell(f"{self._file.directory}: {error.strerror}")

    def _tell(self, problem: str) -> None:
        """Once until it is well again, or something else is wrong."""
        if problem != self._problem:
            self._problem = problem
            with suppress(Exception):
                self.node.emit("agent.error", level="warning", where="metrics", reason=problem)
