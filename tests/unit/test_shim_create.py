"""What the real client asks of an engine for a line of ``docker run`` is what the shim reads of the line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbsdock.shim.commands import Run
from pbsdock.shim.parse import parse
from tests.support.real_client import clients, made_up_engine, run_client
from tests.support.torque import WORDS

LINES = [
    "busybox",
    "busybox sh -c 'echo $1' --rm -- -e x",
    "-- busybox --rm",
    "-itd --rm busybox",
    "-it=false -i busybox",
    "--tty=F --interactive=1 busybox",
    "-e A=B -eC=D -e=E=F --env=G= --env H=a=b busybox",
    "-w/x -w /y busybox",
    "-u 1:2 --user=me:group busybox",
    "--entrypoint '' busybox x",
    "--entrypoint /bin/sh busybox -c x",
    "--entrypoint --rm busybox",
    "-m 64m busybox",
    "-m 1.5g --memory 512MiB busybox",
    "-m 2.25kb busybox",
    "-m '7 M' busybox",
    "--memory 100000000 busybox",
    "--cpus 1.5 busybox",
    "--cpus .25 busybox",
    "--cpus 2 busybox",
    "--cpuset-cpus 0-3,8 -c 512 --pids-limit 10 busybox",
    "--pids-limit -1 busybox",
    "--shm-size 1g busybox",
    "-v /a:/b -v /c:/d:ro --volume=/e:/f:rw busybox",
    "-v /a:/b:z,ro busybox",
    "--mount type=bind,source=/a,target=/b,readonly busybox",
    "--mount type=bind,src=/a,dst=/b,ro=false busybox",
    """--mount 'type=bind,"source=/a,b",destination=/c' busybox""",
    "--mount type=tmpfs,target=/m,tmpfs-size=1k busybox",
    "--mount type=tmpfs,target=/m busybox",
    "--read-only --init busybox",
    "-l a=b --label c --label d=e=f busybox",
    "-h host_1 busybox",
    "--name db busybox",
    "--stop-signal INT --stop-timeout 3 busybox",
    "--network none busybox",
    "--net host busybox",
    "--network container:db busybox",
    "--network name=job,alias=x busybox",
    "--network job --network-alias x --network-alias y busybox",
    "--gpus all busybox",
    "--gpus 2 busybox",
    "--gpus device=0 busybox",
    """--gpus '"device=0,1"' busybox""",
    "--gpus count=2,driver=nvidia busybox",
    "--restart no --log-driver none busybox",
]


@pytest.fixture(scope="module", params=clients() or [pytest.param("", marks=pytest.mark.skip(reason="no docker here"))])
def client(request: pytest.FixtureRequest) -> str:
    """Each real client of this machine."""
    return str(request.param)


@pytest.fixture(scope="module")
def asked() -> list[tuple[str, Any]]:
    """What the engine was asked."""
    return []


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, Any]]) -> Iterator[str]:
    """A made-up engine that makes any container."""
    answers = {"/containers/create": {"Id": "a" * 64, "Warnings": []}, "/info": {}}
    with made_up_engine(Path(tmp_path_factory.mktemp("engine")), answers, asked) as address:
        yield address


def _gpus(requests: list[dict[str, Any]] | None) -> str | None:
    if not requests:
        return None
    (request,) = requests
    if request["DeviceIDs"]:
        return f"device={','.join(request['DeviceIDs'])}"
    return "all" if request["Count"] == -1 else str(request["Count"])


def _real(body: dict[str, Any]) -> dict[str, Any]:
    """An engine's body in the terms of a Run; the client's own maps have no order."""
    limits = body["HostConfig"]
    modes = [bind.split(":") for bind in limits["Binds"] or ()]
    mounts = limits.get("Mounts") or []
    endpoints = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    return {
        "image": body["Image"],
        "argv": tuple(body["Cmd"] or ()),
        "entrypoint": None if body["Entrypoint"] is None else "".join(body["Entrypoint"]),
        "interactive": body["OpenStdin"],
        "tty": body["Tty"],
        "env": sorted(body["Env"] or ()),
        "workdir": body["WorkingDir"],
        "user": body["User"],
        "labels": body["Labels"],
        "hostname": body["Hostname"],
        "stop_signal": (body.get("StopSignal") or "").removeprefix("SIG"),
        "stop_timeout": body.get("StopTimeout"),
        "memory": limits["Memory"],
        "nano_cpus": limits["NanoCpus"],
        "cpuset": limits["CpusetCpus"],
        "cpu_shares": limits["CpuShares"],
        "pids": max(limits["PidsLimit"] or 0, 0),
        "shm_size": limits["ShmSize"],
        "read_only": limits["ReadonlyRootfs"],
        "network": limits["NetworkMode"],
        "aliases": tuple(alias for endpoint in endpoints.values() for alias in endpoint.get("Aliases") or ()),
        "gpus": _gpus(limits["DeviceRequests"]),
        "volumes": sorted((mode[0], mode[1], "ro" in "".join(mode[2:]).split(",")) for mode in modes)
        + [
            (mount["Source"], mount["Target"], mount.get("ReadOnly", False))
            for mount in mounts
            if mount["Type"] == "bind"
        ],
        "tmpfs": [
            (mount["Target"], (mount.get("TmpfsOptions") or {}).get("SizeBytes"))
            for mount in mounts
            if mount["Type"] == "tmpfs"
        ],
    }


def _mine(run: Run) -> dict[str, Any]:
    return {
        "image": run.image_text,
        "argv": run.argv,
        "entrypoint": run.entrypoint,
        "interactive": run.interactive,
        "tty": run.tty,
        "env": sorted(f"{name}={value}" for name, value in run.env),
        "workdir": run.workdir or "",
        "user": run.user or "",
        "labels": dict(run.labels),
        "hostname": run.hostname or "",
        "stop_signal": run.stop_signal or "",
        "stop_timeout": run.stop_timeout,
        "memory": run.memory or 0,
        "nano_cpus": (run.cpus or 0) * 10**6,
        "cpuset": run.cpuset or "",
        "cpu_shares": run.cpu_shares or 0,
        "pids": run.pids or 0,
        "shm_size": run.shm_size or 0,
        "read_only": run.read_only,
        "network": run.network or "default",
        "aliases": run.network_aliases,
        "gpus": run.gpus,
        "volumes": sorted((volume.source, volume.target, volume.read_only) for volume in run.volumes),
        "tmpfs": list(run.tmpfs),
    }


@pytest.mark.parametrize("line", LINES)
def test_the_same_is_asked_for(client: str, host: str, asked: list[tuple[str, Any]], line: str) -> None:
    """``docker create`` of the real client, which does without -d and --rm, against ``docker run`` here."""
    words = shlex.split(line)
    asked.clear()
    real_words = ["-it" if word == "-itd" else word for word in words]
    status, _, error = run_client(client, "create", *real_words, host=host)
    assert status == 0, error
    body = next(body for path, body in asked if path == "/containers/create")
    run = parse(["run", *words], WORDS)

    assert isinstance(run, Run)
    assert _mine(run) == {**_real(body), "network": (_real(body)["network"] or "default").replace("bridge", "default")}
