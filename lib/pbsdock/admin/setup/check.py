"""Everything that is wrong with an installation, or lacking beside it, a sentence each."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from pbsdock.admin.setup import agent, build, first_process, mom_config, services, slurm_config, spank
from pbsdock.admin.setup.files import read, weak_spots
from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.render import is_ours
from pbsdock.admin.setup.versions import Version, Versions


def check(places: Places, say: Callable[[str], None]) -> int:
    """Print the versions and all problems; returns the exit code."""
    versions = Versions(places.prefix)
    current, previous = versions.current(), versions.previous()
    told = list(dict.fromkeys(wrong(places)))
    if current is not None:
        before = f"the previous one is {previous.name}" if previous else "there is no previous one"
        say(f"version {current.name} is in force; {before}")
        for version in versions.all():
            if version not in (current, previous):
                say(f"version {version.name} stays until the next installation, or as long as processes run from it")
    for line in told:
        say(f"wrong: {line}")
    if current is not None and not told:
        for line in _lacking(current):
            say(f"note: {line}")
    if places.slurm_conf is not None and (line := spank.told(places, current)):
        say(f"note: {line}")
    if not told:
        say(f"pbsdock is installed correctly in {places.where}")
    return 1 if told else 0


def wrong(places: Places, *, hurry: bool = False) -> Iterator[str]:
    """A sentence for each problem. In a *hurry* the slow checks run only if the others found nothing."""
    versions = Versions(places.prefix)
    current = versions.current()
    if current is None:
        yield f"{versions.link} names no version; run install.sh again"
    found = False
    for line in _around(places, current):
        found = True
        yield line
    if current is not None and not (found and hurry):
        yield from _program(current, places)
        if (previous := versions.previous()) is not None:
            yield from previous.changed()
        for version in versions.all():
            yield from _others(version.home)


def around(places: Places) -> Iterator[str]:
    """The same of all that is not the program itself, which takes longer to look at."""
    versions = Versions(places.prefix)
    current = versions.current()
    if current is None:
        yield f"{versions.link} names no version; run install.sh again"
    yield from _around(places, current)


def _around(places: Places, current: Version | None) -> Iterator[str]:
    yield from _hooks(places, current)
    if current is not None:
        yield from weak_spots(current.home / "paths.json")
        yield from weak_spots(current.home / "lock.txt", 0o644)
        yield from current.changed()
    yield from weak_spots(places.policy)
    yield from weak_spots(places.instance_file)
    yield from weak_spots(places.state_dir, 0o700)
    yield from weak_spots(places.log_dir)
    if places.run_dir.exists():
        yield from weak_spots(places.run_dir)
    yield from services.wrong(places)
    if places.slurm_conf is not None:
        yield from slurm_config.wrong(read(places.slurm_conf), places)
    else:
        yield from mom_config.wrong(read(places.mom_config), places)
    if current is not None and (found := agent.running(places)) is not None and f"{current.home}/" not in found[1]:
        yield (
            f"the agent that runs (process {found[0]}) is not of the version in force; end it, and the next hook starts"
            " another"
        )


def _hooks(places: Places, current: Version | None) -> Iterator[str]:
    for name in places.mom_hooks:
        hook = places.mom_priv / name
        yield from weak_spots(hook, 0o755)
        yield from _same(hook, name, current)
        site = places.site_hooks(name)
        if site.is_dir():
            yield from weak_spots(site)
            for path in sorted(site.iterdir()):
                if path.is_file():
                    yield from weak_spots(path)
    for name in places.helpers:
        yield from weak_spots(places.hooks / name, 0o755)
        yield from _same(places.hooks / name, name, current)


def _same(hook: Path, name: str, current: Version | None) -> Iterator[str]:
    if not hook.is_file():
        return
    text = read(hook)
    if not is_ours(text):
        yield f"{hook} is not pbsdock's hook; run install.sh again"
    elif current is not None and text != read(current.home / "stubs" / name):
        yield f"{hook} is not as it was installed; run install.sh again"


def _program(current: Version, places: Places) -> Iterator[str]:
    if not build.works(current):
        yield f"the virtual environment in {current.home}/venv does not work; run install.sh again"
        return
    if build.first_process_is_to_come(current):
        yield (
            f"{current.home} lacks a program in C, such as the first process of containers, and there is a C compiler"
            " now; run install.sh again"
        )
    if spank.is_to_come(current, places):
        yield f"{current.home} lacks the SPANK plugin, or has another release's: run install.sh again"
    for program in first_process.PROGRAMS:
        if (path := current.library / "pbsdock" / program.name).exists():
            yield from weak_spots(path, 0o755)
    if (done := _command(current, "config")).returncode:
        yield from done.stderr.splitlines()
        return
    if (done := _command(current, "doctor", "packages")).returncode:
        for line in (done.stdout or done.stderr).splitlines():
            if not line.startswith("ok "):
                yield line.removeprefix("NOT ")


def _lacking(current: Version) -> Iterator[str]:
    """What jobs run without, but not as well."""
    for line in _command(current, "doctor", "accounting").stdout.splitlines():
        if line.startswith("NOT "):
            yield line.partition(": ")[2]


def _command(version: Version, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(version.command), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _others(home: Path) -> Iterator[str]:
    """The first file of a version that anybody but root can change."""
    for directory, below, files in os.walk(home):
        for path in (directory, *(f"{directory}/{name}" for name in [*below, *files])):
            found = os.lstat(path)
            if found.st_uid or (not stat.S_ISLNK(found.st_mode) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
                yield f"{path} can be changed by others than root; run install.sh again"
                return
