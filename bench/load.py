"""What many jobs do to a node: throughput, and whether the agent's memory, threads and descriptors stay flat.

One JSON line per figure on stdout. ``load.py`` alone runs the short form; ``load.py full`` 2,000 jobs and 10,000 records.
Every job is checked: exit status and output, and that nothing is left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from instance import IMAGE, Site

from bench import scratch, show
from pbsdock.trial import Request, Trial

USERS = [f"pbsdock-l{os.getpid()}-{number}" for number in range(8)]


def _run(site: Site, number: int, index: int | None = None) -> None:
    """One short job of one of the users, from its prologue to its epilogue; raises if anything about it is wrong."""
    script = f"#!/bin/sh\n#DOCKER {IMAGE}\necho {number}; exit {number % 200}\n".encode()
    request = Request(
        mom_priv=site.mom_priv,
        user=USERS[number % len(USERS)],
        script=script,
        array_index=index,
        shell="/bin/sh",
    )
    trial = Trial(request)
    done = trial.begin() or trial.finish(trial.wait())
    if (done.exit_status, done.stdout, done.stderr) != (number % 200, f"{number}\n".encode(), b""):
        raise RuntimeError(f"job {done.job_id} ended with {done.exit_status}: {done.stdout!r} {done.stderr!r}")


def _many(site: Site, count: int, at_once: int, **options: int) -> float:
    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda number: _run(site, number, **options), range(count)))
    return time.monotonic() - began


def _docker(site: Site, count: int, at_once: int) -> float:
    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda _: site.docker_run("true"), range(count)))
    return time.monotonic() - began


def _agent(site: Site) -> dict[str, float]:
    """Of its worker: memory of its own in KiB, descriptors, threads."""
    worker = site.agents()[-1]
    rollup = Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean:", "Private_Dirty:")))
    fds, threads = (len(os.listdir(f"/proc/{worker}/{kind}")) for kind in ("fd", "task"))
    return {"kib": float(private), "descriptors": float(fds), "threads": float(threads)}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through them, by least squares."""
    count = len(points)
    x, y = (sum(one[axis] for one in points) / count for axis in (0, 1))
    spread = sum((one[0] - x) ** 2 for one in points)
    return sum((one[0] - x) * (one[1] - y) for one in points) / spread if spread else 0.0


def at_once(site: Site, full: bool) -> None:
    """64 jobs at the same time, of 8 users, against 64 parallel ``docker run``."""
    count = 64 if full else 32
    _many(site, 8, 8)
    ours, docker = _many(site, count, count), _docker(site, count, count)
    show("at-once", jobs=count, seconds=round(ours, 1), docker_s=round(docker, 1), ratio=round(ours / docker, 2))


def in_a_row(site: Site, full: bool) -> None:
    """Jobs one after the other; what the agent has meanwhile."""
    count, every = (2000, 100) if full else (60, 10)
    points: dict[str, list[tuple[float, float]]] = {}
    began = time.monotonic()
    for number in range(count):
        _run(site, number)
        if number % every == every - 1:
            for name, value in _agent(site).items():
                points.setdefault(name, []).append((float(number + 1), value))
    took = time.monotonic() - began
    steady = {name: found[len(found) // 4 :] for name, found in points.items()}  # what is cached once is no growth
    show(
        "in-a-row",
        jobs=count,
        seconds=round(took, 1),
        per_job_ms=round(took / count * 1000, 1),
        **{f"{name}_first": found[0][1] for name, found in points.items()},
        **{f"{name}_last": found[-1][1] for name, found in points.items()},
        **{f"{name}_per_1000_jobs": round(slope(found) * 1000, 2) for name, found in steady.items()},
    )


def array(site: Site, full: bool) -> None:
    """An array of short jobs, 8 at a time."""
    count = 200 if full else 40
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: _run(site, number, number), range(count)))
    took = time.monotonic() - began
    docker = _docker(site, count, 8)
    show("array", jobs=count, seconds=round(took, 1), docker_s=round(docker, 1), ratio=round(took / docker, 2))


