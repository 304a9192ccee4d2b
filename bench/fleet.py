"""What thousands of nodes ask of a registry, a gateway, the monitoring and each other: a model, with constants measured here.

``fleet.py`` prints the tables of docs/scale.md; ``fleet.py measure`` measures the constants anew (root, an engine, a registry,
a gateway) and prints a JSON line each; ``fleet.py write`` puts the tables into docs/scale.md. Only the first pull needs time to
run its course: transfers of one size that share a server evenly, which is exact in a few lines of own code, while simpy
has queues and no shared capacity. All else is arithmetic.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/scale.md"
MB, GB = 1e6, 1e9
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Constants of one processor of the machine of docs/performance.md, or of one thing; ``fleet.py measure`` prints them."""

    registry_core_bytes_s: float = 2440 * MB  # bytes that a registry serves for a second of a processor
    engine_bytes_s: float = 25.6 * MB  # compressed bytes an engine fetches and unpacks a second
    mint_ms: float = 8.1  # a role, its policy, its first session, one after the other
    mints_s: float = 173.0  # the same by many at once, a gateway on two processors, which the clients shared
    list_ms: float = 5.8  # what the gateway has of a node, asked by each pass of the reaper
    job_events: float = 10.0  # lines of one job without stores, its image present
    event_bytes: float = 247.0
    scrape_bytes: float = 17_700.0
    scrape_series: float = 181.0
    pass_ms: float = 6.0  # processor time of a reaper's pass that finds nothing (P5)
    question_bytes: float = 885.0  # one question between agents and its answer, signed with a key
    question_ms: float = 0.22  # processor time of the one who is asked


@dataclass(frozen=True, slots=True)
class Site:
    """What is assumed of a site. Rates in bytes a second."""

    nodes: int = 10_000
    image_bytes: float = 2 * GB  # compressed, as it is fetched
    uplink: float = 1.25 * GB  # 10 Gbit/s to the world
    server: float = 3.125 * GB  # 25 Gbit/s of a registry or mirror within
    server_cores: int = 16
    node: float = 1.25 * GB  # 10 Gbit/s
    limit_s: float = 270.0  # [images] total_s
    mirrors: int = 40
    gateways: int = 4
    store_share: float = 0.3  # of jobs that use an object store
    jobs_a_day: int = 200_000
    job_s: float = 3600.0  # how long a job runs
    scrape_s: float = 15.0
    pass_s: float = 60.0  # [reaper] period_s
    idle_list_s: float = 900.0  # between two lists of a node that has no job with a store
    lifetime_s: float = 43_200.0  # [s3.NAME] lifetime_s


# -- the first pull ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pulls:
    """How it went. Seconds; *longest* is one node's own time, *late* how many took longer than their engine may."""

    first: float
    median: float
    last: float
    longest: float
    late: int


