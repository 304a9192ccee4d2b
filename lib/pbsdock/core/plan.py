"""The frozen answer to *job + directive + site policy*: pure data, serialisable, versioned.

A plan is made once, by root, before the user's first process exists. Sizes are bytes, times seconds, CPU shares
thousandths of a CPU.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pbsdock.core.plain import from_plain, to_plain

VERSION = 1

MountOrigin = Literal["home", "workdir", "tmpdir", "nodefile", "volume", "site"]
PullPolicy = Literal["never", "missing", "always"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One bind mount as planned: before the source has been resolved as the user.

    ``required`` mounts that cannot be resolved refuse the job; the others are left out and told in an event.
    """

    source: str
    target: str
    read_only: bool
    origin: MountOrigin
    required: bool
    where: str = ""  # "script.sh:4:9", the directive position the sentence names


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """A tmpfs in the container; ``size_bytes`` None means the kernel's default (half of memory)."""

    target: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A host device the container may use; ``permissions`` as Docker writes them (``rwm``)."""

    path: str
    permissions: str = "rw"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketGrant:
    """What may be done in a bucket. *keys* are the keys it covers, with ``*`` for anything at all, slashes too."""

    bucket: str
    keys: tuple[str, ...]
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An object store the job uses: where it is, what its container may do there, and what its staging may."""

    name: str
    endpoint: str
    region: str
    ca_file: str  # the name of a file with certificates among those the container gets; "" for none
    container: tuple[BucketGrant, ...]
    staging: tuple[BucketGrant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One ``--stage-in`` or ``--stage-out``. *path* is the container's, *key* may be a prefix or have wildcards."""

    store: str
    bucket: str
    key: str
    path: str
    where: str
    always: bool = False  # stage-out: also when the job fails

    @property
    def url(self) -> str:
        """As the user wrote it, less the profile."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the job's cgroup enforces. None means not limited."""

    memory_bytes: int | None
    memory_swap_bytes: int | None  # memory plus swap together, as v1's memsw and Docker's MemorySwap count
    cpu_millis: int | None  # 1500 = one and a half CPUs
    cpuset: str | None  # "0-3,8", only when policy says so
    pids: int
    shm_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that will be done for one job, decided before anything is touched."""

    version: int = VERSION
    job_id: str
    user: str
    group: str
    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, by number, without gid
    home: str
    queue: str
    image: str  # canonical reference: registry/repository:tag or @digest
    pull: PullPolicy
    platform: str | None
    limits: Limits
    network: str
    mounts: tuple[Mount, ...]
    tmpfs: tuple[Tmpfs, ...]
    devices: tuple[Device, ...]
    gpus: tuple[str, ...]
    read_only_root: bool
    environment: tuple[tuple[str, str | None], ...]  # None: take the job's own value
    environment_deny: tuple[str, ...]  # shell patterns of names never passed on
    workdir: str | None
    entrypoint: str | None
    oom_score_adj: int
    interactive: bool = False
    walltime_s: int | None = None
    stores: tuple[Store, ...] = ()
    stage_in: tuple[Stage, ...] = ()
    stage_out: tuple[Stage, ...] = ()
    environment_keep: tuple[str, ...] = ()  # shell patterns of names that win over the image's own
    work_dir_closed: str = ""  # why the directory of qsub is not among the mounts, "" where it may be
    credentials_port: int = 0  # of the endpoint that refreshes, on the loopback address; 0 where there is none

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types only."""
        return dict(to_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, newer: bool = False) -> Plan:
        """Rebuild a plan from :meth:`to_dict` after a trip through JSON.

        With *newer*, fields of a later release are passed over. Raises ValueError if the version, or without *newer* a
        field, is not one this release knows.
        """
        if data.get("version") != VERSION:
            raise ValueError(f"plan version {data.get('version')!r} is not {VERSION}")
        return typing.cast(Plan, from_plain(cls, data, newer=newer))
