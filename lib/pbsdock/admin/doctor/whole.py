"""``pbsdock doctor`` with no part: every check there is, at the same time, and each with the same deadline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from pbsdock.admin.doctor import accounting, engine, host, mounts, neighbours, network, packages, services, site, stores
from pbsdock.admin.doctor.subject import Subject
from pbsdock.admin.doctor.table import Row, Verdict, from_findings, ok, unknown, warn, wrong
from pbsdock.core.errors import HookError
from pbsdock.core.facts import uptime
from pbsdock.engine.base import EngineError
from pbsdock.host.process import start_time

WITHIN_S = 4.7  # since the command was started
_LEAST_S = 1.5  # where its start alone took as long
Part = Callable[[Subject], Iterable[Row]]


def engine_rows(subject: Subject) -> Iterator[Row]:
    """Whether it answers and can run jobs, its version, who can reach it."""
    info = subject.info_or_error
    if isinstance(info, str):
        yield wrong("engine", "answer", info, f"start it; engine.socket is {subject.config.engine.socket}")
        return
    yield ok("engine", "answer", f"version {info.version}, {info.cgroup_driver}, {info.default_runtime}")
    yield from from_findings("engine", engine.examine(subject.paths, subject.config, subject.engine, info))
    if info.live_restore:
        yield ok("engine", "live-restore", "jobs outlive its restart")
    else:
        cure = '"live-restore": true in its daemon.json, and reload it'
        yield warn("engine", "live-restore", "its restart ends all jobs with containers", cure)
    if info.has_seccomp:
        yield ok("engine", "seccomp", f"system calls of jobs are filtered ({subject.config.security.seccomp})")
    else:
        yield warn("engine", "seccomp", "no filter of system calls for jobs", "a kernel and an engine with seccomp")


def store_rows(subject: Subject) -> Iterator[Row]:
    """Each object store, by using it, where the site names buckets to try with."""
    config = subject.config
    for name, store in config.s3.items():
        if not store.probe:
            yield warn("s3", name, f"s3.{name}.probe names no buckets to try with", "name two: one open, one closed")
    tried = [name for name, store in config.s3.items() if store.probe]
    if tried:
        owner = f"{subject.paths.instance}@{subject.name}"
        yield from from_findings("s3", stores.examine(config, owner, tried))


def accounting_rows(subject: Subject) -> Iterator[Row]:
    """Whether containers come into the resource manager's accounting."""
    yield from from_findings("accounting", [accounting.examine(subject.manager)], ill=Verdict.WARN)


def package_rows(subject: Subject) -> Iterator[Row]:
    """The Python packages."""
    return from_findings("packages", packages.examine(subject.paths))


def mount_rows(subject: Subject) -> Iterator[Row]:
    """Mounts of jobs that are gone."""
    return from_findings("mounts", mounts.examine(subject.paths))


PARTS: dict[str, Part] = {
    "site": site.examine,
    "engine": engine_rows,
    "host": host.examine,
    "registries": network.examine,
    "nodes": neighbours.examine,
    "services": services.examine,
    "s3": store_rows,
    "packages": package_rows,
    "mounts": mount_rows,
    "accounting": accounting_rows,
}


def time_left() -> float:
    """Seconds for all checks; on a busy host the program's own start takes its share."""
    began = start_time(os.getpid()) / os.sysconf("SC_CLK_TCK")
    return max(_LEAST_S, WITHIN_S - (uptime() - began))


def examine(subject: Subject, parts: dict[str, Part] | None = None, within_s: float | None = None) -> list[Row]:
    """The rows of all parts in their order. A part that is not done in time is told so, with what it has found."""
    parts = parts or PARTS
    within_s = time_left() if within_s is None else within_s
    found: dict[str, list[Row]] = {name: [] for name in parts}
    threads = {
        name: threading.Thread(target=_run, args=(part, subject, name, found[name]), daemon=True)
        for name, part in parts.items()
    }
    deadline = time.monotonic() + within_s
    for thread in threads.values():
        thread.start()
    late: dict[str, list[Row]] = {}
    for name, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            late[name] = [unknown(name, "time", f"not done within {within_s:.1f} s", f"pbsdock doctor {name}")]
    return list(chain.from_iterable([*found[name], *late.get(name, [])] for name in parts))


def _run(part: Part, subject: Subject, name: str, rows: list[Row]) -> None:
    try:
        for row in part(subject):
            rows.append(row)
    except (HookError, EngineError, OSError, ValueError) as error:
        rows.append(unknown(name, "check", str(error) or type(error).__name__))
    except Exception as error:  # the others are told all the same
        rows.append(unknown(name, "check", repr(error)[:200]))