def pull(
    nodes: int,
    size: float,
    server: float,
    node: float,
    *,
    at_once: int = 0,
    window_s: float = 0.0,
    limit_s: float = math.inf,
) -> Pulls:
    """*nodes* fetch *size* bytes each from a server that shares *server* bytes a second evenly, none faster than *node*.

    They begin spread over *window_s*, never more than *at_once* (0: any number) at a time. Nobody gives up here: what took
    longer than *limit_s* is counted. Each transfer has got as much as any other that began with it, so what all have got since
    the start is one number, and a transfer is over when that has grown by its size.
    """
    begins = [window_s * number / nodes for number in range(nodes)]
    open_ = deque[tuple[float, float]]()  # (what is given out to each when it is over, when it began)
    now = given = 0.0
    took: list[float] = []
    ended: list[float] = []
    waiting = 0
    while len(ended) < nodes:
        room = not at_once or len(open_) < at_once
        comes = begins[waiting] if waiting < nodes and room else math.inf
        rate = min(node, server / len(open_)) if open_ else 0.0
        ends = now + (open_[0][0] - given) / rate if open_ else math.inf
        if comes <= ends:
            at = max(comes, now)
            given += (at - now) * rate
            now = at
            open_.append((given + size, now))
            waiting += 1
        else:
            given, began = open_.popleft()
            now = ends
            ended.append(now)
            took.append(now - began)
    return Pulls(ended[0], ended[nodes // 2], ended[-1], max(took), sum(seconds > limit_s for seconds in took))


def served(site: Site, measured: Measured) -> float:
    """What a server within gives out: its network's, or what its processors can."""
    return min(site.server, site.server_cores * measured.registry_core_bytes_s)


def taken(site: Site, measured: Measured) -> float:
    """What a node takes at most: its network's, or what its engine unpacks."""
    return min(site.node, measured.engine_bytes_s)


def first_pull(site: Site, measured: Measured) -> Iterator[tuple[str, float, Pulls]]:
    """Each way: its name, bytes over the uplink, how it went."""
    size, nodes, node = site.image_bytes, site.nodes, taken(site, measured)
    inside = served(site, measured)
    share = math.ceil(nodes / site.mirrors)

    def ways(count: int, server: float, at_once: int = 0, window_s: float = 0.0) -> Pulls:
        return pull(count, size, server, node, at_once=at_once, window_s=window_s, limit_s=site.limit_s)

    yield "each from the world", nodes * size, ways(nodes, site.uplink)
    yield "one registry within", size, ways(nodes, inside)
    fits = max(1, int(inside * site.limit_s * 0.8 / size))
    yield f"one registry, {fits} nodes at a time", size, ways(nodes, inside, at_once=fits)
    window = nodes * size / inside
    yield f"one registry, begun over {span(window)}", size, ways(nodes, inside, window_s=window)
    fill = pull(site.mirrors, size, site.uplink, site.server).last  # a mirror keeps it as it comes
    for name, window in ((f"{site.mirrors} mirrors", 0.0), (f"{site.mirrors} mirrors, begun over 15 min", 900.0)):
        done = ways(share, inside, window_s=window)
        late = done.late * site.mirrors
        later = replace(done, first=fill + done.first, median=fill + done.median, last=fill + done.last, late=late)
        yield name, site.mirrors * size, later


# -- the rest is arithmetic -------------------------------------------------------------------------------------------


def wave(site: Site, measured: Measured, jobs: int) -> dict[str, float]:
    """*jobs* that begin in the same moment, all with a store: calls, and seconds until the last has its credentials."""
    return {"calls": 3.0 * jobs, "seconds": jobs / (measured.mints_s * site.gateways)}


def gateway(site: Site, measured: Measured) -> dict[str, float]:
    """Calls a second on an ordinary day: credentials made and ended (5 calls a job), the reapers' lists, new sessions.

    Jobs come to nodes at random (Poisson): ``live`` is the share of nodes that have one with a store.
    """
    jobs = site.jobs_a_day * site.store_share / DAY_S
    live = 1 - math.exp(-jobs * site.job_s / site.nodes)
    lists = site.nodes * (live / site.pass_s + (1 - live) / max(site.pass_s, site.idle_list_s))
    return {
        "live": live,
        "jobs": 5 * jobs,
        "lists": lists,
        "busy": lists * measured.list_ms / 1000 + jobs / measured.mints_s,
    }


def monitoring(site: Site, measured: Measured) -> dict[str, float]:
    """What Prometheus takes in: series, samples and bytes a second."""
    series = site.nodes * measured.scrape_series
    return {
        "series": series,
        "samples_s": series / site.scrape_s,
        "bytes_s": site.nodes * measured.scrape_bytes / site.scrape_s,
    }


def events(site: Site, measured: Measured) -> dict[str, float]:
    """Lines and bytes a day, of all nodes; lines of jobs with a store have three more."""
    lines = site.jobs_a_day * (measured.job_events + 3 * site.store_share)
    return {
        "lines": lines,
        "bytes": lines * measured.event_bytes,
        "node_bytes": lines * measured.event_bytes / site.nodes,
    }


def channel(sisters: int, seconds: float, measured: Measured) -> dict[str, float]:
    """What a job's first node is asked by *sisters* nodes, each once in *seconds*: questions, bytes, share of a processor."""
    a_second = sisters / seconds
    return {
        "questions_s": a_second,
        "bytes_s": a_second * measured.question_bytes,
        "busy": a_second * measured.question_ms / 1000,
    }


# -- the tables of docs/scale.md --------------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """Seconds as a person says them."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def amount(count: float) -> str:
    """A number of bytes."""
    for unit, size in (("TB", 1e12), ("GB", GB), ("MB", MB), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pull_table(site: Site, measured: Measured) -> str:
    rows = [
        [
            name,
            amount(crossed),
            span(done.first),
            span(done.median),
            span(done.last),
            span(done.longest),
            f"{done.late:,}",
        ]
        for name, crossed, done in first_pull(site, measured)
    ]
    return table(
        [
            "way",
            "over the uplink",
            "first node has it",
            "half have it",
            "all have it",
            "longest pull",
            f"longer than {site.limit_s:.0f} s",
        ],
        rows,
    )


def _knob_table(site: Site, measured: Measured) -> str:
    def last(changed: Site, number: int) -> str:
        return span([done for _, _, done in first_pull(changed, measured)][number].last)

    def busy(changed: Site) -> str:
        return f"{gateway(changed, measured)['busy']:.2f}"

    half, rows = replace(site, image_bytes=site.image_bytes / 2), []
    rows.append(["image half as large", "one registry: all have it", last(site, 1), last(half, 1)])
    rows.append(
        [
            "twice as many mirrors",
            "mirrors: all have it",
            last(site, 4),
            last(replace(site, mirrors=2 * site.mirrors), 4),
        ]
    )
    rows.append(
        ["registry at 100 Gbit/s", "one registry: all have it", last(site, 1), last(replace(site, server=12.5 * GB), 1)]
    )
    slow = replace(site, pass_s=300.0)
    rows.append(["`[reaper] period_s = 300`", "gateways: time to answer, seconds a second", busy(site), busy(slow)])
    more = replace(site, gateways=2 * site.gateways)
    rows.append(
        [
            "twice as many gateways",
            f"{site.nodes:,} jobs at once: the last credentials",
            span(wave(site, measured, site.nodes)["seconds"]),
            span(wave(more, measured, site.nodes)["seconds"]),
        ]
    )
    rare = replace(site, scrape_s=60.0)
    rows.append(
        [
            "scraped each minute",
            "samples a second",
            f"{monitoring(site, measured)['samples_s']:,.0f}",
            f"{monitoring(rare, measured)['samples_s']:,.0f}",
        ]
    )
    return table(["knob", "what it moves", "before", "after"], rows)


def _load_table(site: Site, measured: Measured) -> str:
    at = gateway(site, measured)
    seen, told = monitoring(site, measured), events(site, measured)
    rows = [
        ["registry", "questions when nothing is to be pulled", "0"],
        ["gateways", "calls a second for jobs (5 each)", f"{at['jobs']:.1f}"],
        ["nodes", "that have a job with a store", f"{at['live']:.0%}"],
        [
            "gateways",
            f"lists a second by reapers, every {site.pass_s:.0f} s of these nodes, every {site.idle_list_s:.0f} s of others",
            f"{at['lists']:.0f}",
        ],
        ["gateways", "time to answer these, seconds a second, all together", f"{at['busy']:.2f}"],
        ["a node", "processor time of the reaper", f"{measured.pass_ms / 1000 / site.pass_s:.4%}"],
        ["Prometheus", "series", f"{seen['series'] / 1e6:.1f} million"],
        ["Prometheus", f"samples a second, scraped every {site.scrape_s:.0f} s", f"{seen['samples_s']:,.0f}"],
        ["Prometheus", "received a second, before compression", amount(seen["bytes_s"])],
        ["collector of events", f"lines a day, {site.jobs_a_day:,} jobs", f"{told['lines'] / 1e6:.1f} million"],
        ["collector of events", "bytes a day", amount(told["bytes"])],
        ["a node", "events a day", amount(told["node_bytes"])],
    ]
    return table(["who", "what", "how much"], rows)


def _wave_table(site: Site, measured: Measured) -> str:
    rows = []
    for jobs in (100, 1000, site.nodes):
        at = wave(site, measured, jobs)
        alone = wave(replace(site, gateways=1), measured, jobs)
        rows.append([f"{jobs:,}", f"{at['calls']:,.0f}", span(alone["seconds"]), span(at["seconds"])])
    return table(["jobs at once", "calls", "last has its credentials, 1 gateway", f"{site.gateways} gateways"], rows)


def _channel_table(site: Site, measured: Measured) -> str:
    rows = []
    for sisters in (15, 255, site.nodes - 1):
        start, steady = channel(sisters, 10.0, measured), channel(sisters, 60.0, measured)
        rows.append(
            [
                f"{sisters + 1:,}",
                f"{start['questions_s']:.1f}",
                f"{steady['questions_s']:.1f}",
                amount(steady["bytes_s"]),
                f"{steady['busy']:.2%}",
            ]
        )
    return table(
        [
            "nodes of a job",
            "questions a second while it begins, over 10 s",
            "then, at most",
            "bytes a second",
            "of a processor of its first node",
        ],
        rows,
    )


def _measured_table(_site: Site, measured: Measured) -> str:
    rows = [
        ["a registry serves, for a second of a processor", amount(measured.registry_core_bytes_s), "five downloads of a layer from a `docker-registry` on loopback; its processor time from /proc"],
        ["an engine fetches and unpacks a second", amount(measured.engine_bytes_s), "three `docker pull` of 576 MB of this host's programs from there; compressed bytes by the manifest"],
        ["credentials of a job made: three calls", f"{measured.mint_ms:.1f} ms", "twenty in a row, RADOS gateway on the same two processors"],
        ["credentials made a second, one gateway", f"{measured.mints_s:.0f}", "sixteen at once, the same gateway"],
        ["a reaper's list of what a store has of its node", f"{measured.list_ms:.1f} ms", "fifty in a row, 340 roles of another node in the store"],
        ["lines of a job in the event stream", f"{measured.job_events:.0f}", "ten jobs, image present, no store"],
        ["bytes of a line", f"{measured.event_bytes:.0f}", "the same jobs"],
        ["a scrape", f"{amount(measured.scrape_bytes)}, {measured.scrape_series:.0f} series", "the text file after these jobs"],
        ["processor time of a reaper's pass that finds nothing", f"{measured.pass_ms:.0f} ms", "P5 of [performance](performance.md)"],
        ["a question between agents and its answer", amount(measured.question_bytes), "`pbsdock ps --job` of one node, signed with a key"],
        ["processor time of the one who is asked", f"{measured.question_ms:.1f} ms", "120 questions over loopback; half of what both sides took"],
    ]  # fmt: skip
    return table(["constant", "value", "how"], rows)


TABLES: dict[str, Callable[[Site, Measured], str]] = {
    "measured": _measured_table,
    "pull": _pull_table,
    "wave": _wave_table,
    "load": _load_table,
    "channel": _channel_table,
    "knobs": _knob_table,
}


def filled(text: str) -> str:
    """The document with each table between its marks as it is now."""
    for name, made in TABLES.items():
        text = re.sub(
            rf"(<!-- fleet: {name} -->\n).*?(<!-- end -->)",
            lambda match, made=made: f"{match[1]}{made(Site(), Measured())}\n{match[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    if arguments[:1] == ["measure"]:
        import fleet_constants

        for name, value in fleet_constants.measure():
            print(json.dumps({"constant": name, "value": value}), flush=True)
    elif arguments[:1] == ["write"]:
        DOCUMENT.write_text(filled(DOCUMENT.read_text()))
    else:
        for name, made in TABLES.items():
            print(f"{name}\n{made(Site(), Measured())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
