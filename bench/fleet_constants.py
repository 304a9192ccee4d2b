"""Measure the constants of fleet.py: a registry, a gateway, ten jobs, and questions between agents. Root, a minute or two."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from instance import RUN, docker

from bench import scratch
from pbsdock.cluster.channel import Request, answer_line, request_line
from pbsdock.cluster.client import ask
from pbsdock.cluster.listener import Listener
from pbsdock.cluster.signing import KeySigner
from pbsdock.config.sections import StoreConfig
from pbsdock.core.plan import BucketGrant, Store
from pbsdock.stores.make import minter_of
from pbsdock.stores.rgw import Gateway as Client
from tests.conftest import wait_until
from tests.support.registry import registry
from tests.support.rgw import Gateway

_QUESTIONS = 120  # the listener takes 128 of one host at once
_TICKS = os.sysconf("SC_CLK_TCK")


def measure() -> Iterator[tuple[str, float]]:
    """Name and value of each constant, in the order in which they are measured."""
    yield from _questions()
    yield from _jobs()
    yield from _gateway()
    yield from _pulls()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _registry_pid(address: str) -> int:
    port = address.partition(":")[2]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and b"docker-registry" in (command := (entry / "cmdline").read_bytes()):
            config = Path(command.split(b"\0")[2].decode())
            if config.exists() and f":{port}'" in config.read_text():
                return int(entry.name)
    raise RuntimeError("the registry has no process")


def _pulls() -> Iterator[tuple[str, float]]:
    """An image of this host's programs, which are packed about as well as those of an image."""
    with registry() as shelf, tempfile.TemporaryDirectory(dir="/var/tmp") as work:
        name = f"{shelf}/fleet:{RUN}"
        archive = Path(work) / "image.tar"
        with archive.open("wb") as file:
            tar = subprocess.Popen(
                ["tar", "-C", "/", "-c", "usr/lib/x86_64-linux-gnu", "usr/bin"], stdout=subprocess.PIPE
            )
            assert tar.stdout is not None
            shutil.copyfileobj(tar.stdout, file)
            tar.wait()
        docker("import", str(archive), name)
        docker("push", "--quiet", name)
        digest = docker("image", "inspect", "--format", "{{(index .RepoDigests 0)}}", name).strip()
        data = Path(work)  # for the size: the manifest
        manifest = json.loads(_get(f"http://{shelf}/v2/fleet/manifests/{digest.partition('@')[2]}"))
        size = sum(layer["size"] for layer in manifest["layers"])
        blob = f"http://{shelf}/v2/fleet/blobs/{manifest['layers'][0]['digest']}"
        pid, seconds = _registry_pid(shelf), []
        try:
            for _ in range(3):
                docker("rmi", name)
                began = time.monotonic()
                docker("pull", "--quiet", name)
                seconds.append(time.monotonic() - began)
        finally:
            docker("rmi", name)
        yield "engine_bytes_s", round(size / statistics.median(seconds), -5)
        before = _cpu_s(pid)
        for _ in range(5):
            subprocess.run(["curl", "-s", "-o", "/dev/null", blob], check=True, cwd=data)
        yield "registry_core_bytes_s", round(5 * size / (_cpu_s(pid) - before), -6)
        yield "compressed_bytes_of_the_image", size


def _get(address: str) -> str:
    accept = "Accept: application/vnd.docker.distribution.manifest.v2+json"
    return subprocess.run(["curl", "-s", "-H", accept, address], check=True, capture_output=True, text=True).stdout


def _questions() -> Iterator[tuple[str, float]]:
    """One row of a job, as ``pbsdock ps --job`` and the end of a job of several nodes ask for it."""
    row = {
        "node": "node0001.cluster.example.org", "state": "running", "container": "c" * 64, "pids": 12,
        "memory_bytes": 123456789, "memory_peak_bytes": 123456789, "cpu_seconds": 1234.56, "tasks": 3,
        "io_read_bytes": 123456789, "io_write_bytes": 123456789, "uptime_s": 1234.5,
    }  # fmt: skip
    signer = KeySigner(b"k" * 32)
    server = Listener(signer, 0, "localhost", {"job": lambda _asked: row}, lambda *_told, **_fields: None)
    server.start()
    try:
        began = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(_QUESTIONS):
            ask(signer, "localhost", server.port, "job", "12.server", timeout_s=5.0, sender="node0002")
        ended = resource.getrusage(resource.RUSAGE_SELF)
    finally:
        server.stop()
    busy = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    yield "question_ms", round(busy / _QUESTIONS / 2 * 1000, 2)
    asked = Request(op="job", job="12.server", sender="node0002", to="node0001", at=time.time())
    yield "question_bytes", len(request_line(signer, asked)) + len(answer_line(signer, asked, row))


def _jobs() -> Iterator[tuple[str, float]]:
    """Ten jobs, and what is in the stream and in the text file afterwards."""
    with scratch() as site:
        textfiles = site.root / "textfiles"
        textfiles.mkdir()
        (site.root / "etc/pbsdock/pbsdock.toml").write_text(f"[metrics]\ndirectory = '{textfiles}'\ninterval_s = 1\n")
        site.stop_agents()
        for _ in range(11):
            site.hooks("true")
        wait_until("the metrics are written", lambda: any(textfiles.glob("*.prom")), 30)
        lines = (site.root / "var/log/pbsdock/events.jsonl").read_text().splitlines()
        told: dict[str, list[str]] = {}
        for line in lines:
            if job := json.loads(line).get("job"):
                told.setdefault(job, []).append(line)
        text = next(textfiles.glob("*.prom")).read_text()
        yield "job_events", statistics.median(map(len, told.values()))
        yield "event_bytes", round(statistics.mean(len(line) + 1 for lines in told.values() for line in lines))
        yield "scrape_bytes", len(text)
        yield "scrape_series", sum(bool(line) and not line.startswith("#") for line in text.splitlines())


def _gateway() -> Iterator[tuple[str, float]]:
    """Credentials as a job gets them, by the agent's own code, without a job."""
    root = Path(tempfile.mkdtemp(prefix="pbsdock-rgw.", dir="/var/tmp"))
    gateway = Gateway(root, memory_gib=4).start()
    try:
        client: Any = gateway.client(*gateway.user("bench"))
        client.create_bucket(Bucket="bench-in")
        identity = gateway.identity(root / "identity.toml", "pbsdock-node", "role")
        config = StoreConfig(endpoint=gateway.endpoint, identity=str(identity), allow=("bench-*",), share=False)
        minter = minter_of(Client("ceph", config), config, "bench@node", lambda *_: None)
        grant = (BucketGrant(bucket="bench-in", keys=("*",), read_only=True),)
        asked = Store(
            name="ceph", endpoint=gateway.endpoint, region=config.region, ca_file="", container=grant, staging=()
        )

        def mint(number: int) -> float:
            began = time.monotonic()
            minter.mint(f"pbsdock-fleet-{number}", f"{number}.s", asked, 3600)
            return time.monotonic() - began

        yield "mint_ms", round(statistics.median([mint(number) for number in range(20)]) * 1000, 1)
        began = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(mint, range(100, 420)))
        yield "mints_s", round(320 / (time.monotonic() - began), 1)
        seconds = []
        for _ in range(50):
            began = time.monotonic()
            minter.mine("bench@other")
            seconds.append(time.monotonic() - began)
        yield "list_ms", round(statistics.median(seconds) * 1000, 1)
    finally:
        gateway.stop()
        shutil.rmtree(root, ignore_errors=True)
