"""P1 with crun and with runc, and ``docker run`` with each, in turn on an engine of its own that has both.

One JSON line each on stdout, a table on stderr. Needs root and the tests' setup; the host's own engine is not used.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from instance import IMAGE, ROOT, RUN, USER, Site

from bench import REPEATS, report, show
from tests.support.engine import OwnEngine, crun


def main() -> int:
    """Measure; what was made is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="pbsdock-bench.", dir="/var/tmp"))
    root.chmod(0o755)
    engine = OwnEngine(root / "engine")
    subprocess.run(["useradd", "-m", "-s", "/bin/sh", USER], check=True)
    try:
        engine.start(f"--add-runtime=crun={crun(root / 'with-crun')}")
        os.environ["DOCKER_HOST"] = f"unix://{engine.socket}"
        subprocess.run(["sh", str(ROOT / "tests/image.sh"), IMAGE], check=True)
        sites = {name: _site(root / name, name, engine) for name in ("runc", "crun")}
        _measure(sites)
        for site in sites.values():
            site.stop_agents()
    finally:
        engine.unmake()
        for directory in Path("/sys/fs/cgroup").glob(f"*/{RUN}"):
            directory.rmdir()
        subprocess.run(["userdel", "-r", USER], capture_output=True, check=False)
        shutil.rmtree(root, ignore_errors=True)
    return 0


def _site(root: Path, runtime: str, engine: OwnEngine) -> Site:
    root.mkdir()
    site = Site(root, f'[engine]\nsocket = "{engine.socket}"\nruntime = "{runtime}"\n')
    site.same += ["--runtime", runtime]
    return site


def _measure(sites: dict[str, Site]) -> None:
    steps: dict[str, Callable[[], float]] = {}
    for name, site in sites.items():
        steps[f"job {name}"] = lambda site=site: sum(site.hooks("true")[1].values())  # type: ignore[misc]
        steps[f"docker {name}"] = lambda site=site: site.docker_run("true")  # type: ignore[misc]
    for step in steps.values():
        step()  # warm
    took: dict[str, list[float]] = {what: [] for what in steps}
    for _ in range(REPEATS):
        for what, step in steps.items():
            took[what].append(step())
    for name in sites:
        report(f"P1 {name}", took[f"job {name}"], took[f"docker {name}"])
    for kind in ("job", "docker"):
        ratio = statistics.median(took[f"{kind} crun"]) / statistics.median(took[f"{kind} runc"])
        show(f"{kind}, crun to runc", ratio=round(ratio, 3))


if __name__ == "__main__":
    sys.exit(main())
