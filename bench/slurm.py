"""What Slurm's jobs cost, in a real Slurm of its own: from allocation to done, as slurmctld's log tells, in milliseconds.

SL1: a bare job on a node with the hooks beside one on a node without, of the same controller, in turn. SL0: the same with an
empty program in the place of each hook, which is what slurmd itself takes for calling them. SL2: a contained job less a bare
one, as a ratio to ``docker run --rm`` of the same image. One JSON line each. Needs root, Debian's slurm, cgroup version 1.

``python bench/slurm.py``; PBSDOCK_BENCH_REPEATS is how often (15). Nothing else may use Slurm's cgroups meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.conftest import IMAGE, install, wait_until  # noqa: E402
from tests.support.agents import kill_agents  # noqa: E402
from tests.support.slurm import NODE, Cluster, _begin, _end, needs_slurm  # noqa: E402

REPEATS = int(os.environ.get("PBSDOCK_BENCH_REPEATS", "15"))
USER = f"pbsdock-b{os.getpid()}"
PLAIN = f"{NODE}p"
HOOKS = ("Prolog", "Epilog", "TaskProlog")


def begin(top: Path) -> tuple[Cluster, Path]:
    """A cluster with pbsdock, of whose two nodes the second has a configuration without hooks."""
    cluster, root = _begin(top / "slurm", (NODE, PLAIN)), top / "root"
    root.mkdir()
    done = install(root, "--write-conf", slurm_conf=cluster.conf)
    if done.returncode:
        raise RuntimeError(done.stderr)
    cluster.stop(f"slurmd {PLAIN}")
    use_hooks(cluster, ours=True)
    bare = top / "slurm/plain.conf"
    lines = cluster.conf.read_text().splitlines(keepends=True)
    bare.write_text("".join(line for line in lines if line.partition("=")[0] not in (*HOOKS, "HealthCheckProgram")))
    words = ["/usr/sbin/slurmd", "-D", "-f", str(bare), "-N", PLAIN]
    null = subprocess.DEVNULL
    cluster._daemons["plain"] = subprocess.Popen(words, stdin=null, stdout=null, stderr=null, start_new_session=True)
    wait_until(
        "the nodes are idle", lambda: cluster.call("sinfo", "-h", "-N", "-o", "%T", check=False).split() == ["idle"] * 2
    )
    return cluster, root


def use_hooks(cluster: Cluster, *, ours: bool) -> None:
    """Have the first node call pbsdock's hooks, or an empty program in their places."""
    kept = cluster.conf.with_name("hooks.conf")
    if not kept.exists():
        shutil.copy(cluster.conf, kept)
    lines = kept.read_text().splitlines()
    swapped = [
        f"{name}=/bin/true" if not ours and (name := line.partition("=")[0]) in HOOKS else line for line in lines
    ]
    cluster.conf.write_text("\n".join(swapped) + "\n")
    for name in ("slurmctld", "slurmd"):
        cluster.stop(name)
        cluster.start(name)
    wait_until("it answers", lambda: NODE in cluster.call("sinfo", "-h", "-N", "-o", "%N", check=False))
    time.sleep(2)


def job(cluster: Cluster, node: str, script: str = "#!/bin/sh\n") -> float:
    """Milliseconds."""
    number = cluster.submit(script, "-w", node, "-o", "/dev/null", user=USER)
    log = cluster.top / "slurmctld.log"
    wait_until("it is done", lambda: f"_job_complete: JobId={number} done" in log.read_text())
    text = log.read_text()
    times = [
        re.search(rf"^\[(\S+)\] {what} JobId={number}\b", text, re.MULTILINE)
        for what in (r".*(?:Allocate|Started)", "_job_complete:")
    ]
    begun, done = (datetime.fromisoformat(found[1]) for found in times if found)
    return (done - begun).total_seconds() * 1000


def docker() -> float:
    began = time.monotonic()
    subprocess.run(["docker", "run", "--rm", IMAGE, "true"], check=True)
    return (time.monotonic() - began) * 1000


def show(identifier: str, **values: float) -> None:
    load = round(os.getloadavg()[0], 1)
    print(
        json.dumps({"id": identifier, **{name: round(value, 2) for name, value in values.items()}, "load": load}),
        flush=True,
    )


def compare(cluster: Cluster, identifier: str) -> None:
    """Bare jobs on both nodes, in turn."""
    pairs = []
    for turn in range(REPEATS + 1):
        order = (NODE, PLAIN) if turn % 2 else (PLAIN, NODE)
        took = {node: job(cluster, node) for node in order}
        pairs.append((took[NODE], took[PLAIN]))
    ours, theirs = zip(*pairs[1:], strict=True)
    added = statistics.median(one - other for one, other in pairs[1:])
    show(
        identifier,
        added_ms=added,
        with_ms=statistics.median(ours),
        without_ms=statistics.median(theirs),
        repeats=REPEATS,
    )


def main() -> None:
    if needs_slurm.args[0]:
        print(f"left out: what jobs of Slurm cost {needs_slurm.kwargs['reason']}", file=sys.stderr)
        return
    top = Path(tempfile.mkdtemp(prefix="pbsdock-bench-slurm.", dir="/var/tmp"))
    top.chmod(0o755)
    subprocess.run(["useradd", "-m", "-s", "/bin/sh", USER], check=True)
    subprocess.run(["sh", str(ROOT / "tests/image.sh"), IMAGE], check=True)
    cluster, root = begin(top)
    try:
        job(cluster, NODE, f"#!/bin/sh\n#DOCKER {IMAGE}\n")  # starts the agent
        rows = []
        for _ in range(REPEATS):
            bare, plain = job(cluster, NODE), docker()
            rows.append((bare, plain, job(cluster, NODE, f"#!/bin/sh\n#DOCKER {IMAGE}\n")))
        bare, plain, contained = (statistics.median(column) for column in zip(*rows, strict=True))
        ratio = statistics.median((whole - alone) / run for alone, run, whole in rows)
        show("SL2", ratio=ratio, contained_ms=contained, bare_ms=bare, docker_ms=plain, repeats=REPEATS)
        compare(cluster, "SL1")
        use_hooks(cluster, ours=False)
        compare(cluster, "SL0")
    finally:
        _end(cluster)
        kill_agents(root)
        subprocess.run(["docker", "rmi", "-f", IMAGE], capture_output=True, check=False)
        subprocess.run(["userdel", "-r", USER], capture_output=True, check=False)
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
