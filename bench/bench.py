"""The costs as ratios to plain docker, measured in one run and interleaved: P1 to P6, C1 to C5 and S1 to S3 of
docs/performance.md, where the time of P1 goes, and how long a person waits for the command (A1).

One JSON line each on stdout, a table on stderr. Needs root, an engine and the tests' setup.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import commands
import nodes
import shim
import stores
from instance import GRACE_S, IMAGE, ROOT, RUN, USER, Site, docker
from waterfall import waterfall

import pbsdock
from pbsdock.protocol import init
from pbsdock.trial import Trial
from tests.support.first_process import FirstProcess

REPEATS = int(os.environ.get("PBSDOCK_BENCH_REPEATS", "15"))


def interleaved(
    ours: Callable[[], float], theirs: Callable[[], float], repeats: int
) -> tuple[list[float], list[float]]:
    """Run both in turn, so that whatever else the machine does hits both."""
    ours(), theirs()  # warm
    mine, other = [], []
    for _ in range(repeats):
        mine.append(ours())
        other.append(theirs())
    return mine, other


def report(identifier: str, ours: list[float], theirs: list[float], **more: float) -> None:
    """One JSON line; the spread is the quartiles' distance of the ratios, in parts of their median."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 3 else [min(ratios), 0, max(ratios)]
    show(
        identifier,
        ratio=round(statistics.median(ours) / statistics.median(theirs), 3),
        ours_ms=round(statistics.median(ours) * 1000, 1),
        docker_ms=round(statistics.median(theirs) * 1000, 1),
        spread=round(quartiles[2] - quartiles[0], 3),
        repeats=len(ours),
        **more,
    )


def show(identifier: str, **values: float) -> None:
    print(json.dumps({"id": identifier, **values}), flush=True)
    print(f"{identifier}  " + "  ".join(f"{key}={value}" for key, value in values.items()), file=sys.stderr)


def p1(site: Site, identifier: str = "P1", pause_s: float = 0.0) -> None:
    """prologue + run + epilogue of a warm ``true`` job against ``docker run --rm``; neither mom's own forks are counted
    nor *pause_s* between prologue and run."""
    details: dict[str, list[float]] = {}

    def ours() -> float:
        took, seconds = site.hooks("true", pause_s=pause_s)
        for name, value in {**seconds, "with_mom": took}.items():
            details.setdefault(f"{name}_ms", []).append(value * 1000)
        return sum(seconds.values())

    mine, other = interleaved(ours, lambda: site.docker_run("true"), REPEATS)
    report(identifier, mine, other, **{name: round(statistics.median(values), 1) for name, values in details.items()})


def t1(site: Site) -> None:
    """100 tasks one after another in a container that stands ready, against as many bare processes by a first process
    of the host's own namespaces: both asked for over its socket, by the client that the run hook has."""
    trial = site.trial("echo up; sleep 60")
    if trial.begin() is not None:
        raise RuntimeError("the prologue failed")
    (place,) = (site.root / "run/pbsdock/work").glob(f"{trial.job_id}.*")
    path, number = f"{place}/init/{init.SOCKET}", itertools.count()
    while b"up" not in trial.out_path.read_bytes():
        time.sleep(0.01)

    def task(path: str) -> float:
        began = time.monotonic()
        connection = init.Connection(path)
        null = os.open(os.devnull, os.O_RDWR)
        name, flags = f"t{next(number)}", init.SESSION | init.SEARCH
        run = init.Run(name, [b"sh", b"-c", b"true"], [b"PATH=/usr/bin:/bin"], b"/", umask=0o022, flags=flags)
        connection.run(run, (null, null, null))
        os.close(null)
        while (answer := connection.receive()).kind == init.PID:
            pass
        connection.close()
        if (answer.kind, answer.number) != (init.ENDED, 0):
            raise RuntimeError(f"the task was not run: {answer.step}")
        return time.monotonic() - began

    try:
        with FirstProcess(Path(pbsdock.__file__).parent / "init/pbsdock-init") as bare:
            mine, other = interleaved(lambda: task(path), lambda: task(bare.path), 100)
    finally:
        trial.qdel()
        trial.finish(trial.wait())
    show(
        "T1",
        ratio=round(statistics.median(mine) / statistics.median(other), 3),
        ours_ms=round(statistics.median(mine) * 1000, 2),
        bare_ms=round(statistics.median(other) * 1000, 2),
        repeats=len(mine),
    )


def p2(site: Site) -> None:
    """What a job without a directive pays: with hooks less without, milliseconds.

    ``processes_ms`` is what the hooks' own processes take, from exec to exit, and the run hook's share of its job;
    ``added_ms`` has the stand-in's forks of the two processes that a bare job does not have, too.
    """
    own: dict[bool, list[float]] = {False: [], True: []}

    def took(bare: bool) -> float:
        whole, seconds = site.hooks("true", directive=False, bare=bare)
        own[bare].append(sum(seconds.values()))
        return whole

    with_hooks, without = interleaved(lambda: took(False), lambda: took(True), REPEATS * 3)
    added = (statistics.median(with_hooks) - statistics.median(without)) * 1000
    show(
        "P2",
        added_ms=round(added, 2),
        processes_ms=round((statistics.median(own[False]) - statistics.median(own[True])) * 1000, 2),
        ours_ms=round(statistics.median(with_hooks) * 1000, 1),
        bare_ms=round(statistics.median(without) * 1000, 1),
        repeats=REPEATS * 3,
    )


