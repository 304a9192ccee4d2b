"""The version before: an earlier commit of this repository, as it was, to upgrade from and to go back to.

Nothing has been released yet. The commit is the last one before the run hook became a program in C, and before sisters mark
every job that they are told of and agents can be drained: hooks, agents and ledger have changed most since then.
tests/unit/previous_version.json has what it wrote and said, for clones that do not have the commit.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pbsdock.admin.setup.versions import Version
from pbsdock.core.paths import Paths
from pbsdock.trial.cluster import Cluster
from pbsdock.trial.namespaces import EmulatedNode
from tests.conftest import ROOT, Instance
from tests.support import quick_setup
from tests.support.cluster import SisterInstance

COMMIT = "a3ff16ded11ed62c8c673bf77c5a83a8a2421491"
_GIT = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]  # whoever owns the clone


def is_known() -> bool:
    """Whether this clone has the commit: a shallow one has not."""
    try:
        return subprocess.run([*_GIT, "cat-file", "-e", COMMIT], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def checkout(made: Path) -> Path:
    """The previous version's files, in the empty directory *made*."""
    archive = subprocess.run([*_GIT, "archive", COMMIT], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(made)], input=archive, check=True)
    return made


_ENSURE = "import sys; sys.path.insert(0, sys.argv.pop(1))\nfrom pbsdock.hook.client import hook\nhook()"


def ensuring(home: Path, run_dir: Path) -> list[str]:
    """The command that starts the agent of the version in *home* as a hook does, and waits until it answers."""
    (library,) = home.glob("venv/lib/python3*/site-packages")
    command = [str(home / "venv/bin/python3"), "-I", "-S", "-c", _ENSURE, str(library)]
    return [*command, "--paths", str(home / "paths.json"), "--run-dir", str(run_dir), "ensure-agent"]


class TwoVersions(Instance):
    """An instance with both versions installed, the previous one in force; :meth:`exchange` is upgrade and rollback."""

    def install(self, checkout: Path, packages: Path) -> None:
        """By *checkout*'s own installer; *packages* is an installed version whose packages are copied."""
        command = [*quick_setup.command(checkout, packages), "--mom-priv", str(self.mom_priv), "--root", str(self.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def exchange(self) -> Path:
        """Put the other version in force; returns its directory."""
        done = self.command("setup", "rollback")
        assert done.returncode == 0, done.stderr
        return self.home

    def start_agent(self) -> None:
        """Start that of the version in force, if there is none."""
        subprocess.run(ensuring(self.home, self.run_dir), check=True, capture_output=True)


class OwnProgram(Cluster):
    """Emulated nodes that have versions of their own, each the mother's as they are when it comes up."""

    def _plan(self, node: EmulatedNode, requests: int, mother: str) -> dict[str, object]:
        plan: dict[str, Any] = super()._plan(node, requests, mother)
        prefix = self.paths.home.parent.parent
        own = self.directory / f"{node.number}" / "prefix"
        shutil.copytree(prefix, own, symlinks=True)
        for version in map(Version, (own / "versions").iterdir()):
            places = version.home / "paths.json"
            text = json.dumps({**json.loads(places.read_text()), "instance": f"{self.paths.instance}-{node.number}"})
            places.write_text(text)
            record = version.record
            version.finish(record["identity"], record["version"], list(record["files"]))
        plan["binds"].append((str(own), str(prefix)))
        return plan


class OwnSister(SisterInstance):
    """The instance of a node of :class:`OwnProgram`."""

    def __init__(self, mother: Instance, paths: Paths, emulated: EmulatedNode) -> None:
        super().__init__(mother, paths, emulated)
        self.prefix = paths.home.parent.parent

    @property
    def home(self) -> Path:
        """The version in force there."""
        return self.prefix / self.emulated.path(self.prefix / "current").readlink()

    def exchange(self) -> Path:
        """As :meth:`TwoVersions.exchange`."""
        done = self.command("setup", "rollback")
        assert done.returncode == 0, done.stderr
        return self.home

    def start_agent(self) -> None:
        """As :meth:`TwoVersions.start_agent`."""
        done = self.emulated.run(ensuring(self.home, self.paths.run_dir))
        assert done.returncode == 0, done.stderr
