"""Jobs on two nodes, contained against bare: what an mpirun takes, how fast its processes talk, what tasks take.

The second node is emulated beside this host. MPI is Debian's; the bare job runs the same programs out of the image's
files, unpacked below the user's home, since this host need have none.
"""

from __future__ import annotations

import pwd
import re
import secrets
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from instance import ROOT, RUN, USER, Site

from pbsdock.core.paths import load
from pbsdock.trial import Request
from pbsdock.trial.cluster import Cluster
from pbsdock.trial.wide import run_on

Show = Callable[..., None]
_IMAGE = f"{RUN}/openmpi4:1"
_ROUNDS, _RUNS, _TASKS = 3, 8, 32
# In hundredths of a second, as the kernel counts them: the image's date(1) knows no fractions.
_SCRIPT = """#!/bin/sh
{directive}
{before}
now() {{ read up _ </proc/uptime; echo $up | tr -d .; }}
mpirun mpi-programs hello >/dev/null
began=$(now); for run in {runs}; do mpirun mpi-programs hello >/dev/null || exit; done; echo hello $(($(now) - began))
mpirun mpi-programs pingpong
"""
_TASKS_SCRIPT = """#!/bin/sh
{directive}
now() {{ read up _ </proc/uptime; echo $up | tr -d .; }}
pbsdsh /bin/true
began=$(now); for run in 1 2 3; do pbsdsh /bin/true; done; echo tasks $(($(now) - began))
"""
# A build of Debian's finds its parts below another prefix by these; tm-agent takes no variables along, and this host's
# /tmp need not be everybody's.
_BARE = """export OPAL_PREFIX={root}/usr PATH={root}/usr/bin:$PATH LD_LIBRARY_PATH={root}/usr/lib/{triplet}
cat >{home}/tm-agent <<'END'
#!/bin/sh
host=$1; shift
exec {home}/started-by "$host" "export PATH=$PATH LD_LIBRARY_PATH=$LD_LIBRARY_PATH OPAL_PREFIX=$OPAL_PREFIX; $*"
END
chmod +x {home}/tm-agent
sort $PBS_NODEFILE | uniq -c | while read slots host; do echo $host slots=$slots; done >{home}/hosts
export OMPI_MCA_plm_rsh_agent={home}/tm-agent OMPI_MCA_plm_rsh_no_tree_spawn=1 OMPI_MCA_orte_default_hostfile={home}/hosts
export OMPI_MCA_orte_tmpdir_base={home}
export OMPI_MCA_orte_leave_session_attached=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_tcp_if_exclude=127.0.0.0/8,docker0 OMPI_MCA_oob_tcp_if_exclude=127.0.0.0/8,docker0"""
_PINGPONG = re.compile(r"pingpong ([0-9.]+) us ([0-9.]+) GiB/s")


def m1(site: Site, show: Show) -> None:
    """Ratios of medians of rounds that alternate: an mpirun, 8 B and 4 MiB between the nodes, 64 tasks of pbsdsh."""
    with _cluster(site) as (cluster, home):
        root = _unpack(home)
        triplet = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
        bare = _BARE.format(root=root, home=home, triplet=triplet)
        found: dict[str, list[dict[str, float]]] = {"contained": [], "bare": []}
        for _round in range(_ROUNDS):
            found["contained"].append(_measured(cluster, site, f"#DOCKER {_IMAGE}", ""))
            found["bare"].append(_measured(cluster, site, "", bare))
    median = {
        kind: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        for kind, rounds in found.items()
    }
    ours, theirs = median["contained"], median["bare"]
    show(
        "M1",
        hello=round(ours["hello"] / theirs["hello"], 3),
        latency=round(theirs["latency_us"] / ours["latency_us"], 3),
        bandwidth=round(ours["gib_s"] / theirs["gib_s"], 3),
        tasks=round(ours["tasks"] / theirs["tasks"], 3),
        **{f"{key}_contained": round(value, 2) for key, value in ours.items()},
        **{f"{key}_bare": round(value, 2) for key, value in theirs.items()},
    )


def _measured(cluster: Cluster, site: Site, directive: str, before: str) -> dict[str, float]:
    runs = " ".join(map(str, range(_RUNS)))
    told = _run(cluster, site, _SCRIPT.format(directive=directive, before=before, runs=runs), "nodes=1:ppn=1+n2:ppn=1")
    talk = _PINGPONG.search(told)
    hello = re.search(r"hello (\d+)", told)
    wide = f"nodes=1:ppn={_TASKS}+n2:ppn={_TASKS}"
    tasks = re.search(r"tasks (\d+)", _run(cluster, site, _TASKS_SCRIPT.format(directive=directive), wide))
    if talk is None or hello is None or tasks is None:
        raise RuntimeError(f"no figures: {told}")
    return {
        "hello": int(hello[1]) * 10 / _RUNS,  # ms
        "latency_us": float(talk[1]),
        "gib_s": float(talk[2]),
        "tasks": int(tasks[1]) * 10 / 3,  # ms
    }


def _run(cluster: Cluster, site: Site, script: str, resources: str) -> str:
    request = Request(script=script.encode(), user=USER, mom_priv=site.mom_priv, resources=resources, shell="/bin/sh")
    done = run_on(cluster, request)
    if done.exit_status != 0:
        raise RuntimeError(f"exit status {done.exit_status}: {done.stderr.decode()} {done.stdout.decode()}")
    return done.stdout.decode()


@contextmanager
def _cluster(site: Site) -> Iterator[tuple[Cluster, Path]]:
    """The nodes with a key, and the user's home."""
    subprocess.run(["bash", str(ROOT / "tests/mpi_image.sh"), "openmpi4", _IMAGE], check=True)
    key = site.root / "etc/pbsdock/cluster.key"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    site.stop_agents()
    home = Path(pwd.getpwnam(USER).pw_dir)
    config = site.root / "etc/pbsdock/pbsdock.toml"
    before = config.read_text()
    try:
        paths = load(site.root / "opt/pbsdock/current/paths.json")
        shutil.copy(paths.lib / "pbsdock/init/tm-agent", home / "started-by")
        with Cluster(paths, ["n2"]) as cluster:
            config.write_text(f'{before}\n[torque]\nclient_dir = "{cluster.client_dir}"\n')
            site.stop_agents()
            yield cluster, home
    finally:
        key.unlink()
        config.write_text(before)
        site.stop_agents()
        subprocess.run(["docker", "rmi", "-f", _IMAGE], capture_output=True, check=False)
        shutil.rmtree(home / "root", ignore_errors=True)


def _unpack(home: Path) -> Path:
    root = home / "root"
    root.mkdir()
    made = subprocess.run(
        ["docker", "create", _IMAGE, "true"], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        subprocess.run(f"docker export {made} | tar -x -C {root}", shell=True, check=True)
    finally:
        subprocess.run(["docker", "rm", made], capture_output=True, check=True)
    return root
