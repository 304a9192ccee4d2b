"""The container's whole configuration from plan, image and the four things of the run hook. Pure.

Every field of Docker's HostConfig is decided here, also those left at the engine's default: ``UNDECIDED`` fields of a
newer engine make a test fail.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pbsdock.core.facts import Bound
from pbsdock.core.pathrules import below
from pbsdock.core.plan import Plan
from pbsdock.s3.environment import FOREIGN, variables

# Set below from the plan.
SET = frozenset(
    {
        "Mounts",
        "NetworkMode",
        "RestartPolicy",
        "AutoRemove",
        "LogConfig",
        "CapDrop",
        "CapAdd",
        "SecurityOpt",
        "GroupAdd",
        "CgroupParent",
        "ShmSize",
        "Tmpfs",
        "ReadonlyRootfs",
        "Init",
        "OomScoreAdj",
        "Ulimits",
        "PidsLimit",
        "Memory",
        "MemorySwap",
        "CpuPeriod",
        "CpuQuota",
        "CpusetCpus",
        "Privileged",
        "PidMode",
        "IpcMode",
        "UTSMode",
        "UsernsMode",
        "Devices",
        "DeviceRequests",
        "OomKillDisable",
        "CgroupnsMode",
        "Sysctls",
    }
)
# Left to the engine on purpose: each default was looked at and gives the user nothing.
DEFAULTED = frozenset(
    {
        "Binds",
        "ContainerIDFile",
        "PortBindings",
        "VolumeDriver",
        "VolumesFrom",
        "ConsoleSize",
        "Dns",
        "DnsOptions",
        "DnsSearch",
        "ExtraHosts",
        "Cgroup",
        "Links",
        "PublishAllPorts",
        "Runtime",
        "Isolation",
        "CpuShares",
        "NanoCpus",
        "BlkioWeight",
        "BlkioWeightDevice",
        "BlkioDeviceReadBps",
        "BlkioDeviceWriteBps",
        "BlkioDeviceReadIOps",
        "BlkioDeviceWriteIOps",
        "CpuRealtimePeriod",
        "CpuRealtimeRuntime",
        "CpusetMems",
        "DeviceCgroupRules",
        "KernelMemory",
        "KernelMemoryTCP",
        "MemoryReservation",
        "MemorySwappiness",
        "CpuCount",
        "CpuPercent",
        "IOMaximumIOps",
        "IOMaximumBandwidth",
        "MaskedPaths",
        "ReadonlyPaths",
        "StorageOpt",
        "Annotations",
        "Capabilities",
    }
)

# Docker's ulimit name -> the kernel's in /proc/PID/limits (proc(5)). Memory limits are not here: they would strangle
# runc before the job starts (observed: seccomp setup out of memory), so the job's own shell sets them (see `command`).
ULIMITS = {
    "cpu": "Max cpu time",
    "fsize": "Max file size",
    "stack": "Max stack size",
    "core": "Max core file size",
    "rss": "Max resident set",
    "nproc": "Max processes",
    "nofile": "Max open files",
    "memlock": "Max locked memory",
    "locks": "Max file locks",
    "sigpending": "Max pending signals",
    "msgqueue": "Max msgqueue size",
    "nice": "Max nice priority",
    "rtprio": "Max realtime priority",
    "rttime": "Max realtime timeout",
}
SHELL_LIMITS = {"v": "Max address space", "d": "Max data size"}

Rlimits = Mapping[str, tuple[int, int]]  # the kernel's name -> soft, hard; -1 is unlimited


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What the run hook asks for: believed, because it can only hurt the user's own job."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cwd: str
    umask: int
    tty: bool
    interpreter: str = ""  # what the script's #! line names; "" for none, or a task
    shell_chosen: bool = True  # False: the login shell that is taken where the job names none
    shell_option: str = ""  # by which a job chooses its shell, for a sentence


def parse_limits(text: str) -> dict[str, tuple[int, int]]:
    """Parse /proc/PID/limits (proc(5)); -1 is unlimited."""
    limits = {}
    for line in text.splitlines()[1:]:
        name, fields = line[:25].strip(), line[25:].split()
        soft, hard = (-1 if one == "unlimited" else int(one) for one in fields[:2])
        limits[name] = (soft, hard)
    return limits


def environment(plan: Plan, call: Call) -> list[str]:
    """The job's variables less the denied ones, then the directive's own; the engine adds the image's below them."""
    job = dict(call.environment)
    store = variables(plan)
    foreign = FOREIGN if store else frozenset()
    chosen = {
        name: value for name, value in job.items() if name not in foreign and not _denied(name, plan.environment_deny)
    }
    chosen |= store
    for name, own in plan.environment:
        if own is not None:
            chosen[name] = own
        elif name in job:
            chosen[name] = job[name]
    return [f"{name}={value}" for name, value in chosen.items()]