def foreign(site: Site, full: bool) -> None:
    """An engine with other people's containers: a job's time with and without, and all of them are there afterwards."""
    count = 500 if full else 40
    without = min(_timed(lambda: _run(site, 1)) for _ in range(5))
    create = ["docker", "create", "--network", "none", "--label", "pbsdock-load=yes", IMAGE, "true"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: subprocess.run(create, check=True, stdout=subprocess.DEVNULL), range(count)))
    given = min(_timed(lambda: _run(site, 1)) for _ in range(5))
    reap = _timed(
        lambda: subprocess.run(
            [str(site.root / "opt/pbsdock/bin/pbsdock"), "reap"], check=True, stdout=subprocess.DEVNULL
        )
    )
    left = subprocess.run(
        ["docker", "ps", "-aq", "--filter", "label=pbsdock-load"], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["docker", "rm", "-f", *left], check=True, stdout=subprocess.DEVNULL)
    if len(left) != count:
        raise RuntimeError(f"{count - len(left)} foreign containers are gone")
    show(
        "foreign",
        containers=count,
        job_ms=round(given * 1000, 1),
        job_without_ms=round(without * 1000, 1),
        reap_ms=round(reap * 1000, 1),
    )


def dead_records(site: Site, full: bool) -> None:
    """Records of an old boot at the agent's start: how long until it serves, and until the last is gone."""
    count = 10_000 if full else 500
    trial = site.trial("sleep 1000")
    trial.begin()
    jobs = site.root / "var/lib/pbsdock/jobs"
    model = json.loads(next(jobs.glob("*.json")).read_text())
    trial.qdel()
    trial.finish(trial.wait())
    site.stop_agents()
    for number in range(count):
        safe, incarnation = f"{900000 + number}.old", f"{number:x}dead"
        record = {
            **model,
            "job_id": safe,
            "safe": safe,
            "incarnation": incarnation,
            "boot_id": "another",
            "container_id": None,
            "container_name": f"pbsdock-{safe}-{incarnation}",
            "cgroup": f"{safe}.{incarnation}",
        }
        (jobs / f"{safe}.{incarnation}.json").write_text(json.dumps(record))
    took = _timed(lambda: _run(site, 3))  # its prologue starts the agent
    began = time.monotonic()
    while left := len(list(jobs.glob("9*.json"))):
        if time.monotonic() - began > 900:
            raise RuntimeError(f"{left} dead records stay")
        subprocess.run([str(site.root / "opt/pbsdock/bin/pbsdock"), "reap"], check=False, stdout=subprocess.DEVNULL)
    show("dead-records", records=count, first_job_s=round(took, 2), all_gone_s=round(time.monotonic() - began, 1))


def _timed(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _left(site: Site) -> None:
    """Raise unless nothing of any job is there."""
    deadline = time.monotonic() + 30
    owner = f"label=pbsdock.owner={site.instance}@{os.uname().nodename}"
    while True:
        found = subprocess.run(
            ["docker", "ps", "-aq", "--filter", owner], capture_output=True, text=True, check=True
        ).stdout.split()
        for place in ("run/pbsdock/work", "run/pbsdock/jobs", "var/lib/pbsdock/jobs"):
            found += os.listdir(site.root / place)
        found += [str(one) for one in Path("/sys/fs/cgroup").glob(f"*/{site.instance}/*/")]
        if not found:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"left: {found[:5]}")
        time.sleep(0.1)


def main() -> int:
    """Run all, or those named after ``full``."""
    words = sys.argv[1:]
    full = "full" in words
    figures = {
        "at-once": at_once,
        "in-a-row": in_a_row,
        "array": array,
        "foreign": foreign,
        "dead-records": dead_records,
    }
    for user in USERS:
        subprocess.run(["useradd", "-m", "-s", "/bin/sh", user], capture_output=True, check=False)
    try:
        with scratch() as site:
            for name in [one for one in words if one in figures] or figures:
                figures[name](site, full)
                _left(site)
    finally:
        for user in USERS:
            subprocess.run(["userdel", "-r", user], capture_output=True, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
