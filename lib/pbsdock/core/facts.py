"""What has become known of a job since its plan was made: typed, frozen, kept in its record. Pure.

A later release may add fields; each has a default, so that the record of an earlier one can be read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pbsdock.core.pathrules import PathRules
from pbsdock.core.trail import Decision, Fault, Phase

Half = Literal["", "begun", "done", "undone"]  # how far one direction of staging has come


def uptime() -> float:
    """Seconds since the boot (clock_gettime(2), CLOCK_BOOTTIME): what no change of the node's clock touches."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A mount whose source was resolved: ``source`` holds no symbolic link, ``device`` and ``inode`` identify it.

    ``pin`` is where root holds it for the engine (see :mod:`pbsdock.host.pins`). ``follows``: what the host mounts
    below it later is to be seen in the container; never the other way round.
    """

    source: str
    target: str
    read_only: bool
    device: int
    inode: int
    pin: str = ""
    follows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTraits:
    """What of the image counts for its jobs.

    ``variables`` are the names it sets itself; ``shells`` those it has of the ones looked for, the best first;
    ``time_zone`` is the TZ for local time as on the host, "" where it is that without one.
    """

    variables: tuple[str, ...] = ()
    shells: tuple[str, ...] = ()
    time_zone: str = ""

    @property
    def shell(self) -> str:
        """What stands for a login shell that the image lacks."""
        return self.shells[0] if self.shells else "/bin/sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a job used. None where the kernel does not tell. Sizes in bytes.

    ``limit_hit``: whether the job's own memory limit was reached; ``pids_hit``: whether it had as many processes
    as it may; ``oom_kills`` counts killed processes; ``oom_at`` says whose limit they were killed at (None: nobody was
    killed, or the kernel does not tell).
    """

    memory_peak_bytes: int | None = None
    cpu_seconds: float | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    pids_peak: int | None = None
    oom_kills: int | None = None
    limit_hit: bool | None = None
    pids_hit: bool | None = None
    oom_at: Literal["job", "container", "node"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What a running job has at a moment. None where the kernel does not tell. Sizes in bytes."""

    memory_bytes: int | None = None
    pids: int | None = None
    shm_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload in parts that was begun at an object store."""

    store: str
    bucket: str
    key: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """That a job's credentials were delivered, and when they are due for new ones (seconds since the epoch)."""

    refresh_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the container ended: exit status, whether a process was killed for memory, what its user is told, when."""

    code: int
    oom: bool = False
    sentences: tuple[str, ...] = ()
    at: float | None = None  # seconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Times are seconds: ``*_at`` since the epoch, but ``alive_at`` since the boot and ``asked_at`` monotonic."""

    alive_at: float = 0.0  # the last sign of life
    asked_at: float | None = None  # when the prologue asked for the job
    on_demand: bool = False  # made for the run hook, by qsub -v PBSDOCK=…
    scratch: tuple[str, ...] = ()  # directories that its MPI writes to beside /tmp, of its own
    tasks_only: bool = False  # no command of the job's own runs in it
    job_file: str = ""  # what the resource manager calls its file of the job
    nodes: int = 1  # of the whole job
    has_place: bool = False  # for adopted tasks in the resource manager's own file, beside the job's shell
    bare: bool = False  # it has no container of its own, only those it has started itself
    hosts: tuple[str, ...] = ()  # of the whole job, the mother superior first; empty where they are not known
    ticket: str = ""  # as signed: what the job's sisters prepare the same from
    mother: str = ""  # on a sister, the node whose ticket this was prepared from
    run: str = ""  # on a sister, the ticket's name for this run of the job
    own_files: tuple[tuple[str, str], ...] = ()  # made by root: source, target
    bound: tuple[Bound, ...] = ()
    path_rules: PathRules | None = None  # of the site for the job's owner, as of its prologue
    script_names_shell: bool = False
    script_sha256: str = ""
    mpi_own: tuple[str, ...] = ()  # variables of an MPI's launcher that the script names itself
    interpreter: str = ""  # of the script's first line
    env_finds: str = ""  # the program that env(1) is to find as such
    pid: int = 0  # the container's first process
    pid_start: int = 0  # when that began, in clock ticks since the boot
    first_process: bool = False  # whether that is our own, of which the job's shell is a child
    counted_in: str = ""  # the resource manager's cgroup that it was moved into, from its hierarchy's root
    tty: bool = False
    started_at: float | None = None
    late_line: int = 0  # the script's first #DOCKER line after its first command, from 1; 0: none
    cwd_lost: str = ""  # of earlier releases, whose jobs started in / then
    image: ImageTraits = field(default_factory=ImageTraits)
    untold: tuple[str, ...] = ()  # sentences on the end that no run hook was there to hear
    usage: Usage | None = None
    credentials: Credentials | None = None
    revoked: bool = False  # from here on no credential is made again
    staged_in: Half = ""
    staged_out: Half = ""
    kept: tuple[str, ...] = ()  # where to results were moved that could not be uploaded
    uploads: Mapping[str, Upload] = field(default_factory=dict)
    asked: str = ""  # the directive as written, or as much of it as a person reads
    decided: tuple[Decision, ...] = ()
    phases: tuple[Phase, ...] = ()
    fault: Fault | None = None  # what kept it from being prepared or started
    shm_peak_bytes: int | None = None  # of /dev/shm, as far as it was looked at
    exit_status: int | None = None  # the resource manager's
