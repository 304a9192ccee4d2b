"""A real munged of a test's own, with a key of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pbsdock.cluster.signing import MungeSigner

MUNGED = Path("/usr/sbin/munged")
needs_munge = pytest.mark.skipif(
    os.geteuid() != 0 or not MUNGED.exists(), reason="needs root and Debian's munge (tests/setup.sh)"
)


class Munged:
    """A munged in *directory*, which root alone must be able to write to; with the key *key*, or a new one."""

    def __init__(self, directory: Path, key: Path | None = None) -> None:
        directory.mkdir(mode=0o755)
        directory.chmod(0o755)
        self.socket, self.key = directory / "socket", key or directory / "key"
        if key is None:
            self.key.write_bytes(os.urandom(128))
            self.key.chmod(0o600)
        files = [f"--{name}-file={directory / name}" for name in ("pid", "log", "seed")]
        call = [MUNGED, "--foreground", "--force", f"--key-file={self.key}", f"--socket={self.socket}", *files]
        self._process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.signer = MungeSigner(str(self.socket))
        deadline = time.monotonic() + 10
        while not self.signer.answers():
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)

    def call(self, *words: str, payload: bytes = b"") -> bytes:
        """What a program of munge prints, such as ``munge --ttl=1``."""
        program, *options = words
        call = [program, f"--socket={self.socket}", *options]
        return subprocess.run(call, input=payload, capture_output=True, check=True).stdout


@contextmanager
def two_and_a_stranger(directory: Path) -> Iterator[tuple[Munged, Munged, Munged]]:
    """Two nodes of one cluster, and another's, below *directory*."""
    node = Munged(directory / "node")
    all_of_them = (node, Munged(directory / "other", node.key), Munged(directory / "stranger"))
    yield all_of_them
    for munged in all_of_them:
        munged.stop()
