"""The faults: what strikes while a job stands at a step, and how it is mended afterwards.

``act`` is what the agent does there: it kills itself, gets an error from the engine, or pauses, so that the fault can
strike from outside. What cannot be had really on a machine in use is imitated, and its name says so.
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pbsdock.trial import Trial
from tests.faults.site import RUN_BYTES, Site, kill_all, mount_tmpfs
from tests.support.agents import running

Deed = Callable[[Site, Trial], None]


def _nothing(site: Site, trial: Trial) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault."""

    name: str
    act: str = "pause"
    when: tuple[str, ...] = ("before", "after")
    strike: Deed = _nothing
    hold_s: float = 0.0  # how long it lasts after the job was let go on
    lasts: bool = False  # until the job is over, or has waited long enough
    mend: Deed = _nothing
    asks_engine: bool = False  # only where the engine is asked
    ends_all: bool = False  # every job dies of it, whatever it might have said


def hook_pids(site: Site) -> list[int]:
    """The processes of the victim's prologue or epilogue."""
    places = [str(site.instance.mom_priv / name) for name in ("prologue", "epilogue")]
    ask = str(site.instance.home / "hooks/ask")
    return sorted({pid for place in (*places, ask) for pid in running(place)})


def _kill_hook(site: Site, trial: Trial) -> None:
    hooks = hook_pids(site)
    if not hooks and trial.leader is not None and trial.leader.poll() is None:
        hooks = [trial.leader.pid]
    kill_all(hooks)


def _fill(name: str) -> Deed:
    def strike(site: Site, trial: Trial) -> None:
        directory = getattr(site.instance, name)
        with open(directory / "full", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    return strike


def _empty(name: str) -> Deed:
    return lambda site, trial: (getattr(site.instance, name) / "full").unlink(missing_ok=True)


def _no_descriptors(site: Site, trial: Trial) -> None:
    worker = site.worker()
    highest = max(int(one) for one in os.listdir(f"/proc/{worker}/fd"))
    _soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (highest + 1, hard))


def _descriptors(site: Site, trial: Trial) -> None:
    for pid in site.instance.agent_pids():
        _soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


def _jump(seconds: int) -> Deed:
    def strike(site: Site, trial: Trial) -> None:
        (site.control / "clock").write_text(str(seconds))
        # A pass that is made at this very moment sees the record with the new clock.
        command = [str(site.instance.root / "opt/pbsdock/bin/pbsdock"), "reap", "--json"]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3)  # until it has judged; later is the same as without it

    return strike


def _clock_back(site: Site, trial: Trial) -> None:
    (site.control / "clock").unlink(missing_ok=True)


def _engine_killed(site: Site, trial: Trial) -> None:
    site.engine.kill()


def _engine_back(site: Site, trial: Trial) -> None:
    site.engine.start("--live-restore")


def _engine_stopped(site: Site, trial: Trial) -> None:
    site.engine.stop()


def _gateway_gone(site: Site, trial: Trial) -> None:
    site.gateway.stop_radosgw()


def _gateway_back(site: Site, trial: Trial) -> None:
    site.gateway.start_radosgw()


def _reboot(site: Site, trial: Trial) -> None:
    """All processes dead at once, /run and the cgroups empty, mom without its job, another boot id."""
    kill_all(site.instance.agent_pids() + hook_pids(site))
    if trial.leader is not None:
        kill_all([trial.leader.pid] if trial.leader.poll() is None else [])
    running = site.engine.docker("ps", "-q").stdout.decode().split()
    if running:
        site.engine.docker("kill", *running)
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        for here, _, _ in os.walk(hierarchy / site.instance.name, topdown=False):
            if here != str(hierarchy / site.instance.name):
                os.rmdir(here)
    trial.job_file.unlink(missing_ok=True)
    subprocess.run(["umount", "-R", "-l", str(site.instance.run_dir)], check=True)
    mount_tmpfs(site.instance.run_dir, RUN_BYTES)
    site.start_agent(boot="another-boot")


def _cold_engine_back(site: Site, trial: Trial) -> None:
    site.engine.start()


FAULTS: tuple[Fault, ...] = (
    Fault(name="worker-killed", act="kill-worker"),
    Fault(name="agent-killed", act="kill-agent"),
    Fault(name="hook-killed", strike=_kill_hook),
    Fault(name="engine-error", act="engine-error", when=("before", "answer"), asks_engine=True),
    Fault(
        name="engine-hung",
        strike=lambda site, trial: site.engine.freeze(),
        hold_s=3.0,
        mend=lambda site, trial: site.engine.thaw(),
    ),
    Fault(name="engine-killed", strike=_engine_killed, hold_s=0.5, mend=_engine_back),
    Fault(name="engine-restarted", strike=_engine_stopped, hold_s=0.5, mend=_engine_back),
    Fault(
        name="gateway-hung",
        strike=lambda site, trial: site.gateway.freeze(),
        lasts=True,
        mend=lambda site, trial: site.gateway.thaw(),
    ),
    Fault(name="gateway-down", strike=_gateway_gone, lasts=True, mend=_gateway_back),
    Fault(name="state-full", strike=_fill("state_dir"), lasts=True, mend=_empty("state_dir")),
    Fault(name="run-full", strike=_fill("run_dir"), lasts=True, mend=_empty("run_dir")),
    Fault(name="no-descriptors", strike=_no_descriptors, hold_s=1.0, mend=_descriptors),
    Fault(name="clock-ahead-imitated", strike=_jump(7200), lasts=True, mend=_clock_back),
    Fault(name="clock-behind-imitated", strike=_jump(-7200), lasts=True, mend=_clock_back),
)
BY_NAME = {one.name: one for one in FAULTS}

# Nobody can be a bystander of these.
ENGINE_RESTARTED_COLD = Fault(
    name="engine-restarted-cold",
    strike=_engine_stopped,
    hold_s=0.5,
    mend=_cold_engine_back,
)
REBOOT = Fault(name="reboot-imitated", strike=_reboot, ends_all=True)
