"""A real Ceph RADOS gateway of its own: one monitor, one OSD that keeps its objects in memory, one radosgw.

Plain processes in sessions of their own, everything below one directory, stopped by pid. ``python -m tests.support.rgw
DIR`` keeps one running with the users the demonstration needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

CAPS = {"role": "roles=*", "key": "users=*;user-policy=*;metadata=read"}
_STOP_S = 20.0
_START_S = 90.0


class Gateway:
    """One gateway. ``endpoint`` is plain HTTP; ``tls_endpoint`` and ``authority`` are there with *tls*."""

    def __init__(self, root: Path, *, tls: bool = False, memory_gib: int = 4) -> None:
        self.root = root
        self.tls = tls
        self.memory_gib = memory_gib
        self.port, self.tls_port, self.mon_port = free_port(), free_port(), free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.tls_endpoint = f"https://127.0.0.1:{self.tls_port}"
        self.authority = root / "gateway.pem"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> Gateway:
        """Start all three and wait until S3 is answered. Raises RuntimeError with the end of a log."""
        self.root.mkdir(parents=True, exist_ok=True)
        for name in ("mon", "osd", "log", "run"):
            (self.root / name).mkdir()
        if self.tls:
            self._certificate()
        fsid = str(uuid.uuid4())
        self._configure(fsid)
        self._tool("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{self.mon_port}]", "monmap")
        self._tool("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap")
        self._daemon("mon", "ceph-mon", "-i", "a")
        self._tool("ceph", "osd", "create")
        self._tool("ceph-osd", "-i", "0", "--mkfs")
        self._daemon("osd", "ceph-osd", "-i", "0")
        self._tool("ceph", "osd", "crush", "add", "0", "1", "host=h", "root=default")
        self.start_radosgw()
        return self

    def start_radosgw(self) -> None:
        """Start radosgw, also after :meth:`stop_radosgw`."""
        self._daemon("rgw", "radosgw", "-n", "client.rgw")
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if time.monotonic() > deadline or self.processes["rgw"].poll() is not None:
                raise RuntimeError(f"radosgw does not answer: {self._tail('rgw')}")
            time.sleep(0.05)

    def stop_radosgw(self) -> None:
        """End radosgw alone, in order: a killed one leaves watches behind for which the next one's writes wait 30 s."""
        process = self.processes.pop("rgw")
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """Let radosgw hang."""
        self.processes["rgw"].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.processes["rgw"].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End all of it."""
        for process in reversed(self.processes.values()):
            process.kill()
            process.wait()
        self.processes.clear()

    def admin(self, *arguments: str) -> Any:
        """What ``radosgw-admin`` prints, as JSON."""
        done = self._tool("radosgw-admin", *arguments)
        return json.loads(done) if done.strip() else None

    def user(self, uid: str, caps: str = "") -> tuple[str, str]:
        """Make a gateway user; returns its access and secret key."""
        limit = ["--max-buckets=-1"] if caps else []
        made = self.admin("user", "create", f"--uid={uid}", f"--display-name={uid}", *limit)
        if caps:
            self.admin("caps", "add", f"--uid={uid}", f"--caps={caps}")
        key = made["keys"][0]
        return key["access_key"], key["secret_key"]

    def identity(self, file: Path, uid: str, kind: str) -> Path:
        """Make a node's identity of that kind, as the storage admin's page says, and write its root-only file."""
        access, secret = self.user(uid, CAPS[kind])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(f'user = "{uid}"\naccess_key = "{access}"\nsecret_key = "{secret}"\n')
        return file

    def client(self, access: str, secret: str, token: str | None = None) -> Any:
        """A boto3 client."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            aws_session_token=token,
            verify=False,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"max_attempts": 1},
                connect_timeout=3,
                read_timeout=20,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    # -- parts --------------------------------------------------------------------------------------------------------

    def _configure(self, fsid: str) -> None:
        ways = ("ms", "ms client", "ms cluster", "ms service", "ms mon client", "ms mon cluster", "ms mon service")
        tls = f" ssl_endpoint=127.0.0.1:{self.tls_port} ssl_certificate={self.authority}" if self.tls else ""
        lines = [
            "[global]",
            f"fsid = {fsid}",
            f"mon host = [v2:127.0.0.1:{self.mon_port}]",
            *(f"auth {one} required = none" for one in ("cluster", "service", "client")),
            *(f"{one} mode = crc" for one in ways),  # without cephx there is no other
            "public network = 127.0.0.0/8",
            "mon allow pool size one = true",
            "osd pool default size = 1",
            "osd pool default min size = 1",
            "osd pool default pg num = 8",
            "osd crush chooseleaf type = 0",
            f"run dir = {self.root}/run",
            f"log file = {self.root}/log/$name.log",
            f"admin socket = {self.root}/run/$name.asok",
            f"pid file = {self.root}/run/$name.pid",
            f"mon data = {self.root}/mon",
            f"osd data = {self.root}/osd",
            "osd objectstore = memstore",
            f"memstore device bytes = {self.memory_gib << 30}",
            f"rgw frontends = beast endpoint=127.0.0.1:{self.port}{tls}",
            "rgw s3 auth use sts = true",
            f"rgw sts key = {secrets.token_hex(8)}",
            "rgw sts min session duration = 60",
            # What is overwritten or deleted gives its memory back at once, not in two hours.
            "rgw gc obj min wait = 1",
            "rgw gc processor period = 2",
            "rgw gc processor max time = 2",
        ]
        (self.root / "ceph.conf").write_text("\n".join(lines) + "\n")

    def _certificate(self) -> None:
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=127.0.0.1",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
            ],
            cwd=self.root,
            check=True,
            capture_output=True,
        )
        self.authority.write_text((self.root / "cert.pem").read_text() + (self.root / "key.pem").read_text())

    def _tool(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [program, *(() if program == "monmaptool" else ("-c", str(self.root / "ceph.conf"))), *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=_START_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stderr[-500:]}")
        return done.stdout

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        with open(self.root / "log" / f"{name}.out", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [program, "-c", str(self.root / "ceph.conf"), *arguments, "-f"],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=3):
                return True
        except OSError:
            return False

    def _tail(self, name: str) -> str:
        return (self.root / "log" / f"{name}.out").read_text(errors="replace")[-800:]


def main(argv: list[str]) -> int:
    """Run one in the foreground; prints shell assignments once it answers."""
    os.umask(0o077)
    gateway = Gateway(Path(argv[0])).start()
    try:
        keys = {name: gateway.user(name) for name in ("alice", "bob")}
        identity = gateway.identity(gateway.root / "identity.toml", "pbsdock-node", "role")
        print(f"endpoint={gateway.endpoint}\nidentity={identity}")
        for name, (access, secret) in keys.items():
            print(f"{name}_access={access}\n{name}_secret={secret}")
        print("ready=yes", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    finally:
        gateway.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
