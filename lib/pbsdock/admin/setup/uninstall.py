"""Take pbsdock out of a node. Configuration, state and logs stay."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pbsdock.admin.setup import agent, manual, mom_config, services, slurm_config
from pbsdock.admin.setup.files import put, read
from pbsdock.admin.setup.host import cgroup_parent
from pbsdock.admin.setup.install import COMMANDS, OLD
from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.render import is_ours
from pbsdock.admin.setup.versions import Versions
from pbsdock.host import syscalls

Say = Callable[[str], None]


def uninstall(places: Places, say: Say) -> int:
    """Put the site's hooks and mom's configuration back, stop the agent, remove every version.

    Raises SetupError, OSError.
    """
    versions = Versions(places.prefix)
    if not versions.directory.is_dir():
        return _uninstall(places, versions, say)
    with versions.locked():
        return _uninstall(places, versions, say)


def _uninstall(places: Places, versions: Versions, say: Say) -> int:
    markers = places.run_dir / "jobs"
    for marker in sorted(markers.iterdir()) if markers.is_dir() else ():
        say(f"warning: job {marker.name} has a container here; it loses its epilogue's cleaning up")
    for name in places.mom_hooks:
        _give_back(places, name, say)
    if places.slurm_conf is not None:
        if slurm_config.take_out_stack(places):
            say(f"took pbsdock's block out of {slurm_config.stack_file(places)}")
        _take_out_of_slurm(places.slurm_conf, say)
    else:
        _restore_config(places, say)
    services.remove(places)
    manual.remove(places)
    agent.stop(places)
    _remove_cgroups(places)
    _unmount(places)
    _remove_program(places, versions)
    say(f"pbsdock is taken out of {places.where}; {places.etc}, {places.state_dir} and {places.log_dir} stay")
    return 0


def _give_back(places: Places, name: str, say: Say) -> None:
    hook, site = places.mom_priv / name, places.site_hooks(name)
    if not hook.is_file() or not is_ours(read(hook)):
        return
    if (site / "50-site").exists():
        os.replace(site / "50-site", hook)
        say(f"put the site's own {name} back")
    else:
        hook.unlink()
    if site.is_dir():
        try:
            site.rmdir()
        except OSError:
            say(f"left: {site} holds other hooks, which nobody calls now")


def _restore_config(places: Places, say: Say) -> None:
    path = places.mom_config
    text = read(path)
    wanted = mom_config.without(text, places)
    if wanted == text:
        return
    before = path.with_name(f"{path.name}.before-pbsdock")
    if before.exists() and read(before).rstrip("\n") == wanted.rstrip("\n"):
        os.replace(before, path)  # differs at most in a missing last newline
    else:
        found = path.stat()
        put(path, wanted, stat.S_IMODE(found.st_mode), like=found)
        before.unlink(missing_ok=True)
    say(f"took pbsdock's lines out of {path}; restart pbs_mom: until then it calls hooks that are gone")


def _take_out_of_slurm(path: Path, say: Say) -> None:
    """Its hooks are gone then: a slurm.conf that names them would drain the nodes."""
    if slurm_config.take_out(path):
        say(
            f"took pbsdock's block out of {path}; run scontrol reconfigure: until then slurmd calls hooks that are gone"
        )
    elif slurm_config.mentions(read(path)):
        say(f"warning: {path} still names hooks that are gone: take them out and run scontrol reconfigure")


def _remove_cgroups(places: Places) -> None:
    """Remove the instance's cgroups; jobs have left them."""
    if not (name := places.instance()):
        return
    services.stop_slice(name)
    top = Path("/sys/fs/cgroup")
    for cgroup in (Path(f"{top}{cgroup_parent(places)}") / name, *top.glob(f"*/{name}")):
        with suppress(OSError):
            cgroup.rmdir()


def _unmount(places: Places) -> None:
    """Unmount pins and credentials before their directories are removed: a removal must not follow them."""
    below = tuple(f"{places.run_dir / name}/" for name in ("pins", "work"))
    for point in reversed([point for point, _ in syscalls.mount_points() if point.startswith(below)]):
        with suppress(OSError):
            syscalls.unmount(point)


def _remove_program(places: Places, versions: Versions) -> None:
    """Remove our own files by name: the prefix may be shared, /usr/local for example."""
    prefix = places.prefix
    for path in (versions.link, versions.before):
        if path.is_symlink():
            path.unlink()
    names = [
        *(f"hooks/{name}" for name in places.helpers),
        *(f"bin/{name}" for name in COMMANDS),
        *OLD,
        "shim",
        "versions",
    ]
    for path in (prefix / name for name in names):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in (prefix / "hooks/slurm", prefix / "hooks", prefix / "bin", prefix):
        with suppress(OSError):
            path.rmdir()
