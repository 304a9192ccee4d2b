"""Docker's container-create body from a :class:`pbsdock.engine.base.ContainerSpec`. Pure.

Every field of Docker's HostConfig is decided here, also those left at the engine's default: a field of a newer engine
that is in neither table makes a test fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pbsdock.core.plan import Limits, Tmpfs
from pbsdock.engine.base import BindMount, ContainerSpec, Rlimits

# Set below.
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
        "Runtime",
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
# runc before the job starts (observed: seccomp setup out of memory); pbsdock.engine.spec.command sets those.
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

_HOSTNAME_LIMIT = 64  # characters, of the kernel (HOST_NAME_MAX)


def create_body(spec: ContainerSpec, seccomp: str = "") -> dict[str, Any]:
    """The whole body of ``POST /containers/create``; *seccomp* is a profile in JSON, "" for the engine's own."""
    body = {
        "Hostname": spec.hostname[:_HOSTNAME_LIMIT],
        "Image": spec.image_id,
        "Cmd": [*spec.argv],
        "Entrypoint": [*spec.entrypoint],
        "Env": [*spec.environment],
        "User": f"{spec.uid}:{spec.gid}",
        "WorkingDir": spec.workdir,
        "Tty": spec.tty,
        "OpenStdin": spec.has_streams,
        "StdinOnce": spec.has_streams,
        "AttachStdin": spec.has_streams,
        "AttachStdout": spec.has_streams,
        "AttachStderr": spec.has_streams,
        "Labels": dict(spec.labels),
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "HostConfig": host_config(spec, seccomp),
    }
    if spec.network_aliases:
        body["NetworkingConfig"] = {"EndpointsConfig": {spec.network: {"Aliases": [*spec.network_aliases]}}}
    return body


def host_config(spec: ContainerSpec, seccomp: str = "") -> dict[str, Any]:
    """Docker's HostConfig: exactly the fields of :data:`SET`."""
    limits = spec.limits
    return {
        "Mounts": [_bind(mount) for mount in spec.mounts],
        "Tmpfs": {tmpfs.target: _tmpfs(tmpfs) for tmpfs in spec.tmpfs},
        "NetworkMode": spec.network,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "LogConfig": {"Type": "none", "Config": {}},
        "Privileged": False,
        "CapAdd": [],
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", *([f"seccomp={seccomp}"] if seccomp else [])],
        "GroupAdd": [str(gid) for gid in spec.groups],
        "CgroupParent": spec.cgroup_parent,
        "PidMode": "",
        "IpcMode": "private",
        "UTSMode": "",
        "UsernsMode": "",
        "CgroupnsMode": "private",
        "ShmSize": limits.shm_bytes,
        "Runtime": spec.runtime,
        "ReadonlyRootfs": spec.read_only_root,
        # The job's shell is the container's first process: the kernel then lets TERM pass by it (pid_namespaces(7)),
        # so the script's own trap runs, which an init that dies of the signal would cut short.
        "Init": False,
        "OomScoreAdj": spec.oom_score_adj,
        "OomKillDisable": False,
        "Ulimits": _ulimits(spec.rlimits),
        **limit_fields(limits),
        "Devices": [
            {"PathOnHost": device.path, "PathInContainer": device.path, "CgroupPermissions": device.permissions}
            for device in spec.devices
        ],
        "DeviceRequests": _gpus(spec.gpus),
        "Sysctls": dict(spec.sysctls),
    }


def limit_fields(limits: Limits) -> dict[str, Any]:
    """The fields that can also be changed of a container that is there: 0 and "" then leave them as they are."""
    return {
        "PidsLimit": limits.pids,
        "Memory": limits.memory_bytes or 0,
        "MemorySwap": limits.memory_swap_bytes or 0,
        "CpuPeriod": 100_000 if limits.cpu_millis else 0,
        "CpuQuota": limits.cpu_millis * 100 if limits.cpu_millis else 0,
        "CpusetCpus": limits.cpuset or "",
    }


def _bind(mount: BindMount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rslave" if mount.follows else "rprivate"},
    }


def _tmpfs(tmpfs: Tmpfs) -> str:
    options = "rw,nosuid,nodev,mode=1777"
    return options if tmpfs.size_bytes is None else f"{options},size={tmpfs.size_bytes}"


def _ulimits(rlimits: Rlimits) -> list[dict[str, Any]]:
    return [
        {"Name": name, "Soft": rlimits[kernel_name][0], "Hard": rlimits[kernel_name][1]}
        for name, kernel_name in ULIMITS.items()
        if kernel_name in rlimits
    ]


def _gpus(gpus: Sequence[str]) -> list[dict[str, Any]]:
    if not gpus:
        return []
    return [{"Driver": "nvidia", "DeviceIDs": list(gpus), "Capabilities": [["gpu"]]}]
