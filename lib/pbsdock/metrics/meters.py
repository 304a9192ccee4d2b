"""The counters and histograms themselves, fed by events; any thread.

prometheus_client is imported here, and this only where a site has metrics turned on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client import exposition as text_format

from pbsdock.metrics.from_events import updates
from pbsdock.metrics.register import COUNTED, PREFIX

OTHER = "other"
_MOST_VALUES = 64  # of a label of a metric: more than there are codes of anything
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class _Values:
    """Bounds the values of a label: whatever comes after the first so many, or looks strange, is ``other``."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, str]] = set()
        self._count: dict[tuple[str, str], int] = {}

    def bounded(self, metric: str, label: str, value: str) -> str:
        if (metric, label, value) in self._seen:
            return value
        count = self._count.get((metric, label), 0)
        if count >= _MOST_VALUES or not _VALUE.fullmatch(value):
            return OTHER
        self._count[metric, label] = count + 1
        self._seen.add((metric, label, value))
        return value


class Meters:
    """All that is counted from events, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a gauge for each series, which nobody here asks for
        self.registry = CollectorRegistry()
        self._values = _Values()
        self._metrics: dict[str, Counter | Histogram] = {}
        for name, metric in COUNTED.items():
            if metric.kind == "histogram":
                made: Counter | Histogram = Histogram(
                    PREFIX + name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
                )
            else:
                made = Counter(PREFIX + name, metric.help, metric.labels, registry=self.registry)
            for value in metric.known:
                made.labels(value)
            self._metrics[name] = made
        ProcessCollector(namespace=f"{PREFIX}agent", registry=self.registry)

    def observe(self, event: str, level: str, fields: Mapping[str, Any]) -> None:
        """Count an event. Called under the stream's lock, one at a time."""
        self._count("events", {"level": level}, 1)
        for name, labels, amount in updates(event, fields):
            self._count(name, labels, amount)

    def _count(self, name: str, labels: Mapping[str, str], amount: float) -> None:
        metric = self._metrics[name]
        if labels:
            metric = metric.labels(**{label: self._values.bounded(name, label, labels[label]) for label in labels})
        if isinstance(metric, Histogram):
            metric.observe(amount)
        else:
            metric.inc(amount)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics in the format *accept* (a header) asks for, and its content type.

        "" is the text format, the only one that node_exporter's textfile collector reads; OpenMetrics has to be asked
        for.
        """
        encode, content_type = text_format.choose_encoder(accept)
        return encode(self.registry), content_type
