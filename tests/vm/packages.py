"""Two versions of the Debian package: that of the checkout, and a later one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.vm.base import ROOT


@dataclass(frozen=True, slots=True)
class Packages:
    """The package of the checkout, and a later version of it whose configuration has a line more."""

    now: Path
    later: Path


def build(directory: Path) -> Packages:
    """By ``deb/build.sh``, into *directory*; the later version is the same with another number and configuration."""
    done = subprocess.run(
        ["sh", "deb/build.sh", str(directory)],
        cwd=ROOT,
        env={**os.environ, "PBSDOCK_DEB_COMPRESSION": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "-R", done.stdout.strip(), str(tree)], check=True)
    source = tree / "usr/share/pbsdock/source"
    for file, pattern in (
        (tree / "DEBIAN/control", r"(?m)^(Version: .*)$"),
        (source / "setup.cfg", r"(?m)^(version = .*)$"),
    ):
        file.write_text(re.sub(pattern, r"\1.1", file.read_text()))
    with (source / "etc/pbsdock.toml").open("a") as file:
        file.write("# of the later version\n")
    later = directory / "later.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(later)], check=True)
    shutil.rmtree(tree)
    return Packages(Path(done.stdout.strip()), later)
