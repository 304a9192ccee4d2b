"""Which images of this node came by a user's own login: nobody may use those without asking their registry first.

Kept by repository and image id, since a registry grants rights by repository. While such a pull is under way, and after
one whose end was not seen, the whole repository counts. Written before the engine is asked, so that neither another job
nor a crash finds an image that is here and not marked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path

from pbsdock.core import whole_file
from pbsdock.core.errors import NodeFault

WHOLE = "*"  # in place of an id: every image of the repository


class PrivateImages:
    """Any thread. Kept in one file of root's; *file* None keeps nothing beyond the process."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._marked: dict[str, set[str]] = {}
        self._under_way: dict[str, int] = {}
        self.problem = self._read()

    def holds(self, repository: str, image_id: str) -> bool:
        """Whether an image needs its registry's word. Raises NodeFault if that cannot be known."""
        self.check()
        with self._lock:
            marked = self._marked.get(repository, set())
            return repository in self._under_way or image_id in marked or WHOLE in marked

    def begin(self, repository: str) -> None:
        """A pull by a user's login is about to begin. Raises NodeFault if that cannot be written down."""
        self.check()
        with self._lock:
            self._under_way[repository] = self._under_way.get(repository, 0) + 1
            try:
                self._write()
            except OSError as error:
                self._leave(repository)
                said = f"{self.file} cannot be written: {error.strerror}"
                raise NodeFault("record-not-written", said) from None

    def end(self, repository: str, marks: Iterable[str]) -> None:
        """It is over; *marks* are the ids it has brought, or WHOLE where that was not seen."""
        with self._lock:
            self._marked[repository] = self._marked.get(repository, set()) | set(marks)
            self._leave(repository)
            self._tidy(repository)
            self._write_if_possible()  # what is there says more than it should, which is safe

    def forget(self, repository: str, image_id: str) -> None:
        """Its registry gives the image to everybody."""
        with self._lock:
            # While another pull is under way, the id may be its.
            if repository not in self._under_way and self._marked.get(repository, set()) & {image_id, WHOLE}:
                self._marked[repository] -= {image_id, WHOLE}
                self._tidy(repository)
                self._write_if_possible()

    def check(self) -> None:
        """Raises NodeFault while the file cannot be read: without it a private image looks like any other."""
        if self.problem and (problem := self._read()):
            raise NodeFault("private-images", problem)
        self.problem = ""

    def _leave(self, repository: str) -> None:
        self._under_way[repository] -= 1
        if not self._under_way[repository]:
            del self._under_way[repository]

    def _tidy(self, repository: str) -> None:
        if not self._marked[repository]:
            del self._marked[repository]

    def _read(self) -> str:
        """Returns what is wrong with the file, "" if nothing is."""
        try:
            found = json.loads(self.file.read_bytes()) if self.file else {}
            self._marked = {str(name): {str(image_id) for image_id in ids} for name, ids in found.items()}
        except FileNotFoundError:
            self._marked = {}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not what this release writes"
            return (
                f"{self.file}, which says what images came by users' logins, cannot be read: {why}; where it is taken"
                " away, whatever is on this node is for everybody"
            )
        return ""

    def _write(self) -> None:
        if self.file is None:
            return
        marks = {name: sorted(ids) for name, ids in self._marked.items()}
        for name in self._under_way:
            marks[name] = sorted({*marks.get(name, []), WHOLE})
        whole_file.write_over(self.file, json.dumps(marks).encode(), durable=True)

    def _write_if_possible(self) -> None:
        try:
            self._write()
        except OSError:
            return
