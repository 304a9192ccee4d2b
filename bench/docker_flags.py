"""The ``docker run`` flags that give a container what a job's container had, so that both are asked for the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def flags(container: Mapping[str, Any], keep: Path, cgroup_parent: str) -> list[str]:
    """Flags from ``docker inspect`` of a job's container. Files that go with the job are copied to *keep*."""
    config, host = container["Config"], container["HostConfig"]
    found = ["--user", config["User"], "--workdir", config["WorkingDir"], "--stop-signal", config["StopSignal"]]
    found += ["--no-healthcheck", "--network", host["NetworkMode"], "--log-driver", host["LogConfig"]["Type"]]
    found += ["--ipc", host["IpcMode"], "--shm-size", str(host["ShmSize"]), "--pids-limit", str(host["PidsLimit"])]
    found += ["--oom-score-adj", str(host["OomScoreAdj"]), "--cgroup-parent", cgroup_parent]
    for flag, values in (
        ("--cap-drop", host["CapDrop"]),
        ("--security-opt", [_security(option, keep) for option in host["SecurityOpt"]]),
        ("--group-add", host["GroupAdd"]),
        ("--env", config["Env"]),
        ("--label", [f"{key}={value}" for key, value in config["Labels"].items()]),
        ("--ulimit", [f"{one['Name']}={one['Soft']}:{one['Hard']}" for one in host["Ulimits"]]),
        ("--tmpfs", [f"{target}:{options}" for target, options in (host.get("Tmpfs") or {}).items()]),
        ("--mount", [_mount(one, keep) for one in host["Mounts"]]),
    ):
        for value in values or ():
            found += [flag, value]
    return found


def _security(option: str, keep: Path) -> str:
    """As the command line takes it: a seccomp profile by the name of a file."""
    name, _, profile = option.partition("=")
    if name != "seccomp" or not profile.startswith("{"):
        return option
    (keep / "seccomp.json").write_text(profile)
    return f"seccomp={keep / 'seccomp.json'}"


def _mount(mount: Mapping[str, Any], keep: Path) -> str:
    source = Path(mount["Source"])
    if "/pins/" in mount["Source"]:  # which was there only while the container started; the host's path is the same
        source = Path(mount["Target"])
    if source.is_file():
        copy = keep / f"{source.name}.copy"
        shutil.copy2(source, copy)
        copy.chmod(0o755)
        source = copy
    elif "/run/pbsdock/work/" in mount["Source"]:  # likewise
        source = keep / f"{source.name}.copy"
        source.mkdir(exist_ok=True)
    text = f"type=bind,source={source},target={mount['Target']},bind-propagation=rprivate"
    return text + (",readonly" if mount.get("ReadOnly") else "")
