"""Where files that are staged in go, and whether they can: as the job's user, before anything is copied."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pbsdock.staging.download import Download
from pbsdock.staging.errors import StageError
from pbsdock.staging.order import Item

_UNFINISHED = ".pbsdock-"


def unfinished(item: Item, mark: str) -> str:
    """The directory of an item's unfinished files: on the file system of the finished files; *mark* is the job's."""
    directory = item.url.is_pattern or not item.key or item.key.endswith("/") or item.path.endswith("/")
    base = item.path.rstrip("/") or "/"
    if not directory and not os.path.isdir(base):
        base = os.path.dirname(base)
    return os.path.join(base, f"{_UNFINISHED}{mark}")


def check_reach(item: Item, mark: str) -> None:
    """Make an item's directory; it must be inside the item's root and writable. Raises StageError."""
    base = os.path.dirname(unfinished(item, mark))
    try:
        os.makedirs(base, exist_ok=True)
        real = os.path.realpath(base, strict=True)
    except OSError as error:
        raise StageError("stage-path", f"{item.shown} cannot be written: {error.strerror}") from None
    if os.path.commonpath([real, item.root]) != item.root:
        raise StageError("stage-path", f"{item.shown} leads out of {item.root}, to {real}")
    if not os.access(base, os.W_OK | os.X_OK):
        raise StageError("stage-path", f"{item.shown} cannot be written: Permission denied")


def check_distinct(due: Sequence[tuple[Item, Download]]) -> None:
    """Whether every object has a path of its own. Raises StageError."""
    seen: dict[str, str] = {}
    for item, download in due:
        if download.path in seen:
            sentence = f"{download.source.address} and {seen[download.path]} would both become {download.path}"
            raise StageError("stage-path", sentence, item.where)
        seen[download.path] = download.source.address


def check_space(due: Sequence[tuple[Item, Download]], mark: str) -> None:
    """Whether there is room for all files, before the first byte is fetched. Raises StageError, OSError."""
    needs: dict[int, tuple[int, int, Item]] = {}
    for item, download in due:
        base = os.path.dirname(unfinished(item, mark))
        device = os.stat(base).st_dev
        room = os.statvfs(base)
        needed = needs.get(device, (0, 0, item))[0] + download.source.size
        needs[device] = (needed, room.f_bavail * room.f_frsize, item)
    for needed, free, item in needs.values():
        if needed > free:
            sentence = f"{needed} bytes are to be staged to {item.shown} and its file system has {free} free"
            raise StageError("no-space", sentence, item.where)
