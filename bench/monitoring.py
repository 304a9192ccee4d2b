"""What metrics cost: memory of the agent at rest, its processor time while fifty jobs run, each with metrics and without.

One JSON line a figure. ``monitoring.py picture MINUTES FILE`` instead runs jobs of many kinds for so long beside a
Prometheus, and draws the dashboard of etc/grafana from what that has seen (:mod:`dashboard`; needs the extra ``docs``).
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from instance import IMAGE, ROOT, RUN, USER, Site, docker

from bench import _pss, scratch, show
from pbsdock.trial import Request, Trial
from tests.support.ports import free_port
from tests.support.registry import registry

JOBS = int(os.environ.get("PBSDOCK_BENCH_JOBS", "50"))
LOOK_S = float(os.environ.get("PBSDOCK_BENCH_LOOK_S", "60"))
_pushing = threading.Lock()  # two pushes of the same layers at a time may fail
_TICKS = os.sysconf("SC_CLK_TCK")


def configure(site: Site, text: str) -> None:
    """Another configuration, and an agent with it."""
    (site.root / "etc/pbsdock/pbsdock.toml").write_text(text)
    site.stop_agents()
    site.hooks("true")


def cpu_s(site: Site) -> float:
    """Processor seconds of the agent so far (proc(5): utime, stime)."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in site.agents()]
    return sum(int(found[11]) + int(found[12]) for found in fields) / _TICKS


def costs(site: Site) -> None:
    """On and off in turn, so that whatever else the machine does hits both."""
    textfiles = site.root / "textfiles"
    textfiles.mkdir()
    kinds = {"off": "[metrics]\ndirectory = ''\n", "on": f"[metrics]\ndirectory = '{textfiles}'\n"}
    rest: dict[str, list[float]] = {kind: [] for kind in kinds}
    busy: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(3):
        for kind, text in kinds.items():
            configure(site, text)
            time.sleep(3)
            rest[kind].append(sum(_pss(pid) for pid in site.agents()))
    median = statistics.median
    show("metrics-memory", on_mib=round(median(rest["on"]), 1), off_mib=round(median(rest["off"]), 1))
    if not JOBS:
        return
    trials = [site.trial("sleep 86400") for _ in range(JOBS)]
    for trial in trials:
        if trial.begin() is not None:
            raise RuntimeError("the prologue failed")
    for _ in range(2):
        for kind, text in kinds.items():
            configure(site, text)
            time.sleep(5)
            before = cpu_s(site)
            time.sleep(LOOK_S)
            busy[kind].append((cpu_s(site) - before) / LOOK_S * 100)
    for trial in trials:
        trial.qdel()
        trial.finish(trial.wait())
    show(
        "metrics-cpu",
        on_percent=round(median(busy["on"]), 3),
        off_percent=round(median(busy["off"]), 3),
        jobs=len(trials),
    )


# -- the picture ------------------------------------------------------------------------------------------------------


@contextmanager
def prometheus(site: Site, target: str) -> Iterator[str]:
    """One that scrapes *target* every other second, with the rules of etc/; its address."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": [str(path) for path in (ROOT / "etc/prometheus").glob("*.yml")],
        "scrape_configs": [
            {"job_name": "pbsdock", "static_configs": [{"targets": [target], "labels": {"instance": "node1"}}]}
        ],
    }
    (site.root / "prometheus.yml").write_text(json.dumps(config))
    arguments = [f"--config.file={site.root}/prometheus.yml", f"--storage.tsdb.path={site.root}/tsdb"]
    process = subprocess.Popen(
        ["prometheus", *arguments, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _job(site: Site, shelf: str, until: float, seed: int) -> None:
    """One user's day: mostly short jobs, now and then a refused one, an image that is new, one that is killed."""
    rolls = random.Random(seed)
    number = 0
    while time.monotonic() < until:
        number += 1
        kind = rolls.random()
        options, image, body = "", IMAGE, f"sleep {rolls.uniform(0.5, 6):.1f}"
        if kind < 0.08:
            options = "--network none "
        elif kind < 0.12:
            image = f"{shelf}/none:1"
        elif kind < 0.3:
            image = f"{shelf}/app:{seed}-{number}"
            with _pushing:
                docker("tag", IMAGE, image)
                docker("push", "--quiet", image)
                docker("rmi", image)
        script = f"#!/bin/sh\n#DOCKER {options}{image}\n{body}\n".encode()
        trial = Trial(Request(mom_priv=site.mom_priv, user=USER, script=script, shell="/bin/sh"))
        if trial.begin() is None:
            if kind > 0.95:
                trial.qdel()
            trial.finish(trial.wait())
        time.sleep(rolls.uniform(0, 4))


def picture(site: Site, minutes: float, file: Path) -> None:
    """Run jobs and draw what Prometheus has seen of them."""
    import dashboard

    port = free_port()
    configure(
        site,
        f"[metrics]\nlisten = '127.0.0.1:{port}'\ninterval_s = 2\n[network]\nallow = ['host']\n"
        "[reaper]\nperiod_s = 5\ngrace_s = 5\n",
    )
    with registry() as shelf, prometheus(site, f"127.0.0.1:{port}") as address:
        began = time.time()
        until = time.monotonic() + minutes * 60
        with ThreadPoolExecutor(7) as pool:
            done = [pool.submit(_job, site, shelf, until, seed) for seed in range(6)]
            pool.submit(_leftovers, site, minutes * 30)
            time.sleep(minutes * 60 - 2)
            dashboard.draw(ROOT / "etc/grafana/pbsdock.json", address, began, time.time(), file)
            for job in done:
                job.result()
        made = docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"{shelf}/app").split()
        docker("rmi", *made)


def _leftovers(site: Site, after_s: float) -> None:
    """For the reaper: what carries our label and is no job's."""
    time.sleep(after_s)
    for number in range(3):
        label = f"pbsdock.owner={site.instance}@{os.uname().nodename}"
        docker("create", "--label", label, "--name", f"{RUN}-{number}", IMAGE, "true")


def main() -> int:
    """The figures, or ``picture MINUTES FILE``."""
    with scratch() as site:
        if sys.argv[1:2] == ["picture"]:
            picture(site, float(sys.argv[2]), Path(sys.argv[3]))
        else:
            costs(site)
    return 0


if __name__ == "__main__":
    sys.exit(main())
