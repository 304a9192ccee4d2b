"""The metrics that are read of the node when they are asked for; loaded only where a site has metrics turned on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pbsdock.agent.engine_sample import EngineSampler
from pbsdock.agent.node import Node
from pbsdock.agent.runs import TaskRun
from pbsdock.agent.version import version
from pbsdock.core.record import Record, State
from pbsdock.metrics.register import PREFIX, READ

Values = Mapping[tuple[str, ...], float]  # by the labels' values


class NodeCollector:
    """A collector of prometheus_client's. What cannot be read is left out, and asks no engine and no store."""

    def __init__(self, node: Node, sampler: EngineSampler, load: Callable[[], tuple[int, int, int]]) -> None:
        self._node = node
        self._sampler = sampler
        self._load = load
        self._version = version()  # which it stays

    def collect(self) -> Iterator[Metric]:
        """All of :data:`pbsdock.metrics.register.READ` that is known."""
        found: dict[str, Values] = {}
        with suppress(OSError):  # the ledger's directory went away
            found |= self._jobs(self._node.jobs.records())
        found |= self._engine() | self._images() | self._agent() | self._reaper()
        for name, values in found.items():
            yield _family(name, values)

    def _jobs(self, records: list[Record]) -> dict[str, Values]:
        states = Counter(record.state for record in records)
        live: dict[tuple[str, ...], float] = {(name,): 0 for name in self._node.config.s3}
        for record in records:
            if record.facts.credentials is not None and not record.facts.revoked and record.plan is not None:
                for store in record.plan.stores:
                    live[store.name,] = live.get((store.name,), 0) + 1
        tasks = sum(isinstance(run, TaskRun) for run in self._node.jobs.runs())
        return {
            "jobs": {(state.value,): states[state] for state in State},
            "tasks": {(): tasks},
            "credentials_live": live,
        }

    def _engine(self) -> dict[str, Values]:
        sample = self._sampler.last
        known = {
            "engine_up": int(sample.is_up),
            "engine_ping_seconds": sample.ping_s,
            "engine_circuit_open": int(self._node.engine.down_because is not None),
            "engine_disk_size_bytes": sample.disk_size,
            "engine_disk_avail_bytes": sample.disk_avail,
            "images": sample.images,
            "images_bytes": sample.images_bytes,
            "image_cache_images": sample.cache_images,
            "image_cache_bytes": sample.cache_bytes,
        }
        return {name: {(): value} for name, value in known.items() if value is not None}

    def _images(self) -> dict[str, Values]:
        running, waiting = self._node.images.turns.counts()
        return {
            "image_cache_pinned": {(): self._node.image_cache.pinned()},
            "image_pulls_running": {(): running},
            "image_pulls_waiting": {(): waiting},
        }

    def _agent(self) -> dict[str, Values]:
        connections, running, queued = self._load()
        is_drained = self._node.drain.now() is not None
        return {
            "connections": {(): connections},
            "requests_running": {(): running},
            "requests_queued": {(): queued},
            "node_in_service": {(): int(not self._node.paths.unhealthy.exists() and not is_drained)},
            "node_drained": {(): int(is_drained)},
            "agent_threads": {(): threading.active_count()},
            "agent_info": {(self._version,): 1},
        }

    def _reaper(self) -> dict[str, Values]:
        counts = self._node.passes.counts
        return {
            "reaper_passes": {("done",): counts.done, ("blocked",): counts.blocked},
            "reaper_last_pass_timestamp_seconds": {(): counts.done_at},
            "reaper_last_pass_seconds": {(): counts.seconds},
            "orphans_left": {(): counts.left},
        }


def _family(name: str, values: Values) -> Metric:
    kind, told = READ[name].kind, READ[name]
    make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    family = make(PREFIX + name, told.help, labels=told.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
