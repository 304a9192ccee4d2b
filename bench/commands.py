"""What a person waits for: whole processes of the command, from fork to exit (A1 of docs/performance.md)."""

from __future__ import annotations

import pwd
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from instance import IMAGE, USER, Site

from pbsdock.core.paths import load
from pbsdock.trial import Request
from pbsdock.trial.cluster import Cluster
from pbsdock.trial.wide import run_on

_DOCTORS = _WIDE = 5
_FRESH_S = 2.5  # the agent tells again what it was told of other nodes no longer ago
_JOBS = 10  # remembered beside the one that is asked about
Show = Callable[..., None]


def a1(site: Site, repeats: int, show: Show) -> None:
    """``why`` of a job that is over, of one that runs, and of one on two nodes, by its owner; ``ps``; ``doctor``.

    Medians, milliseconds.
    """
    program = str(site.root / "opt/pbsdock/bin/pbsdock")
    for _ in range(_JOBS):
        site.hooks("true")
    over = site.trial("true")
    if over.begin() is None:
        over.finish(over.wait())
    running = site.trial("sleep 600")
    if running.begin() is not None:
        raise RuntimeError("the prologue failed")
    try:
        found = {
            "python_ms": _median([sys.executable, "-I", "-c", "pass"], repeats),
            "why_over_ms": _median([program, "why", over.job_id], repeats, **_as_user()),
            "why_running_ms": _median([program, "why", running.job_id], repeats, **_as_user()),
            "ps_ms": _median([program, "ps"], repeats),
            "doctor_ms": _median([program, "doctor"], _DOCTORS, may_warn=True),
        }
    finally:
        running.qdel()
        running.finish(running.wait())
    with _cluster(site) as cluster:
        script = f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n".encode()
        wide = run_on(cluster, Request(script=script, user=USER, mom_priv=site.mom_priv, resources="nodes=1+n2"))
        if wide.exit_status:
            raise RuntimeError(f"exit status {wide.exit_status}: {wide.stderr.decode()}")
        found["why_two_nodes_ms"] = _median([program, "why", wide.job_id], _WIDE, pause_s=_FRESH_S, **_as_user())
    show("A1", **found, repeats=repeats)


@contextmanager
def _cluster(site: Site) -> Iterator[Cluster]:
    """This host and an emulated node, with one key."""
    key = site.root / "etc/pbsdock/cluster.key"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    site.stop_agents()
    try:
        with Cluster(load(site.root / "opt/pbsdock/current/paths.json"), ["n2"]) as cluster:
            yield cluster
    finally:
        key.unlink()
        site.stop_agents()


def _as_user() -> Mapping[str, Any]:
    entry = pwd.getpwnam(USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _median(argv: list[str], repeats: int, *, may_warn: bool = False, pause_s: float = 0.0, **options: Any) -> float:
    def once() -> float:
        time.sleep(pause_s)
        began = time.monotonic()
        done = subprocess.run(argv, capture_output=True, check=False, **options)
        took = time.monotonic() - began
        if done.returncode and not may_warn:
            raise RuntimeError(f"{argv}: {done.stderr.decode(errors='replace')}")
        return took

    once()  # warm
    return round(statistics.median(once() for _ in range(repeats)) * 1000, 1)
