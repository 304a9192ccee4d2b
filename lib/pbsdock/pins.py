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

from pbsdock import syscalls
from pbsdock.mounts import Bound, User, open_unchanged


def make(bound: Sequence[tuple[Bound, User | None]], directory: Path) -> list[Bound]:
    """Pin each mount, opened as its user (None: as root) and still what it was; returns them with their pins.

    Raises OSError; what was made until then is left to :func:`remove`.
    """
    directory.mkdir(mode=0o700, parents=True)
    made = []
    for index, (one, user) in enumerate(bound):
        place = directory / str(index)
        fd = open_unchanged(one, user)
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                place.mkdir(mode=0o700)
            else:
                place.touch(mode=0o600)
            syscalls.bind(f"/proc/self/fd/{fd}", str(place))
        finally:
            os.close(fd)
        made.append(replace(one, pin=str(place)))
    return made


def remove(directory: Path) -> None:
    """Unmount and remove, once or again. Raises OSError.

    Never recursive: what is below a pin is the user's own.
    """
    try:
        places = sorted(directory.iterdir())
    except FileNotFoundError:
        return
    for place in places:
        syscalls.unbind(str(place))
        if place.is_dir():
            place.rmdir()
        else:
            place.unlink()
    directory.rmdir()
