"""The sections of the site's configuration.

Every setting is a dataclass field with its default, bounds and documentation; the parser, the commented file in etc/
and the manual page are checked against these fields.

Long because it is one table, with a text for each key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pbsdock.config import checks
from pbsdock.config.reader import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The Docker Engine of the node."""

    socket: str = setting("/var/run/docker.sock", "The engine's unix socket.", check=checks.path, restart=True)
    timeout_s: float = setting(20.0, "Deadline of one engine call, seconds.", least=1, most=300, restart=True)
    docker_config: str = setting(
        "",
        "Root-only docker config.json with the site's registry credentials; empty: none.",
        check=checks.path_or_empty,
    )
    runtime: str = setting(
        "", 'The engine\'s runtime for jobs, such as "crun"; empty: its default.', check=checks.runtime_or_empty
    )
    first_process: bool = setting(
        True,
        "Whether pbsdock's own first process starts the job in its container, which then stands ready beforehand;"
        " false: the engine starts it and passes on its output, which an engine that is restarted loses.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """What a container's processes may ask of the kernel."""

    seccomp: str = setting(
        "hpc",
        '"engine": the engine\'s own filter of system calls; "hpc": the same, but for NUMA memory policy and copying'
        " between one's own processes (numactl, UCX, Open MPI); or the path of a profile, root's own, as docker run"
        " --security-opt seccomp= takes it.",
        check=checks.seccomp,
        restart=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TorqueConfig:
    """The resource manager."""

    client_dir: str = setting(
        "",
        "Where pbs_track is; empty: the usual places, then beside pbs_mom's own program.",
        check=checks.path_or_empty,
        restart=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectiveConfig:
    """How scripts are read."""

    late: Literal["warn", "refuse"] = setting(
        "warn",
        "A #DOCKER line after the script's first command: warn (it is no directive, as with #PBS, and the job's stderr"
        " says so) or refuse.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesConfig:
    """Which images, and how they get here."""

    allow: tuple[str, ...] = setting(
        ("*",), "Patterns of REGISTRY/REPOSITORY[:TAG], or sha256:… digests, that may run.", check=checks.image_pattern
    )
    deny: tuple[str, ...] = setting((), "Patterns that may not, whatever `allow` says.", check=checks.image_pattern)
    require_digest: bool = setting(False, "Whether a directive must pin its image with @sha256:….")
    pull: Literal["never", "missing", "always"] = setting(
        "missing", "When to pull: never, missing or always. A directive may choose, but not against never."
    )
    user_logins: bool = setting(
        True, "Whether an image that the site's logins do not open is fetched with its user's ~/.docker/config.json."
    )
    wait_notice_s: float = setting(3.0, "A longer wait for an image (seconds) is told on the job's stderr.", least=0)
    inactivity_s: float = setting(60.0, "A pull without any progress for so many seconds is given up.", least=1)
    total_s: float = setting(270.0, "A pull is given up after so many seconds.", least=1)
    max_bytes: int = setting(
        0,
        "Largest image, by its size on disk; a pull is broken off where more has been fetched; 0: no limit.",
        least=0,
        size=True,
    )
    max_pulls: int = setting(
        4,
        "Images that this node pulls at once, of which one user has all but the last; others wait for their turn; 0:"
        " any number.",
        least=0,
        most=1000,
    )
    properties_file: str = setting(
        "",
        "Where the names of images that are here are written for a scheduler, in a directory of root's, as $varattr of"
        " mom reads them; empty: nowhere.",
        check=checks.path_or_empty,
    )
    high_water: float = setting(
        85.0,
        "Where more percent of the disk with the images are used, those that pbsdock pulled and no job needs are"
        " removed, the least recently used first; 100: never.",
        least=1,
        most=100,
    )
    low_water: float = setting(80.0, "Down to so many percent.", least=0, most=100)
    guard_free: int = setting(
        32 << 30,
        "Where less of that disk is free, the registry is asked before a pull how large the image is, and a pull that"
        " cannot fit is not begun; 0: never.",
        least=0,
        size=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """A registry as images name it, "docker.io" or "ghcr.io": where its images can be had else, and how often."""

    mirrors: tuple[str, ...] = setting(
        (),
        "Mirrors, HOST[:PORT][/PATH], to be asked in this order before it, with the site's login for the mirror's host;"
        " what they give out is taken by its digest, and named as the user did.",
        check=checks.mirror,
    )
    tags: Literal["origin", "mirror"] = setting(
        "origin",
        "Whose word counts for which digest a tag has: origin, the registry itself, without whose answer no mirror is"
        " asked; or mirror, that of the mirror.",
    )
    max_per_minute: int = setting(
        0, "Pulls that this node begins there in a minute; 0: any number.", least=0, most=100_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MountsConfig:
    """What of the host a container sees."""

    home: Literal["rw", "ro", "none"] = setting(
        "rw", "The job owner's home directory: rw, ro or none. It is open to --volume in the same way."
    )
    work_dir: Literal["own", "allowed", "none"] = setting(
        "own",
        "The directory of qsub is mounted: own, where `allow` covers it, or it belongs to the job's owner or to a group"
        " of theirs that may write to it; allowed, where `allow` covers it; none, never.",
        formerly={True: "own", False: "none"},
    )
    allow: tuple[str, ...] = setting(
        (),
        'Prefixes --volume may name, by path components; "PATH:ro" is read-only. The longest that fits counts.',
        check=checks.prefix,
    )
    deny: tuple[str, ...] = setting(
        (),
        "Prefixes closed to users' mounts although `allow` covers them; nor may what contains them be mounted.",
        check=checks.closed,
    )
    always: tuple[str, ...] = setting((), '"SOURCE:TARGET[:ro]" given to every container.', check=checks.site_mount)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Which networks."""

    default: str = setting("host", "The network of a job that names none.", check=checks.network)
    allow: tuple[str, ...] = setting(
        ("host", "none"), "The networks a directive may name, beside the default.", check=checks.network
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig:
    """The environment."""

    deny: tuple[str, ...] = setting(
        ("LD_*", "DOCKER_*", "PATH", "BASH_ENV", "ENV", "PYTHONHOME", "PYTHONPATH", "PERL5LIB", "PBSDOCK"),
        "Patterns of the job's variables that belong to the host and are not passed on.",
        check=checks.variable_pattern,
    )
    keep: tuple[str, ...] = setting(
        (),
        "Patterns of the job's variables that win over the image's own of the same name.",
        check=checks.variable_pattern,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Defaults and maxima. Sizes as in Torque ("8gb"); 0 means: none of its own."""

    default_memory: int = setting(0, "Memory of a job that asks for none; 0: all a job may have.", least=0, size=True)
    max_memory: int = setting(0, "Largest memory a job may have on a node; 0: the node's.", least=0, size=True)
    reserve_memory: int = setting(0, "Memory of the node that no single job may have.", least=0, size=True)
    swap: Literal["none", "as-vmem"] = setting("as-vmem", "Whether vmem above mem may be used as swap.")
    cpu: Literal["quota", "cpuset", "none"] = setting(
        "quota", "How ppn is enforced: quota (CPU time), cpuset (CPUs of its own; quota if too few are free) or none."
    )
    pids: int = setting(4096, "Processes and threads a job may have.", least=16, most=4194304)
    shm: int = setting(
        0, "Size of /dev/shm without --shm-size; 0: half the job's memory, as a host has it.", least=0, size=True
    )
    max_shm: int = setting(0, "Largest --shm-size; 0: the job's memory.", least=0, size=True)
    oom_score_adj: int = setting(500, "How readily the kernel kills a job's processes.", least=0, most=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupConfig:
    """Where the jobs' cgroups are."""

    parent: str = setting(
        "",
        "A delegated cgroup below which jobs go, such as /system.slice/pbs_mom.service; empty: the root. Needs"
        " version 2 and the driver cgroupfs.",
        check=checks.cgroup_or_empty,
        restart=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesConfig:
    """Devices."""

    allow: tuple[str, ...] = setting(
        (), "Device nodes every container gets, for example /dev/fuse.", check=checks.device
    )
    gpus: bool = setting(False, "Whether --gpus may be used by jobs that were granted GPUs.")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersConfig:
    """Who may use containers."""

    min_uid: int = setting(1000, "Smaller user ids are system users and refused.", least=1, most=2**32 - 2)
    deny: tuple[str, ...] = setting((), "Users who may not.")
    allow_groups: tuple[str, ...] = setting(
        (), "Only members of these may: a primary group's name, or any group's number; empty: everybody."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimConfig:
    """The docker command that jobs are given, by which they start containers of their own within what they have."""

    enabled: bool = setting(True, "Whether jobs have it.", restart=True)
    name: str = setting(
        "docker",
        "What it is called, for sites that give jobs another docker as well.",
        check=checks.command,
        restart=True,
    )
    root: Literal["map", "refuse"] = setting(
        "map", "docker run --user root: map, it runs as the job's owner and a line says so; or refuse."
    )
    networks: bool = setting(
        True,
        "Whether a job may make networks (docker network create) on which its containers find one another by name. They"
        " lead nowhere else unless [network] allow has bridge.",
    )
    most: int = setting(256, "Containers that a job may have at a time, its own left out.", least=1, most=1000)
    log_bytes: int = setting(
        64 << 20,
        "What of the output of a container that runs with --detach is kept for docker logs: so much at the least, and"
        " twice as much at most; the oldest goes first.",
        least=1 << 20,
        size=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractiveConfig:
    """Containers on demand, whatever the script says."""

    allow: bool = setting(True, "Whether qsub -v PBSDOCK='IMAGE options' starts a container, with -I or a script.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """The agent's socket."""

    max_connections: int = setting(
        1024, "Connections at a time; a user gets a quarter and 8.", least=32, most=65536, restart=True
    )
    request_timeout_s: float = setting(30.0, "A request must have arrived whole after so many seconds.", least=1)
    credentials_port: int = setting(
        97,
        "Loopback port where jobs on the host's network get sessions anew; no user can take it, nor Torque below"
        " 144; 0: none.",
        least=0,
        most=143,
        restart=True,
    )
    message_bytes: int = setting(4 << 20, "Largest request.", least=65536, most=64 << 20, size=True, restart=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesConfig:
    """Jobs on several nodes, whose agents sign what they tell each other."""

    sign_with: Literal["auto", "munge", "key"] = setting(
        "auto",
        "What all nodes sign with: munge; key, the file below; auto: munge where munged answers, else key where there"
        " is one.",
        restart=True,
    )
    key_file: str = setting(
        "",
        "The cluster's key, the same on all nodes and readable by root alone (pbsdock setup key); empty: cluster.key"
        " beside this file.",
        check=checks.path_or_empty,
        restart=True,
    )
    port: int = setting(
        15010,
        "TCP port on which the agent answers the other nodes' agents; 0: none.",
        least=0,
        most=65535,
        restart=True,
    )
    without_ticket: Literal["bare", "refuse"] = setting(
        "bare",
        "A task on another node than the job's first that brings no ticket, where the first gives no answer: bare, as"
        " without pbsdock, since it may be a job without a container; or refuse.",
    )
    pulls: bool = setting(
        True,
        "Whether root of another node may have images pulled here that anybody may run here (pbsdock images pull"
        " --on).",
    )
    mpi_defaults: bool = setting(
        True,
        "Whether jobs on several nodes get the variables by which Open MPI, MPICH and Intel MPI start their processes"
        " on all of them, where neither the job nor the image has set them.",
    )
    clock_skew_s: float = setting(
        900.0, "How far two nodes' clocks may be apart, seconds; older requests are refused.", least=1, most=86400
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrologueConfig:
    """The time mom grants."""

    alarm_s: float = setting(290.0, "When mom kills the prologue ($prologalarm less ten seconds).", least=20)
    margin_s: float = setting(15.0, "Seconds before that by which the prologue has answered.", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaperConfig:
    """The reaper."""

    period_s: float = setting(60.0, "Seconds between two passes.", least=1)
    grace_s: float = setting(120.0, "What is younger is never touched.", least=0)
    cap: int = setting(200, "Removals in one pass at most.", least=1, most=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsConfig:
    """The event stream."""

    file: str = setting(
        "",
        "The file of the stream; empty: events.jsonl in the instance's log directory.",
        check=checks.path_or_empty,
        restart=True,
    )
    journald: bool = setting(False, "Whether events go to the systemd journal as well.", restart=True)
    max_field: int = setting(4096, "Longest text of one field, characters.", least=64, most=1 << 20, restart=True)
    max_line: int = setting(32768, "Longest line, bytes.", least=1024, most=16 << 20, restart=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Metrics for Prometheus."""

    directory: str = setting(
        "auto",
        "The directory of node_exporter's textfile collector; nothing is written while it does not exist. auto:"
        " /var/lib/prometheus/node-exporter, but none for an instance below --root. Empty: none.",
        check=checks.path_auto_or_empty,
        restart=True,
    )
    interval_s: float = setting(15.0, "Seconds between two writings of that file.", least=1, most=3600)
    listen: str = setting(
        "",
        'Where metrics can be had by HTTP: "127.0.0.1:PORT", "[::1]:PORT" or a unix socket\'s path. Empty: nowhere.',
        check=checks.loopback_or_empty,
        restart=True,
    )
    socket_group: str = setting("", "The group that may connect to that unix socket; empty: root alone.", restart=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig:
    """What `pbsdock why` can tell of jobs that are over."""

    days: float = setting(14.0, "How long a job that is over is remembered, days; 0: not at all.", least=0, most=3660)
    max_bytes: int = setting(
        64 << 20,
        "Room for all of them; beyond it the oldest of the user who has most go first.",
        least=1 << 20,
        size=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """The node check."""

    hold_s: float = setting(60.0, "How long a node stays out of service for a fault nobody can probe.", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagingConfig:
    """Copying files from and to object stores."""

    patience_s: float = setting(
        60.0, "Staging is given up when nothing has gone on for so many seconds.", least=1, most=3600
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRules:
    """What of an object store jobs may ask for."""

    allow: tuple[str, ...] = setting(
        (),
        'What jobs may ask for: "BUCKET[/PREFIX][:ro|rw]" with * and ?, {user} and {group}; without a mode: rw.',
        check=checks.store_rule,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig(StoreRules):
    """An object store behind a Ceph RADOS gateway; NAME is what directives call it, and the first is the default."""

    endpoint: str = setting(
        "", "The gateway's address, as nodes and containers reach it.", check=checks.endpoint, restart=True
    )
    region: str = setting(
        "us-east-1", "The region in signatures: the zonegroup's API name.", check=checks.region, restart=True
    )
    path_style: bool = setting(
        True, "Whether the bucket is in the path; otherwise it is in the host's name.", restart=True
    )
    ca_bundle: str = setting(
        "",
        "Certificates (PEM) of the authority that signed the gateway's; empty: the host's own list.",
        check=checks.path_or_empty,
        restart=True,
    )
    kind: Literal["role", "key"] = setting(
        "role",
        "What a job gets: a session of a role of its own, or a key of a gateway user of its own.",
        restart=True,
    )
    identity: str = setting(
        "",
        "Root-only file with the node's own access_key and secret_key.",
        check=checks.path_or_empty,
        restart=True,
    )
    lifetime_s: float = setting(
        43200.0, "Longest session, seconds; a longer job's is refreshed.", least=60, most=43200, restart=True
    )
    grace_s: float = setting(
        600.0, "How long a session outlives the job's walltime, seconds.", least=0, most=43200, restart=True
    )
    skew_s: float = setting(300.0, "How far the gateway's clock may be off, seconds.", least=1, most=900, restart=True)
    timeout_s: float = setting(
        5.0, "Deadline of one question to the gateway, seconds.", least=0.1, most=60, restart=True
    )
    share: bool = setting(
        True,
        "Whether what jobs write is opened to the bucket's owner, by a statement in the bucket's policy.",
        restart=True,
    )
    parallel: int = setting(10, "Requests at a time while files are staged.", least=1, most=64, restart=True)
    probe: tuple[str, ...] = setting(
        (),
        "Two buckets for `pbsdock doctor s3`: it asks for the first and must be denied the second.",
        check=checks.bucket,
    )

    @property
    def identity_path(self) -> Path:
        """The identity's file."""
        return Path(self.identity)
