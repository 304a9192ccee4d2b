"""What is in the world, asked of the engine, the kernel, the gateway and the file system, never of pbsdock's ledger.

Two looks are compared. What is only in the second is leaked, what is only in the first was somebody's and is gone.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.engine import OwnEngine

# Files an instance has whether jobs are there or not.
_STANDING = re.compile(
    r".*/(agent\.(pid|sock|lock)|start\.lock|stores|attempts\.json|trial\.seq|events\.jsonl|unhealthy)$|.*/__pycache__(/.*)?$"
    r"|.*/lib/pbsdock/history(/[0-9]+(/[^/.][^/]*\.json)?)?$"  # what is remembered of jobs, whole
)


@dataclass(frozen=True)
class World:
    """Where to look: these trees, cgroup names, users and this engine are ours to know; the rest is other people's."""

    engine: OwnEngine
    trees: Sequence[Path]
    cgroups: Sequence[str]
    users: Sequence[int]
    gateway: Callable[[], list[str]] = list

    def look(self) -> frozenset[str]:
        """Everything, one word each."""
        found: set[str] = set()
        for kind in (
            self._engine,
            self._cgroups,
            self._processes,
            self._mounts,
            self._files,
            self._unfinished,
            self._gateway,
        ):
            found.update(kind())
        return frozenset(found)

    def settled(self) -> frozenset[str]:
        """A look that is like the one a moment before: what is just coming or going, an agent's child say, is not in it."""
        before = self.look()
        for _ in range(60):
            time.sleep(0.5)
            if (now := self.look()) == before:
                return now
            before = now
        raise AssertionError("it never settled in 30 s")

    def _engine(self) -> Iterator[str]:
        listed = self.engine.ask("/containers/json?all=1")
        assert isinstance(listed, list)
        yield from (f"container {one['Id'][:12]} {one['Names'][0]}" for one in listed)
        volumes = self.engine.ask("/volumes")
        assert isinstance(volumes, dict)
        yield from (f"volume {one['Name']}" for one in volumes.get("Volumes") or [])
        networks = self.engine.ask("/networks")
        assert isinstance(networks, list)
        yield from (f"network {one['Name']}" for one in networks)

    def _cgroups(self) -> Iterator[str]:
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            for name in self.cgroups:
                top = hierarchy / name
                if not hierarchy.is_symlink() and top.is_dir():
                    yield from (f"cgroup {here}" for here, _, _ in os.walk(top) if here != str(top))

    def _processes(self) -> Iterator[str]:
        """By pid and start time: processes of the users, and those whose command line names one of the trees.

        Agents are left out, for they come and go; that there is one per instance and no more is counted.
        """
        agents: dict[str, int] = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                owner = os.stat(f"/proc/{entry}").st_uid
                line = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
                state, *_, start = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:20]
            except OSError:
                continue
            ours = next((str(one) for one in (*self.trees, self.engine.root / "exec") if str(one) in line), "")
            if "containerd-shim" not in line and ours == str(self.engine.root / "exec"):
                continue  # the engine itself
            if "pbsdock.staging.spawner" in line and owner == 0:
                continue  # comes and goes with its agent; what it forks is the user's
            if state == "Z" or (owner not in self.users and not ours):
                continue
            if "pbsdock.agent.daemon" in line:
                agents[ours] = agents.get(ours, 0) + 1
            else:
                yield f"process {entry}.{start} {' '.join(line.split(chr(0)))[:80]}"
        yield from (f"agents of {tree}: {count}" for tree, count in agents.items() if count > 2)

    def _mounts(self) -> Iterator[str]:
        engine = str(self.engine.root)
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            point = line.split()[4]
            if any(point.startswith(f"{one}/") for one in self.trees) and not point.startswith(engine):
                yield f"mount {point}"

    def _files(self) -> Iterator[str]:
        for tree in self.trees:
            for here, directories, files in os.walk(tree):
                if here in (f"{tree}/opt", f"{tree}/control"):
                    directories.clear()
                    continue
                for name in (*directories, *files):
                    if not _STANDING.match(path := f"{here}/{name}"):
                        yield f"file {path}"

    def _unfinished(self) -> Iterator[str]:
        """What is on its way into a user's directory."""
        for user in self.users:
            try:
                home = Path(pwd.getpwuid(user).pw_dir)
            except KeyError:
                continue
            yield from (f"unfinished {one}" for one in home.rglob(".pbsdock-*"))

    def _gateway(self) -> Iterator[str]:
        yield from (f"credential {one}" for one in self.gateway())


@dataclass
class Difference:
    """What changed between two looks."""

    leaked: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return json.dumps({"leaked": self.leaked, "touched": self.touched}, indent=1)

    def __bool__(self) -> bool:
        return bool(self.leaked or self.touched)


def compare(before: frozenset[str], after: frozenset[str]) -> Difference:
    """Sorted, so that a message reads well."""
    return Difference(sorted(after - before), sorted(before - after))


def open_files(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def zombies(pid: int) -> int:
    """How many of its children nobody has waited for."""
    said = subprocess.run(["ps", "-o", "stat=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return sum(1 for one in said.split() if one.startswith("Z"))