def _denied(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, one) for one in patterns)


def command(call: Call, rlimits: Rlimits, image: str) -> list[str]:
    """The job's argv behind a shell line that sets what the engine cannot: umask and memory rlimits.

    runc starts every process with umask 0022 (libcontainer) and the Engine API has no field for it.
    """
    program = call.argv[0]
    lines = [f"umask {call.umask & 0o777:04o}"]
    for letter, kernel_name in SHELL_LIMITS.items():
        soft, hard = rlimits.get(kernel_name, (-1, -1))
        # Soft first: a hard limit below the soft one is refused (setrlimit(2)).
        if soft != -1:
            lines.append(f"ulimit -S{letter} {soft // 1024} 2>/dev/null")
        if hard != -1:
            lines.append(f"ulimit -H{letter} {hard // 1024} 2>/dev/null")
    if call.interpreter:
        said = f"pbsdock: image '{image}' has no {call.interpreter}, which the script's first line names"
        lines.append(f"[ -x {shlex.quote(call.interpreter)} ] || echo {shlex.quote(said)} >&2")
    if "/" in program:
        lines.append(f'[ -x "$0" ] || {_missing_program(image, call)}')
    lines.append('exec "$0" "$@"')
    return ["/bin/sh", "-c", "; ".join(lines), *call.argv]


def _missing_program(image: str, call: Call) -> str:
    if not call.shell_chosen:
        return 'exec /bin/sh "$@"'
    quoted = image.replace("'", "")
    hint = f"; choose a shell it has with {call.shell_option}" if len(call.argv) == 1 else ""
    return f"{{ echo \"pbsdock: image '{quoted}' has no $0{hint}\" >&2; exit 125; }}"


def ulimits(rlimits: Rlimits) -> list[dict[str, Any]]:
    """Docker's ``Ulimits`` from the limits the kernel shows for the run hook."""
    return [
        {"Name": name, "Soft": rlimits[kernel_name][0], "Hard": rlimits[kernel_name][1]}
        for name, kernel_name in ULIMITS.items()
        if kernel_name in rlimits
    ]


def working_directory(plan: Plan, call: Call, bound: Sequence[Bound]) -> str:
    """The directive's, else the run hook's own if the container has it, else the root."""
    if plan.workdir:
        return plan.workdir
    plain = call.cwd.startswith("/") and ".." not in call.cwd.split("/")
    return call.cwd if plain and any(below(call.cwd, one.target) for one in bound) else "/"


def config(
    plan: Plan,
    call: Call,
    *,
    image_id: str,
    bound: Sequence[Bound],
    own_files: Sequence[tuple[str, str]],
    cgroup_parent: str,
    labels: Mapping[str, str],
    rlimits: Rlimits,
    wrapped: bool = True,
) -> dict[str, Any]:
    """Docker's container-create body. *own_files* are (root-made source, target), always read-only."""
    argv = command(call, rlimits, plan.image) if wrapped else list(call.argv)
    return {
        "Image": image_id,
        "Cmd": argv,
        "Entrypoint": [plan.entrypoint] if plan.entrypoint else [],
        "Env": environment(plan, call),
        "User": f"{plan.uid}:{plan.gid}",
        "WorkingDir": working_directory(plan, call, bound),
        "Tty": call.tty,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Labels": dict(labels),
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "HostConfig": host_config(plan, bound, own_files, cgroup_parent, rlimits),
    }


