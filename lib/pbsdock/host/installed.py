"""The programs in C of an installation, and the place where jobs find the one that is theirs."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from pbsdock.config.tables import Config
from pbsdock.core.paths import Paths

_WHERE = "agent.path"  # the file beside the client that says where the agent listens (init/docker.c)


def first_process(paths: Paths) -> Path:
    """Process 1 of containers."""
    return paths.lib / "pbsdock/init/pbsdock-init"


def docker_client(paths: Paths) -> Path:
    """The docker command of jobs."""
    return paths.lib / "pbsdock/init/pbsdock-docker"


def is_usable(path: Path) -> bool:
    """Whether a program is there, and root's alone to change."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o022 and bool(found.st_mode & 0o1)


def offers_docker(paths: Paths, config: Config) -> bool:
    """Whether jobs of this node have a docker command."""
    return (
        config.shim.enabled
        and config.engine.first_process
        and is_usable(first_process(paths))
        and is_usable(docker_client(paths))
    )


def offer_docker(paths: Paths, config: Config) -> None:
    """Put the client where jobs find it, or take it away. Raises OSError.

    The directory stays the same one, as containers have it; a file in it is replaced at once.
    """
    place = paths.shim
    if not offers_docker(paths, config):
        shutil.rmtree(place, ignore_errors=True)
        return
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    place.chmod(0o755)
    wanted: dict[str, Path | str] = {config.shim.name: docker_client(paths), _WHERE: f"{paths.socket}\n"}
    for name, source in wanted.items():
        target = place / name
        content = source.encode() if isinstance(source, str) else source.read_bytes()
        if target.is_file() and target.read_bytes() == content:
            continue
        fresh = place / f".{name}.new"
        fresh.unlink(missing_ok=True)
        _put(fresh, source)
        os.replace(fresh, target)
    for other in place.iterdir():
        if other.name not in wanted:
            other.unlink()


def _put(fresh: Path, source: Path | str) -> None:
    """A program is linked: one that is written cannot be executed while a process that was forked meanwhile has it open
    (execve(2), ETXTBSY)."""
    if isinstance(source, str):
        fresh.write_text(source)
        fresh.chmod(0o644)
        return
    try:
        os.link(source, fresh)
    except OSError:
        shutil.copyfile(source, fresh)
        fresh.chmod(0o755)
