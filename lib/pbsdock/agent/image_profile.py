"""What of an image its jobs need to know: names of its variables, users and shells, and its local time.

An image never changes under its id, so each is looked into once; that takes the engine a tenth of a second.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pbsdock.core.facts import ImageTraits
from pbsdock.engine.accounts import FILE_LIMIT
from pbsdock.engine.base import ContainerEngine, EngineError, ImageFile
from pbsdock.host import local_time

PASSWD, GROUP = "/etc/passwd", "/etc/group"
SHELLS = ("/bin/bash", "/bin/sh")
_KEPT = 64  # images
_MOST_NAMES = 512  # variables of an image that win over the job's


@dataclass(slots=True)
class _Image:
    """What was found in an image, by path: None where it has no such file."""

    variables: frozenset[str]
    files: dict[str, ImageFile | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProfile:
    """What an image has; *passwd* and *group* are its own files, None where they cannot be used."""

    traits: ImageTraits
    passwd: bytes | None
    group: bytes | None


class ImageProfiles:
    """Of the images used last; any thread. *labels* are for what the engine makes to look into an image."""

    def __init__(self, engine: ContainerEngine, labels: Mapping[str, str], emit: Callable[..., None]) -> None:
        self._engine = engine
        self._labels = labels
        self._emit = emit
        self._lock = threading.Lock()  # held while an image is looked into: others of it wait, and need not look
        self._images: OrderedDict[str, _Image] = OrderedDict()

    def of(self, image_id: str, login_shell: str) -> ImageProfile:
        """The profile for a user with this login shell. An image that cannot be looked into has nothing of its own.

        Raises NodeFault where the engine does not answer.
        """
        here = local_time.read()
        shells = _shells(login_shell)
        zone_file = f"{local_time.ZONES}/{here.zone}" if here.zone else ""
        wanted = {PASSWD: FILE_LIMIT, GROUP: FILE_LIMIT, local_time.LOCALTIME: local_time.FILE_LIMIT}
        wanted |= dict.fromkeys((*shells, *((zone_file,) if zone_file else ())), 0)
        image = self._look(image_id, wanted)
        found = [shell for shell in shells if (file := image.files.get(shell)) is not None and file.is_program]
        traits = ImageTraits(
            variables=tuple(sorted(image.variables)[:_MOST_NAMES]),
            shells=tuple(found),
            time_zone=_time_zone(here, _content(image, local_time.LOCALTIME), bool(image.files.get(zone_file))),
        )
        return ImageProfile(traits=traits, passwd=_content(image, PASSWD), group=_content(image, GROUP))

    def _look(self, image_id: str, wanted: Mapping[str, int]) -> _Image:
        with self._lock:
            image = self._images.get(image_id) or _Image(frozenset())
            new = {path: limit for path, limit in wanted.items() if path not in image.files}
            if new:
                try:
                    image.variables, files = self._engine.read_image(image_id, new, self._labels)
                except EngineError as error:
                    self._emit("agent.error", level="warning", where="image", reason=f"{image_id}: {error}"[:500])
                    return image
                image.files |= {path: files.get(path) for path in new}
            self._images[image_id] = image
            self._images.move_to_end(image_id)
            while len(self._images) > _KEPT:
                self._images.popitem(last=False)
            return image


def _shells(login: str) -> tuple[str, ...]:
    """The shells to look for, the best first: distributions differ in where the same one is."""
    name = login.rpartition("/")[2]
    return tuple(dict.fromkeys((login, f"/bin/{name}", f"/usr/bin/{name}", *SHELLS)))


def _content(image: _Image, path: str) -> bytes | None:
    file = image.files.get(path)
    return file.content if file is not None else None


def _time_zone(here: local_time.LocalTime, image: bytes | None, has_zone: bool) -> str:
    """The TZ that makes local time the host's, by name where the image knows it; "" where it is so already."""
    if local_time.rule_of(image) == here.rule:
        return ""
    return here.zone if has_zone else here.rule
