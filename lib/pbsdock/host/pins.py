"""Pins: bind mounts in a directory of root's, each of exactly the file that was looked at as the user.

The engine mounts by path, and a path of the user's can be exchanged between any look at it and the mount: an image
whose shell reads what it got is faster than a look afterwards. A pin is made from the open file itself, so the engine
is given a path that only root can change. It also works where root may not enter the path, as with a squashed NFS. They
are there while a container is started and no longer: whoever removes the directory must not go through them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pbsdock.core.facts import Bound
from pbsdock.host import syscalls
from pbsdock.host.mounts import User, open_unchanged

_LAYERS = 10  # of mounts on one place; a second is there when a make was killed and came again


def make(bound: Sequence[tuple[Bound, User | None]], directory: Path) -> list[Bound]:
    """Pin each mount, opened as its user (None: as root) and still what it was; returns them with their pins.

    What is to be read only is so with all that is mounted below it. Raises OSError; what was made until then is left to
    :func:`remove`.
    """
    directory.mkdir(mode=0o700, parents=True)
    made = []
    for index, (mount, user) in enumerate(bound):
        place = directory / str(index)
        fd = open_unchanged(mount, user)
        try:
            has_below = stat.S_ISDIR(os.fstat(fd).st_mode)
            if has_below:
                place.mkdir(mode=0o700)
            else:
                place.touch(mode=0o600)
            syscalls.bind(f"/proc/self/fd/{fd}", str(place), recursive=has_below, follows=mount.follows and has_below)
            if mount.read_only:
                syscalls.make_read_only(str(place))
        finally:
            os.close(fd)
        made.append(replace(mount, pin=str(place)))
    # Where the host shares no mounts there is nothing to follow, and the engine would refuse to.
    slaves = (
        {mounted_fs.point for mounted_fs in syscalls.mounted_file_systems() if mounted_fs.is_slave}
        if any(mount.follows for mount in made)
        else set()
    )
    return [replace(mount, follows=mount.pin in slaves) for mount in made]


def remove(directory: Path) -> None:
    """Unmount and remove, once or again: first every mount, whatever becomes of another, then the places.

    Never recursive: what is below a pin is the user's own. Raises OSError.
    """
    try:
        places = sorted(directory.iterdir())
    except FileNotFoundError:
        return
    mounted = list(places)
    for _ in range(_LAYERS):
        failed = _detach(mounted)
        points = {point for point, _ in syscalls.mount_points()}
        mounted = [place for place in places if str(place) in points]
        if not mounted:
            break
    else:
        raise failed or OSError(f"{mounted[0]} stays mounted")
    for place in places:
        if place.is_dir():
            place.rmdir()
        else:
            place.unlink()
    directory.rmdir()


def _detach(places: Sequence[Path]) -> OSError | None:
    """Take away one mount of each place with the whole tree below it; returns what went wrong last."""
    failed = None
    for place in places:
        try:
            syscalls.unbind(str(place))
        except OSError as error:
            failed = error
    return failed


def left(directory: Path) -> list[str]:
    """The mount points below *directory*: pins, and what is mounted below them."""
    return [point for point, _ in syscalls.mount_points() if point.startswith(f"{directory}/")]
