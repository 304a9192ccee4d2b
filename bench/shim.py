"""What the docker command of jobs costs: C1 to C5 of docs/performance.md, against the real client as root in turn with it.

Both are run by the same few lines of Python, in a job and as root. ``ratio`` is against a container with the same flags
(``docker_flags.py``), ``plain_ratio`` against ``docker run`` as anybody would type it.
"""

from __future__ import annotations

import json
import os
import pwd
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docker_flags import flags
from instance import IMAGE, RUN, USER, Site, docker

from pbsdock.trial import Request, Trial

REPEATS = int(os.environ.get("PBSDOCK_BENCH_REPEATS", "15"))
GIB = 1 << 30
Show = Callable[..., None]

# Runs each line, a list of words and how many times at once, and tells the seconds.
_RUNNER = """
import json, subprocess, sys, time
for line in sys.stdin:
    argv, at_once = json.loads(line)
    began = time.monotonic()
    running = [subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(at_once)]
    codes = {one.wait() for one in running}
    print(json.dumps([time.monotonic() - began, sorted(codes)]), flush=True)
"""


class Runner:
    """Somebody who runs command lines: root here, or a job."""

    def __init__(self, ask: Any, answer: Any) -> None:
        self._ask, self._answer = ask, answer

    def run(self, *argv: str, at_once: int = 1) -> float:
        """Seconds until the last of them is over. Raises RuntimeError if one failed."""
        self._ask.write(json.dumps([argv, at_once]) + "\n")
        self._ask.flush()
        seconds, codes = json.loads(self._answer.readline())
        if codes != [0]:
            raise RuntimeError(f"{argv} ended with {codes}")
        return float(seconds)


@contextmanager
def as_root() -> Iterator[Runner]:
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", _RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Runner(process.stdin, process.stdout)
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def in_job(site: Site) -> Iterator[Runner]:
    """In a job without a container of its own."""
    subprocess.run([str(site.root / "opt/pbsdock/hooks/node-check")], check=True, stdout=subprocess.DEVNULL)
    place = Path(pwd.getpwnam(USER).pw_dir) / f"shim-bench-{os.getpid()}"
    place.mkdir()
    (place / "runner.py").write_text(_RUNNER)
    for name in ("ask", "answer"):
        os.mkfifo(place / name)
        (place / name).chmod(0o666)
    script = f"#!/bin/sh\n/usr/bin/python3 {place}/runner.py <{place}/ask >{place}/answer\n".encode()
    trial = Trial(Request(mom_priv=site.mom_priv, user=USER, script=script, shell="/bin/sh"))
    try:
        if trial.begin() is not None:
            raise RuntimeError("the job did not begin")
        with open(place / "ask", "w") as ask, open(place / "answer") as answer:
            yield Runner(ask, answer)
    finally:
        trial.qdel()
        trial.finish(trial.wait())
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


def same_flags(site: Site, job: Runner) -> list[str]:
    """The flags of a child, read from one."""
    job.run("docker", "run", "-d", "--name", "looked-at", IMAGE, "sleep", "60")
    found = docker("ps", "-q", "--filter", "label=pbsdock.child", "--filter", f"label=pbsdock.owner={_owner(site)}")
    same = flags(json.loads(docker("inspect", found.split()[0]))[0], site.root, f"/{RUN}")
    job.run("docker", "rm", "-f", "looked-at")
    return same


def _owner(site: Site) -> str:
    return f"{site.instance}@{os.uname().nodename}"


def in_turn(repeats: int, *ways: Callable[[], float]) -> list[list[float]]:
    """Seconds of each way, run in turn."""
    for way in ways:
        way()  # warm
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, found in zip(ways, times, strict=True):
            found.append(way())
    return times


def _told(show: Show, identifier: str, ours: list[float], same: list[float], plain: list[float]) -> None:
    medians = [statistics.median(one) for one in (ours, same, plain)]
    show(
        identifier,
        ratio=round(medians[0] / medians[1], 3),
        plain_ratio=round(medians[0] / medians[2], 3),
        ours_ms=round(medians[0] * 1000, 1),
        docker_ms=round(medians[1] * 1000, 1),
        plain_ms=round(medians[2] * 1000, 1),
        repeats=len(ours),
    )