def host_config(
    plan: Plan, bound: Sequence[Bound], own_files: Sequence[tuple[str, str]], cgroup_parent: str, rlimits: Rlimits
) -> dict[str, Any]:
    """Docker's HostConfig, from the plan alone."""
    mounts = [_bind(one.pin or one.source, one.target, read_only=one.read_only) for one in bound]
    mounts += [_bind(source, target, read_only=True) for source, target in own_files]
    limits = plan.limits
    return {
        "Mounts": mounts,
        "Tmpfs": {one.target: _tmpfs(one.size_bytes) for one in plan.tmpfs},
        "NetworkMode": plan.network,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "LogConfig": {"Type": "none", "Config": {}},
        "Privileged": False,
        "CapAdd": [],
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "GroupAdd": [str(one) for one in plan.groups],
        "CgroupParent": cgroup_parent,
        "PidMode": "",
        "IpcMode": "private",
        "UTSMode": "",
        "UsernsMode": "",
        "CgroupnsMode": "private",
        "ShmSize": limits.shm_bytes,
        "ReadonlyRootfs": plan.read_only_root,
        # The job's shell is the container's first process: the kernel then lets TERM pass by it (pid_namespaces(7)),
        # so the script's own trap runs, which an init that dies of the signal would cut short.
        "Init": False,
        "OomScoreAdj": plan.oom_score_adj,
        "OomKillDisable": False,
        "Ulimits": ulimits(rlimits),
        "PidsLimit": limits.pids,
        "Memory": limits.memory_bytes or 0,
        "MemorySwap": limits.memory_swap_bytes or 0,
        "CpuPeriod": 100_000 if limits.cpu_millis else 0,
        "CpuQuota": limits.cpu_millis * 100 if limits.cpu_millis else 0,
        "CpusetCpus": limits.cpuset or "",
        "Devices": [
            {"PathOnHost": one.path, "PathInContainer": one.path, "CgroupPermissions": one.permissions}
            for one in plan.devices
        ],
        "DeviceRequests": _gpus(plan.gpus),
        # Else the engine opens them all in a namespace of the container's own, and masquerading keeps them low on the
        # way out: pbs_mom takes whoever speaks from a port below 1024 for root.
        "Sysctls": {} if plan.network == "host" else {"net.ipv4.ip_unprivileged_port_start": "1024"},
    }


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _tmpfs(size: int | None) -> str:
    options = "rw,nosuid,nodev,mode=1777"
    return options if size is None else f"{options},size={size}"


def _gpus(gpus: Sequence[str]) -> list[dict[str, Any]]:
    if not gpus:
        return []
    return [{"Driver": "nvidia", "DeviceIDs": list(gpus), "Capabilities": [["gpu"]]}]


def passwd(plan: Plan, shell: str) -> str:
    """A passwd file in which root, nobody and the job's user have names."""
    lines = ["root:x:0:0:root:/root:/bin/sh", "nobody:x:65534:65534:nobody:/nonexistent:/bin/false"]
    lines.append(f"{plan.user}:x:{plan.uid}:{plan.gid}:{plan.user}:{plan.home}:{shell}")
    return "\n".join(lines) + "\n"


def group(plan: Plan, names: Mapping[int, str]) -> str:
    """A group file for the user's own groups; *names* is gid -> name as the host knows them."""
    lines = ["root:x:0:", "nogroup:x:65534:"]
    for gid in dict.fromkeys((plan.gid, *plan.groups)):
        if gid in (0, 65534):
            continue
        member = "" if gid == plan.gid else plan.user
        lines.append(f"{names.get(gid, f'g{gid}')}:x:{gid}:{member}")
    return "\n".join(lines) + "\n"
