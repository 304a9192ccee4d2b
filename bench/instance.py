"""A scratch instance to be measured, and its twin in plain docker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from docker_flags import flags

from pbsdock.trial import Request, Trial, environment

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support import quick_setup  # noqa: E402
from tests.support.agents import agents, kill_agents  # noqa: E402

# Of this run alone: another one on this host takes its own away when it is done.
RUN = f"pbsdock-bench-{os.getpid()}"
IMAGE = f"{RUN}/busybox:1"
USER = f"pbsdock-b{os.getpid()}"
GRACE_S = 2.0

_MOM = """
user=$1 group=$2; shift 2; cd "$MOM_PRIV"
./prologue "$@" || exit
printf '<job><jobid>%s</jobid><attributes/></job>' "$1" >"${SC%.SC}.JB"
cd "$HOME"
setpriv --reuid "$user" --regid "$group" --init-groups "$RUN" /bin/sh <<END || exit
$SC
END
cd "$MOM_PRIV"
./epilogue "$1" "$2" "$3" "$4" $$ "$5" "" "$6" "" 0 "$8" || exit
rm -f "${SC%.SC}.JB"
"""


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


class Site:
    """A scratch instance."""

    def __init__(self, root: Path, more: str = "") -> None:
        """Install it below *root*; *more* is added to its configuration."""
        self.root = root
        self.mom_priv = root / "mom_priv"
        self.mom_priv.mkdir()
        (root / "etc/pbsdock").mkdir(parents=True)
        # For P5: no pass but those it asks for.
        (root / "etc/pbsdock/pbsdock.toml").write_text(f"[reaper]\nperiod_s = 86400\ngrace_s = {GRACE_S}\n{more}")
        # In the tests the packages of a version that is installed already: how they are fetched is not measured.
        packages = os.environ.get("PBSDOCK_BENCH_PACKAGES")
        install = quick_setup.command(ROOT, Path(packages)) if packages else [str(ROOT / "install.sh")]
        subprocess.run(
            [*install, "--mom-priv", str(self.mom_priv), "--root", str(root)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.instance = (root / "etc/pbsdock/instance").read_text().strip()
        self.same = self._same()

    def _same(self) -> list[str]:
        """The flags of a job's container, read from one."""
        trial = self.trial("sleep 60")
        if trial.begin() is not None:
            raise RuntimeError("the prologue failed")
        label = f"label=pbsdock.job={trial.job_id}"
        while not (found := docker("ps", "-q", "--filter", label).split()):
            time.sleep(0.05)
        same = flags(json.loads(docker("inspect", found[0]))[0], self.root, f"/{RUN}")
        trial.qdel()
        trial.finish(trial.wait())
        return same

    def docker_run(self, *arguments: str, stdout: int | None = subprocess.DEVNULL) -> float:
        """``docker run --rm`` with what a job's container has; seconds."""
        began = time.monotonic()
        subprocess.run(
            ["docker", "run", "--rm", "-i", *self.same, IMAGE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            check=True,
        )
        return time.monotonic() - began

    def trial(self, body: str, *, directive: bool = True, bare: bool = False) -> Trial:
        line = f"#DOCKER {IMAGE}\n" if directive else ""
        return Trial(
            Request(
                mom_priv=self.mom_priv,
                user=USER,
                script=f"#!/bin/sh\n{line}{body}\n".encode(),
                bare=bare,
                shell="/bin/sh",
            )
        )

    def hooks(
        self, body: str, *, directive: bool = True, bare: bool = False, pause_s: float = 0.0
    ) -> tuple[float, dict[str, float]]:
        """Seconds from before the prologue to after the epilogue, and each hook's own; *pause_s* after the prologue."""
        trial = self.trial(body, directive=directive, bare=bare)
        trial.prepare_files()
        began = time.monotonic()
        if trial.prologue() not in (None, 0):
            raise RuntimeError("the prologue failed")
        time.sleep(pause_s)
        trial.start()
        # Not trial.wait(): mom's look through /proc for what the session left is no cost of ours.
        assert trial.leader is not None
        status = trial.leader.wait()
        trial.seconds["run"] = trial.leader.seconds
        trial.seconds.pop("start")
        trial.epilogue(status)
        took = time.monotonic() - began
        if status:
            raise RuntimeError(f"the job ended with {status}: {trial.err_path.read_text()}")
        seconds = dict(trial.seconds)
        trial.spool.remove()
        return took, seconds

    def by_shell(self, trial: Trial) -> None:
        """One prepared job's hooks from a shell: 32 of the stand-in would cost more CPU time than pbs_mom does."""
        job, entry, script = trial.job, trial.entry, str(trial.script_path)
        names = [trial.job_id, entry.pw_name, job.group, job.name, job.resource_text, job.queue, "", script]
        settings = {"MOM_PRIV": str(self.mom_priv), "RUN": str(self.root / "opt/pbsdock/hooks/run"), "SC": script}
        subprocess.run(
            ["sh", "-c", _MOM, "mom", str(entry.pw_uid), str(entry.pw_gid), *names],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**environment.for_job(job), **settings},
        )

    def stop_agents(self) -> None:
        """Kill them; the next hook starts another, with the configuration as it is then."""
        kill_agents(self.root)

    def agents(self) -> list[int]:
        """Supervisor and worker."""
        return agents(self.root)
