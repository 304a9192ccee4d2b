"""The machine with a real Slurm of Debian's, by its own units, and the package installed for that."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from tests.vm.lab import IMAGE, Lab
from tests.vm.machine import Result

CONF = "/etc/slurm/slurm.conf"
SCOPE = "/sys/fs/cgroup/system.slice/node_slurmstepd.scope"
_HOME = "/home/pbsdock-a"
_OVER = "COMPLETED|CANCELLED|FAILED|TIMEOUT|OUT_OF_MEMORY|NODE_FAIL"
# The controller is user slurm's: its unit in Debian 13 runs it so.
_SLURM_CONF = """\
ClusterName=test
SlurmctldHost=node(127.0.0.1)
AuthType=auth/munge
CredType=cred/munge
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/state
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
JobAcctGatherFrequency=task=2
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
KillWait=10
MinJobAge=3600
ReturnToService=2
DefMemPerCPU=64
NodeName=node NodeAddr=127.0.0.1 CPUs=2 RealMemory=1500
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:16
"""
_CGROUP_CONF = "ConstrainCores=yes\nConstrainRAMSpace=yes\nConstrainDevices=yes\n"


@dataclass(frozen=True, slots=True)
class Done:
    """A job that is over, as the controller shows it; ``exit`` is CODE:SIGNAL, ``output`` without what differs by job."""

    state: str
    exit: str
    output: str


class SlurmLab(Lab):
    """One node that is its own controller; jobs are of user pbsdock-a."""

    kind = "-slurm"
    manager = ("--slurm", CONF)

    def submit(self, body: str, *options: str, image: str = IMAGE) -> str:
        """A batch job, bare without an image; returns its number."""
        head = f"#DOCKER {image}\n" if image else ""
        script = f"#!/bin/sh\n{head}{body}\n"
        command = f"cd {_HOME} && sbatch --parsable -o out-%j {' '.join(options)}"
        return self.check(f"su pbsdock-a -c {shlex.quote(command)} <<'END'\n{script}END").strip()

    def both(self, body: str, *options: str) -> tuple[str, str]:
        """The same script bare and contained, at the same time."""
        return self.submit(body, *options, image=""), self.submit(body, *options)

    def launch(self, command: str, *, image: str = IMAGE) -> Result:
        """What *command* prints, which starts steps outside of a batch job, and its exit code; bare without an image."""
        asked = f"PBSDOCK={shlex.quote(image)} " if image else ""
        return self.run(f"su pbsdock-a -c {shlex.quote(f'cd {_HOME} && {asked}timeout 100 {command}')}")

    def until_says(self, word: str, *jobs: str) -> None:
        """Wait until each has written *word*."""
        for job in jobs:
            self.until(f"job {job} says {word}", f"grep -qs {word} {_HOME}/out-{job}")

    def wait(self, job: str, seconds: float = 120.0) -> Done:
        """Wait for its end."""
        said = self.until(f"job {job} ends", f"scontrol show job {job} | grep -E 'JobState=({_OVER}) '", seconds)
        shown = self.check(f"scontrol show job {job}")
        output = self.check(f"cat {_HOME}/out-{job}")
        # Only slurmstepd's own lines have a time or the job's number in them.
        output = re.sub(rf"(?m)^(slurmstepd.*)\b{job}\b(.*?)( AT \S+)?( \*\*\*)?$", r"\1N\2", output)
        found = re.search(r"JobState=(\S+)", said), re.search(r" ExitCode=(\S+)", shown)
        assert found[0] is not None
        assert found[1] is not None
        return Done(found[0][1], found[1][1], output)

    def first_process(self, job: str) -> int:
        """Of its container."""
        return int(self.check(f"docker inspect -f '{{{{.State.Pid}}}}' $(docker ps -q --filter name=pbsdock-{job}-)"))

    def left(self) -> str:
        """Also what Slurm has left of a job, and what the engine has of systemd's."""
        return super().left() + self.check(
            f"find {SCOPE} -name 'job_*'; ls /run/pbsdock/slurm; find /sys/fs/cgroup -name 'docker-*'"
        )

    def _install(self) -> None:
        self.check(
            "mkdir -p /etc/slurm /var/lib/slurm/state /var/spool/slurmd /var/log/slurm /run/slurmctld"
            " && chown -R slurm /var/lib/slurm /var/log/slurm /run/slurmctld"
            f" && cat >{CONF} <<'END' && cat >/etc/slurm/cgroup.conf <<'END-OF-CGROUP'\n{_SLURM_CONF}END\n"
            f"{_CGROUP_CONF}END-OF-CGROUP"
        )
        self.check(
            f"/opt/src/install.sh --slurm {CONF} --write-conf --wheels /opt/wheels >/root/install.log 2>&1"
            " || { cat /root/install.log; exit 1; }",
            600.0,
        )
        # Bare and contained at the same time: the engine's calls take longer than they do elsewhere.
        self.check("sed -i 's/^#timeout_s = 20.0/timeout_s = 90.0/' /etc/pbsdock/pbsdock.toml")
        self.check("systemctl restart pbsdock-agent && systemctl start munge slurmctld slurmd")
        self.until("the node is idle", "sinfo -h -o %T | grep idle")
