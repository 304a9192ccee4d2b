"""A stretch of the stream at a glance: jobs, refusals by reason, slowest pulls, noisiest users. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pbsdock.core.sizes import human

_MOST = 5  # lines of a list
_COUNTED = {"job.planned": "planned", "job.started": "started", "container.oom": "out_of_memory"}


class Summary:
    """Give it events with :meth:`add`, in any order and of any number of nodes."""

    def __init__(self) -> None:
        self._first = self._last = ""
        self._nodes: set[str] = set()
        self._levels: Counter[str] = Counter()
        self._jobs: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._faults: Counter[tuple[str, str]] = Counter()  # code, node
        self._out_of_service: Counter[tuple[str, str]] = Counter()
        self._users: Counter[str] = Counter()
        self._left_out = 0
        self._pulls: list[tuple[float, int, dict[str, Any]]] = []  # a heap of the slowest
        self._pulled = self._failed_pulls = 0

    def add(self, event: Mapping[str, Any]) -> None:
        """Count one event."""
        name, ts, node = str(event.get("event", "")), str(event.get("ts", "")), str(event.get("node", ""))
        self._first = min(self._first or ts, ts)
        self._last = max(self._last, ts)
        self._nodes.add(node)
        self._levels[str(event.get("level", ""))] += 1
        if "user" in event:
            self._users[str(event["user"])] += 1
        if name in _COUNTED:
            self._jobs[_COUNTED[name]] += 1
        elif name == "job.finished":
            self._outcomes[str(event.get("outcome", "unknown"))] += 1
        elif name == "job.refused":
            self._refusals[str(event.get("code", "unknown"))] += 1
        elif name == "job.fault":
            self._faults[str(event.get("code", "unknown")), node] += 1
        elif name == "node.unhealthy":
            self._out_of_service[node, str(event.get("code", "unknown"))] += 1
        elif name == "events.limited":
            self._note_left_out(event)
        elif name == "image.failed":
            self._failed_pulls += 1
        elif name == "image.pulled":
            self._note_pull(event, node)

    def _note_left_out(self, event: Mapping[str, Any]) -> None:
        count = event.get("count")
        if isinstance(count, int):
            self._left_out += count
            self._users[str(event.get("who", "unknown"))] += count

    def _note_pull(self, event: Mapping[str, Any], node: str) -> None:
        self._pulled += 1
        ms, size = event.get("ms"), event.get("size_bytes")
        if isinstance(ms, int | float):
            pull = {"image": str(event.get("image", "")), "node": node, "seconds": round(ms / 1000, 1), "bytes": size}
            heapq.heappush(self._pulls, (ms, self._pulled, pull))
            if len(self._pulls) > _MOST:
                heapq.heappop(self._pulls)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        return {
            "from": self._first,
            "to": self._last,
            "nodes": len(self._nodes),
            "events": dict(self._levels),
            "left_out": self._left_out,
            "jobs": {name: self._jobs[name] for name in _COUNTED.values()},
            "outcomes": dict(self._outcomes.most_common()),
            "refusals": dict(self._refusals.most_common()),
            "faults": [{"code": code, "node": node, "count": n} for (code, node), n in self._faults.most_common()],
            "out_of_service": [
                {"node": node, "code": code, "count": n} for (node, code), n in self._out_of_service.most_common()
            ],
            "pulls": {"done": self._pulled, "failed": self._failed_pulls, "slowest": self._slowest()},
            "users": [{"user": user, "events": count} for user, count in self._users.most_common(_MOST)],
        }

    def _slowest(self) -> list[dict[str, Any]]:
        return [pull for *_, pull in sorted(self._pulls, key=lambda found: -found[0])]

    def lines(self) -> Iterator[str]:
        """For a person."""
        if not self._nodes:
            yield "no events"
            return
        nodes = _many(len(self._nodes), "node")
        yield f"From {_short(self._first)} to {_short(self._last)} UTC, {nodes}; events: {_counted(self._levels)}"
        yield ""
        jobs = [f"{self._jobs['planned']} planned", f"{self._jobs['started']} started"]
        jobs += [f"{self._outcomes.total()} over ({_counted(self._outcomes)})"] if self._outcomes else []
        jobs += [f"{self._jobs['out_of_memory']} out of memory"] if self._jobs["out_of_memory"] else []
        yield f"{'Jobs':<16}{', '.join(jobs)}"
        if self._refusals:
            yield f"{'Refused':<16}{_counted(self._refusals)}"
        for (code, node), count in self._faults.most_common(_MOST):
            yield f"{'Fault':<16}{count} {code} on {node}"
        for (node, code), count in self._out_of_service.most_common(_MOST):
            yield f"{'Out of service':<16}{node}: {code}" + (f", {count} times" if count > 1 else "")
        if self._pulled or self._failed_pulls:
            yield f"{'Pulls':<16}{self._pulled} done, {self._failed_pulls} failed"
        for pull in self._slowest():
            size = f", {human(pull['bytes'])}" if isinstance(pull["bytes"], int) else ""
            yield f"{'  slowest':<16}{pull['seconds']:g} s on {pull['node']}: {pull['image']}{size}"
        for user, count in self._users.most_common(_MOST):
            yield f"{'Events of user':<16}{user}: {count}"
        if self._left_out:
            yield f"{'Left out':<16}{_many(self._left_out, 'event')} that users caused too often"


def _short(ts: str) -> str:
    return ts.replace("T", " ")[:16]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
