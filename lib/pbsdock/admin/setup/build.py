"""Make a complete version, or find an existing one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from pbsdock.admin.setup import environment, first_process, manual, spank
from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.render import UNITS, Renderer, stub
from pbsdock.admin.setup.source import Source
from pbsdock.admin.setup.versions import Version, Versions


def works(version: Version) -> bool:
    """Whether a version's interpreter runs and its packages can be imported."""
    code = "import cgroupspy, docker, jeepney, psutil, structlog, pbsdock.agent.server"
    return _quiet(str(version.python), "-I", "-c", code)


def is_sound(version: Version, places: Places) -> bool:
    """Whether all files are as they were installed, and none is to come; takes a second or two."""
    is_to_come = first_process_is_to_come(version) or spank.is_to_come(version, places)
    as_made = not version.changed() and not is_to_come
    return as_made and _quiet(str(version.command), "doctor", "packages")


def complaint(version: Version) -> str:
    """What a version finds wrong with the site's configuration, in its own words; "" for nothing."""
    done = subprocess.run(
        [str(version.command), "config"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return " ".join(done.stderr.split()) if done.returncode else ""


def _quiet(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def find(versions: Versions, identity: str, places: Places) -> Version | None:
    """A sound version made from *identity*, preferably the current version; None if there is none."""
    return next((version for version in versions.whole(identity) if works(version) and is_sound(version, places)), None)


def first_process_is_to_come(version: Version) -> bool:
    """Whether it was made without one of the programs in C, where there was no compiler, and one is here now."""
    programs = [version.library / "pbsdock" / program.name for program in first_process.PROGRAMS]
    return first_process.compiler() is not None and not all(path.exists() for path in programs)


def make(
    versions: Versions,
    places: Places,
    source: Source,
    python: Path,
    wheels: Path | None,
    identity: str,
    instance: str,
    say: Callable[[str], None],
) -> Version:
    """Make a version in a directory of its own. Raises SetupError, OSError, after removing what was made."""
    version = versions.fresh(identity)
    try:
        version.home.mkdir()
        if lacking := environment.make(version, python, source, wheels, versions.current()):
            say(f"warning: containers have no first process of pbsdock's, or run hooks are in Python: {lacking}")
        renderer = Renderer(
            places=places, home=version.home, python=version.python, library=version.library, instance=instance
        )
        names = _write(version, renderer, source)
        if places.slurm_conf is not None:
            made, problem = spank.put(version, renderer, source.first_process)
            names += made
            if problem:
                say(f"warning: {problem}")
        names += manual.put(version, source)
        version.finish(identity, source.version, [*names, "lock.txt"])
    except BaseException:
        shutil.rmtree(version.home, ignore_errors=True)
        raise
    os.sync()  # before a link points to it: a node that loses its power now has the old version or all of the new one
    return version


def _write(version: Version, renderer: Renderer, source: Source) -> list[str]:
    files: dict[str, tuple[str, int]] = {}
    places = renderer.places
    for name in places.version_hooks:
        files[f"hooks/{name}"] = renderer.hook(source.hook(name)), 0o755
    for name in (*places.mom_hooks, *places.helpers):
        files[f"stubs/{name}"] = stub(name, source.hook(name), places.prefix), 0o755
    files["bin/pbsdock"] = renderer.command(), 0o755
    files["bin/pbsdock-agent"] = renderer.agent(), 0o755
    files["paths.json"] = renderer.places_file(), 0o644
    for unit in UNITS:
        files[f"etc/{unit}"] = renderer.hook(source.etc(f"systemd/{unit}")), 0o644
    files["etc/tmpfiles.conf"] = source.etc("tmpfiles.d/pbsdock.conf"), 0o644
    files["etc/logrotate"] = source.etc("logrotate.d/pbsdock"), 0o644
    for name, (text, mode) in files.items():
        path = version.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    return list(files)
