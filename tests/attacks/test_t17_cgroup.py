"""T17, T18: a job's processes are in the job's cgroup from the first one on, and none of them gets out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import IMAGE, Instance, wait_until
from tests.support.attack import Entry, image

pytestmark = pytest.mark.engine
_FORKS = Entry(
    "bin/sh",
    b"#!/bin/busybox sh\n"
    b"for i in 1 2 3 4 5 6 7 8; do /bin/busybox setsid /bin/busybox sleep 60 & done\n"
    b'exec /bin/busybox sh "$@"\n',
)


def test_ways_out_of_the_cgroup(instance: Instance) -> None:
    """No cgroup can be written, made or mounted, and no namespace entered in which it could."""
    done = instance.run(f"""#!/bin/sh
#DOCKER {IMAGE}
for file in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/*/tasks /sys/fs/cgroup/cgroup.procs \\
  /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do
  (echo 1 >$file) 2>/dev/null && echo wrote $file
done
for one in /sys/fs/cgroup/*; do mkdir $one/mine 2>/dev/null && echo made $one/mine; done
mkdir /tmp/c; mount -t cgroup -o memory none /tmp/c 2>/dev/null && echo mounted
mount -t cgroup2 none /tmp/c 2>/dev/null && echo mounted two
unshare -U true 2>/dev/null && echo user namespace
unshare -m true 2>/dev/null && echo mount namespace
unshare -C true 2>/dev/null && echo cgroup namespace
nsenter -t 1 -m true 2>/dev/null && echo entered
grep -v ':/$' /proc/self/cgroup
echo end
""")

    assert done.stdout == b"end\n"


@pytest.mark.threat(18)
def test_early_forks_are_inside(instance: Instance) -> None:
    """An image's shell that forks daemons before it reads a byte: each is in the job's cgroup, in every hierarchy."""
    with image("forks", [_FORKS]) as forks:
        trial = instance.begin(f"#!/bin/sh\n#DOCKER {forks}\necho ready\nsleep 60\n")
        wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
        first = instance.inspect(trial.job_id)["State"]["Pid"]
        namespace = os.readlink(f"/proc/{first}/ns/pid")
        inside = [one for one in Path("/proc").glob("[0-9]*") if _namespace(one) == namespace]
        wanted = f"/{instance.name}/{trial.job.id.safe}."
        strays = [
            (one.name, line)
            for one in inside
            for line in (one / "cgroup").read_text().splitlines()
            if line.split(":")[1] in ("memory", "pids", "cpu,cpuacct", "cpu", "freezer", "devices")
            and wanted not in line
        ]
        trial.qdel()
        trial.finish(trial.wait())

    assert len(inside) >= 9
    assert strays == []
    assert all(not Path(one).exists() for one in inside)


def _namespace(process: Path) -> str:
    try:
        return os.readlink(process / "ns/pid")
    except OSError:
        return ""