def _compare(site: Site, show: Show, identifier: str, command: list[str], at_once: int, repeats: int) -> None:
    with in_job(site) as job, as_root() as root:
        same = same_flags(site, job)
        times = in_turn(
            repeats,
            lambda: job.run("docker", "run", "--rm", IMAGE, *command, at_once=at_once),
            lambda: root.run("docker", "run", "--rm", *same, IMAGE, *command, at_once=at_once),
            lambda: root.run("docker", "run", "--rm", IMAGE, *command, at_once=at_once),
        )
    _told(show, identifier, *times)


def c1(site: Site, show: Show) -> None:
    """A warm ``docker run --rm IMAGE true``."""
    _compare(site, show, "C1", ["true"], 1, REPEATS)


def c2(site: Site, show: Show) -> None:
    """32 of them at once."""
    _compare(site, show, "C2", ["true"], 32, max(1, REPEATS // 3))


def c3(site: Site, show: Show) -> None:
    """1 GiB through ``docker run … | wc -c``."""

    def piped(*words: str) -> list[str]:
        line = '"$@" | { n=$(wc -c); [ "$n" = ' + str(GIB) + " ]; }"
        return ["sh", "-c", line, "sh", "docker", "run", "--rm", *words, IMAGE, "head", "-c", str(GIB), "/dev/zero"]

    with in_job(site) as job, as_root() as root:
        same = same_flags(site, job)
        times = in_turn(
            max(1, REPEATS // 5),
            lambda: job.run(*piped()),
            lambda: root.run(*piped(*same)),
            lambda: root.run(*piped()),
        )
    _told(show, "C3", *times)


def agent_costs(site: Site) -> dict[str, float]:
    """What the agent's worker has: memory of its own in MiB, descriptors, threads."""
    worker = site.agents()[-1]
    rollup = Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean:", "Private_Dirty:")))
    threads, fds = (len(os.listdir(f"/proc/{worker}/{what}")) for what in ("task", "fd"))
    return {"mib": round(private / 1024, 1), "fds": fds, "threads": threads}


def c4(site: Site, show: Show, children: int = 500, window: int = 50) -> None:
    """500 one after another in one job: the last 50 ÷ the first 50, divided by the same of the real client that ran in turn
    with them; what the agent has more afterwards, and what is left of the containers."""
    with in_job(site) as job, as_root() as root:
        for _ in range(20):
            job.run("docker", "run", "--rm", IMAGE, "true")  # what only the first do
        time.sleep(3)
        before = agent_costs(site)
        ours, theirs = [], []
        for number in range(children):
            ours.append(job.run("docker", "run", "--rm", IMAGE, "true"))
            if number < window or number >= children - window:
                theirs.append(root.run("docker", "run", "--rm", "--network", "none", IMAGE, "true"))
        time.sleep(3)
        after = agent_costs(site)
        left = docker("ps", "-aq", "--filter", "label=pbsdock.child", "--filter", f"label=pbsdock.owner={_owner(site)}")
    first, last = statistics.median(ours[:window]), statistics.median(ours[-window:])
    other = statistics.median(theirs[-window:]) / statistics.median(theirs[:window])
    show(
        "C4",
        ratio=round(last / first / other, 3),
        ours_ratio=round(last / first, 3),
        docker_ratio=round(other, 3),
        first_ms=round(first * 1000, 1),
        last_ms=round(last * 1000, 1),
        left=len(left.split()),
        **{f"more_{name}": round(after[name] - value, 1) for name, value in before.items()},
    )


def c5(site: Site, show: Show) -> None:
    """``docker version``: the client's start, the agent's look at whose job it is, an answer; milliseconds."""
    with in_job(site) as job, as_root() as root:
        ours, theirs = in_turn(
            REPEATS * 3,
            lambda: job.run("docker", "version", "--format", "{{.Client.Version}}"),
            lambda: root.run("docker", "version", "--format", "{{.Client.Version}}"),
        )
    show(
        "C5",
        ours_ms=round(statistics.median(ours) * 1000, 1),
        docker_ms=round(statistics.median(theirs) * 1000, 1),
        repeats=len(ours),
    )


FIGURES: dict[str, Callable[[Site, Show], None]] = {"C1": c1, "C2": c2, "C3": c3, "C4": c4, "C5": c5}

if __name__ == "__main__":
    sys.exit("run bench.py C1 C2 C3 C4 C5")
