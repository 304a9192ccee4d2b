"""A job's facts from what its user cannot forge: what slurmd told the Prolog, the job's cgroups, the passwd file."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pbsdock.core.errors import BadValue
from pbsdock.rm.base import Grant, Job
from pbsdock.rm.slurm import cgroup
from pbsdock.rm.slurm.control import Control
from pbsdock.rm.slurm.prolog_file import PrologFile
from pbsdock.rm.slurm.spool import script_path
from pbsdock.rm.slurm.values import counts_of, gpu_ids_of, hosts_of
from pbsdock.rm.slurm.words import WORDS


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """A job as its Prolog was told of it; serves for what is announced and for what is alive.

    Parts of its grant are read when it is asked for: *control* is the controller, *sysfs* where the cgroups are.

    Many methods because it is both of the seam's, Announced and Live.
    """

    told: PrologFile
    spool: Path
    control: Control
    sysfs: Path = cgroup.SYSFS
    here: frozenset[str] = frozenset()  # the job's nodes whose slurmds are of this host

    @property
    def id(self) -> str:
        """Its number."""
        return self.told.job_id

    @property
    def safe(self) -> str:
        """The same."""
        return self.told.job_id

    @property
    def user(self) -> str:
        """Its owner's name."""
        return self.told.user

    @property
    def uid(self) -> int | None:
        """Its owner."""
        return self.told.uid

    @property
    def name(self) -> str:
        """Nothing: what it is called is told by its user alone."""
        return ""

    @property
    def script_path(self) -> str:
        """Where slurmd puts the script (``_make_batch_dir`` in its req.c), once the Prolog is over."""
        return script_path(self.spool, self.told.node, self.told.job_id)

    @property
    def job_file(self) -> str:
        """By what it is alive."""
        return self.told.job_id

    @property
    def wrong(self) -> str:
        """What of the resources cannot be understood."""
        try:
            hosts_of(self.told.nodes)
            counts_of(self.told.cpus)
            gpu_ids_of(self.told.gpus)
        except BadValue as error:
            return str(error)
        return ""

    @property
    def has_more(self) -> bool:
        """Never: all is known before the start."""
        return False

    @property
    def hosts(self) -> tuple[str, ...]:
        """Of SLURM_NODELIST; those of this host, which have one agent, count as the first of them."""
        return tuple(name for name, _slots in self._nodes())

    def _nodes(self) -> list[tuple[str, int]]:
        """Names, and CPUs there."""
        try:
            names, counts = hosts_of(self.told.nodes), counts_of(self.told.cpus)
        except BadValue:
            return []
        found: dict[str, int] = {}
        mine = next((name for name in names if name in self.here), "")
        for place, name in enumerate(names):
            known_as = mine if name in self.here else name
            found[known_as] = found.get(known_as, 0) + (counts[place] if place < len(counts) else 1)
        return list(found.items())

    @property
    def is_sister(self) -> bool:
        """Whether its first node is of another host."""
        return bool(self.hosts) and self.hosts[0] not in {self.told.node, *self.here}

    @property
    def slots(self) -> int:
        """The CPUs of this node."""
        return self._counts()[0]

    @property
    def run(self) -> str:
        """By how often it was queued again."""
        return f"{self.told.job_id}.{self.told.restarts}"

    @property
    def directive(self) -> str:
        """Nothing: the variable is told by the run hook."""
        return ""

    def job(self, env: Mapping[str, str] | None = None) -> Job:
        """Of *env*, the run hook's, nothing is taken. Raises KeyError for an unknown user."""
        entry = pwd.getpwnam(self.told.user)
        if entry.pw_uid != self.told.uid:
            raise KeyError(self.told.user)
        try:
            group = grp.getgrgid(entry.pw_gid).gr_name
        except KeyError:
            group = str(entry.pw_gid)
        return Job(
            id=self.id,
            safe=self.safe,
            user=self.told.user,
            group=group,
            uid=entry.pw_uid,
            gid=entry.pw_gid,
            groups=tuple(gid for gid in os.getgrouplist(self.told.user, entry.pw_gid) if gid != entry.pw_gid),
            home=entry.pw_dir,
            name=self.name,
            queue=self.told.partition,
            script_path=self.script_path,
            work_dir=self.told.work_dir or None,
            tmpdir=None,
            nodefile=None,
            interactive=env is not None or not os.path.lexists(self.script_path),
            job_file=self.job_file,
            grant=self._grant(),
            words=WORDS,
        )

    def _counts(self) -> tuple[int, int]:
        """CPUs here, and of the whole job."""
        try:
            counts, hosts = counts_of(self.told.cpus), hosts_of(self.told.nodes)
        except BadValue:
            return 1, 1
        here = counts[hosts.index(self.told.node)] if self.told.node in hosts and len(counts) == len(hosts) else 0
        if not here and counts:
            here = counts[0]
        return max(here, 1), max(sum(counts), 1)

    def _grant(self) -> Grant:
        if self.wrong:
            return Grant()
        here, total = self._counts()
        memory = cgroup.memory_of(self.id, self.told.node, self.sysfs)
        return Grant(
            memory_bytes=memory,
            memory_from="--mem" if memory is not None else "",
            memory_text=str(memory) if memory is not None else "",
            cpus=here,
            slots_here=here,
            slots_total=total,
            gpus=len(gpu_ids_of(self.told.gpus)),
            gpu_ids=gpu_ids_of(self.told.gpus),
            hosts=self.hosts,
            host_slots=tuple(slots for _name, slots in self._nodes()),
            walltime_s=self.control.time_limit(self.id),
        )
