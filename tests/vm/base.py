"""The machines' kernels and roots, kept between runs. `python -m tests.vm.base` builds them beforehand."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SUITES = ("bookworm", "trixie")  # Debian's code names: Debian 12 with Docker 20.10, Debian 13 with Docker 26.1
CACHE = Path(os.environ.get("PBSDOCK_VM_CACHE", "/var/cache/pbsdock-vm"))


class BuildError(Exception):
    """There is no machine to test in; the text has the end of what the builder said."""


def run_builder(*command: str, doing: str) -> None:
    """Run a builder. Raises BuildError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(
            f"there is no virtual machine to test in: {doing} failed:\n{(done.stdout + done.stderr)[-3000:]}"
        )


def built(suite: str) -> Path:
    """The directory of kernel and root, built anew when what they are made from changes; older ones go. Raises BuildError."""
    run_builder("sh", str(ROOT / "tests/setup.sh"), "vm", doing="installing QEMU and the tools that build a machine")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:  # one builder at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        base = CACHE / f"base-{suite}-{_digest()}"
        if not (base / "root.ext4").exists():
            for old in CACHE.glob(f"base-{suite}-*"):
                shutil.rmtree(old)
            run_builder("bash", str(HERE / "build.sh"), suite, str(base), doing="building its kernel and root")
    return base


def _digest() -> str:
    digest = hashlib.sha256()
    for path in (
        HERE / "build.sh",
        HERE / "kernel.sh",
        *sorted(one for one in (HERE / "guest").rglob("*") if one.is_file()),
    ):
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    # Of this host's own suite: a newer kernel of another one is taken when it is built for another reason.
    kernel = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, check=False
    ).stdout
    return hashlib.sha256(digest.digest() + kernel).hexdigest()[:16]


if __name__ == "__main__":
    try:
        for name in SUITES if os.environ.get("PBSDOCK_VM") else SUITES[:1]:
            built(name)
    except BuildError as error:
        sys.exit(str(error))