def _pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def p3(site: Site) -> None:
    """Memory in MiB (proportional set size): the agent at rest, and what each running job adds in hook and agent."""
    site.hooks("true")
    time.sleep(1)
    rest = sum(_pss(pid) for pid in site.agents())
    trials = []
    for _ in range(8):
        trial = site.trial("sleep 60")
        if trial.begin() is not None:
            raise RuntimeError("the prologue failed")
        trials.append(trial)
    time.sleep(2)
    agent = sum(_pss(pid) for pid in site.agents())
    hooks = sum(_pss(trial.leader.pid) for trial in trials if trial.leader)
    for trial in trials:
        trial.qdel()
        trial.finish(trial.wait())
    show(
        "P3",
        agent_mib=round(rest, 1),
        per_job_mib=round((agent - rest + hooks) / len(trials), 2),
        hook_mib=round(hooks / len(trials), 2),
        jobs=len(trials),
    )


def p4(site: Site) -> None:
    """32 jobs at once against 32 parallel ``docker run``: the processors are the limit."""

    def many(one: Callable[[Trial], object]) -> float:
        trials = [site.trial("true") for _ in range(32)]
        for trial in trials:
            trial.prepare_files()
            trial.spool.record(os.getpid())
        began = time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(one, trials))
        took = time.monotonic() - began
        for trial in trials:
            trial.spool.remove()
        return took

    mine, other = interleaved(lambda: many(site.by_shell), lambda: many(lambda _: site.docker_run("true")), 5)
    report("P4", mine, other)


def p5(site: Site) -> None:
    """Reaping 200 orphans against ``docker rm -f`` of as many; what an idle pass over them costs, CPU milliseconds."""
    owner = f"{site.instance}@{os.uname().nodename}"

    def orphans(*labels: str) -> list[str]:
        given = [word for one in labels for word in ("--label", one)]
        run = ["run", "-d", "--network", "none", "--log-driver", "none", *given, IMAGE, "sleep", "1000"]
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda _: docker(*run).strip(), range(200)))

    def reap(*options: str) -> float:
        began = time.monotonic()
        said = subprocess.run(
            [str(site.root / "opt/pbsdock/bin/pbsdock"), "reap", "--json", *options], capture_output=True, check=True
        ).stdout
        if not options and json.loads(said)["reaped"] != 200:
            raise RuntimeError(f"not all were reaped: {said!r}")
        return time.monotonic() - began

    site.hooks("true")
    theirs = orphans()
    began = time.monotonic()
    docker("rm", "-f", *theirs)
    other = time.monotonic() - began
    orphans(f"pbsdock.owner={owner}", "pbsdock.incarnation=none")
    worker = site.agents()[-1]
    before = _cpu(worker)
    for _ in range(10):
        reap("--dry-run")
    idle = (_cpu(worker) - before) / 10
    time.sleep(GRACE_S)
    mine = reap()
    show(
        "P5",
        ratio=round(mine / other, 3),
        ours_ms=round(mine * 1000, 1),
        docker_ms=round(other * 1000, 1),
        idle_cpu_ms=round(idle * 1000, 1),
        orphans=200,
    )


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def p6(site: Site) -> None:
    """1 GiB of stdout to a file against the same through ``docker run``."""

    def theirs() -> float:
        with tempfile.TemporaryFile(dir="/var/tmp") as file:
            return site.docker_run("sh", "-c", "head -c 1073741824 /dev/zero", stdout=file.fileno())

    mine, other = interleaved(lambda: site.hooks("head -c 1073741824 /dev/zero")[0], theirs, 3)
    report("P6", mine, other)


@contextmanager
def scratch() -> Iterator[Site]:
    """An instance, a user and an image that are gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="pbsdock-bench.", dir="/var/tmp"))
    root.chmod(0o755)
    made = subprocess.run(["useradd", "-m", "-s", "/bin/sh", USER], capture_output=True, check=False).returncode == 0
    subprocess.run(["sh", str(ROOT / "tests/image.sh"), IMAGE], check=True)
    site = Site(root)
    try:
        yield site
    finally:
        site.stop_agents()
        subprocess.run(["docker", "rmi", "-f", IMAGE], capture_output=True, check=False)
        for directory in Path("/sys/fs/cgroup").glob(f"*/{RUN}"):
            directory.rmdir()
        if made:
            subprocess.run(["userdel", "-r", USER], capture_output=True, check=False)
        shutil.rmtree(root, ignore_errors=True)


def main() -> int:
    """Run all, or those named on the command line."""
    figures = {
        "P1": p1,
        "P1m": lambda site: p1(site, "P1m", 0.05),
        "T1": t1,
        "P2": p2,
        "P3": p3,
        "P4": p4,
        "P5": p5,
        "P6": p6,
        "A1": lambda site: commands.a1(site, REPEATS, show),
        "M1": lambda site: nodes.m1(site, show),
        **{name: partial(figure, show=show) for name, figure in shim.FIGURES.items()},
        "waterfall": lambda site: waterfall(site, REPEATS, show),
    }
    wanted = sys.argv[1:] or [*figures, *stores.FIGURES]
    with scratch() as site:
        for name in (one for one in wanted if one in figures):
            figures[name](site)
        if of_stores := [one for one in wanted if one in stores.FIGURES]:
            with stores.store(site, USER) as found:
                for name in of_stores:
                    stores.FIGURES[name](found, show)
    return 0


if __name__ == "__main__":
    sys.exit(main())
