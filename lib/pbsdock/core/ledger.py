"""The ledger: one root-only JSON file per incarnation of a job on this node, written ahead of every side effect."""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

VERSION = 1
# States of a record whose container starts no more: its mounts need not be held for the engine any longer.
PAST_START = ("running", "staging", "ended", "refused")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.json")


def uptime() -> float:
    """Seconds since the boot (clock_gettime(2), CLOCK_BOOTTIME): what no change of the node's clock touches."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True, kw_only=True)
class Record:
    """One incarnation of one job on this node: its plan, its steps, and the handles of what exists.

    States: preparing, refused, ready, running, ended, releasing. Times are seconds since the epoch.
    """

    version: int = VERSION
    job_id: str
    safe: str
    incarnation: str
    uid: int
    user: str
    node: str
    boot_id: str
    created: float
    state: str = "preparing"
    plan: dict[str, Any] | None = None
    refusal: dict[str, str] | None = None
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    container_id: str | None = None
    container_name: str = ""
    cgroup: str = ""
    image_id: str | None = None
    image_digest: str | None = None
    exit: dict[str, Any] | None = None
    script_path: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def new(
        cls,
        *,
        job_id: str,
        safe: str,
        uid: int,
        user: str,
        node: str,
        boot_id: str,
        now: float | None = None,
        nonce: str | None = None,
    ) -> Record:
        """Make the record of a new incarnation: a job id can come back, so it gets the time and a nonce."""
        moment = time.time() if now is None else now
        tag = nonce if nonce is not None else secrets.token_hex(4)
        return cls(
            job_id=job_id,
            safe=safe,
            incarnation=f"{int(moment):x}{tag}",
            uid=uid,
            user=user,
            node=node,
            boot_id=boot_id,
            created=moment,
            facts={"alive_at": uptime()},
        )

    @property
    def name(self) -> str:
        """The record's file name."""
        return f"{self.safe}.{self.incarnation}.json"


class Ledger:
    """All records of this instance. One process writes; its threads may do so at the same time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._problems: list[str] = []
        self._read()

    def create(self, record: Record) -> None:
        """Write a new record durably, before anything it names is done."""
        with self._lock:
            if record.name in self._records:
                raise FileExistsError(record.name)
            self._write(record, durable=True)
            self._records[record.name] = record

    def save(self, record: Record, *, durable: bool = False) -> None:
        """Replace a record. A kill of the agent loses nothing either way; a crash of the host makes every record
        one of an old boot, so only what outlives a boot has to be *durable*."""
        with self._lock:
            if record.name in self._records:
                self._write(record, durable=durable)

    def remove(self, record: Record) -> None:
        """Forget a record whose every step is undone."""
        with self._lock:
            (self.directory / record.name).unlink(missing_ok=True)
            self._records.pop(record.name, None)

    def load_all(self) -> tuple[list[Record], list[str]]:
        """All records, oldest first, and a sentence for each file that cannot be read.

        The directory is listed each time: a ledger that went away must not look like an empty one. Raises OSError.
        """
        with self._lock:
            present = {file for file in os.listdir(self.directory) if file.endswith(".json")}
            strange = [f"{file} appeared from elsewhere" for file in sorted(present - set(self._records))]
            records = sorted(self._records.values(), key=lambda record: record.created)
            known_bad = [problem for problem in self._problems if problem.split(":", 1)[0] in present]
            told = {problem.split(":", 1)[0] for problem in known_bad}
            return records, known_bad + [problem for problem in strange if problem.split()[0] not in told]

    def for_job(self, job_id: str) -> Record | None:
        """The newest record of a job."""
        with self._lock:
            mine = [record for record in self._records.values() if record.job_id == job_id]
        return max(mine, key=lambda record: record.created, default=None)

    def count_of(self, uid: int) -> int:
        """How many records a user has. Asks neither the disk nor for the lock, which is held while the disk writes."""
        return sum(record.uid == uid for record in list(self._records.values()))

    def _read(self) -> None:
        for path in sorted(self.directory.iterdir()):
            if path.name.startswith(".new-"):
                path.unlink()  # a write that a crash cut short; the file it was to replace is whole
                continue
            if not _NAME.fullmatch(path.name):
                continue
            try:
                self._records[path.name] = _parse(path)
            except (OSError, ValueError, RecursionError) as error:
                self._problems.append(f"{path.name}: unreadable: {error}")

    def _write(self, record: Record, *, durable: bool) -> None:
        plain = {name: getattr(record, name) for name in sorted(_FIELDS)}
        data = json.dumps(plain, separators=(",", ":")).encode()
        temporary = self.directory / f".new-{secrets.token_hex(8)}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(fd)
            os.rename(temporary, self.directory / record.name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


def _parse(path: Path) -> Record:
    """Read one file. Raises OSError; ValueError with the reason why it is no record of this release."""
    data = json.loads(path.read_bytes())
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ValueError("it is not a record of this release")
    absent = [key for key in _REQUIRED if key not in data]
    if absent:
        raise ValueError(f"{absent[0]} is missing")
    known = {key: data[key] for key in _FIELDS if key in data}
    wrong = [key for key in known if not isinstance(known[key], _FIELDS[key])]
    if wrong or not all(isinstance(step, dict) for step in known.get("steps", {}).values()):
        raise ValueError(f"{(wrong or ['steps'])[0]} is of the wrong type")
    record = Record(**known)
    if record.name != path.name:
        raise ValueError(f"it holds the record {record.name}")
    return record


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "float": (int, float),
    "dict": (dict,),
    "None": (type(None),),
}
# "dict[str, Any] | None", the annotation's text, becomes (dict, NoneType)
_FIELDS: dict[str, tuple[type, ...]] = {
    field.name: tuple(kind for part in str(field.type).split("|") for kind in _KINDS[part.strip().split("[")[0]])
    for field in fields(Record)
}
_REQUIRED = tuple(
    field.name for field in fields(Record) if field.default is MISSING and field.default_factory is MISSING
)
