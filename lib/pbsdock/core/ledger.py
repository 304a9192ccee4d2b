"""The ledger: one root-only JSON file per incarnation of a job on this node, written ahead of every side effect."""

from __future__ import annotations

import json
import os
import re
import threading
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from pbsdock.core import whole_file
from pbsdock.core.plain import from_plain, to_plain
from pbsdock.core.plan import Plan
from pbsdock.core.record import VERSION, Record

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.json")
_SPARSE = ("facts", "steps")
# The file's key -> the record's field.
_FIELDS = {field.name.lstrip("_"): field for field in fields(Record) if field.name not in ("_journal", "_lock")}
_REQUIRED = [key for key, field in _FIELDS.items() if field.default is MISSING and field.default_factory is MISSING]


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
            if _file(record) in self._records:
                raise FileExistsError(_file(record))
            self._write(record, durable=True)
            self._records[_file(record)] = record

    def save(self, record: Record, *, durable: bool = False) -> None:
        """Replace a record. A kill of the agent loses nothing either way; a crash of the host makes every record
        one of an old boot, so only what outlives a boot has to be *durable*."""
        with self._lock:
            if _file(record) in self._records:
                self._write(record, durable=durable)

    def remove(self, record: Record) -> None:
        """Forget a record whose every step is undone."""
        with self._lock:
            (self.directory / _file(record)).unlink(missing_ok=True)
            self._records.pop(_file(record), None)

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
            if path.name.startswith(whole_file.UNFINISHED):
                path.unlink()  # a write that a crash cut short; the file it was to replace is whole
                continue
            if not _NAME.fullmatch(path.name):
                continue
            try:
                self._records[path.name] = _parse(path)
            except (OSError, ValueError, RecursionError) as error:
                self._problems.append(f"{path.name}: unreadable: {error}")

    def _write(self, record: Record, *, durable: bool) -> None:
        data = json.dumps(_plain(record), separators=(",", ":"), sort_keys=True).encode()
        whole_file.write_new(self.directory / _file(record), data, durable=durable)


def _file(record: Record) -> str:
    return f"{record.name}.json"


def _plain(record: Record) -> dict[str, Any]:
    return {key: to_plain(getattr(record, field.name), sparse=key in _SPARSE) for key, field in _FIELDS.items()}


def _parse(path: Path) -> Record:
    """Read one file. Raises OSError; ValueError with the reason why it is no record of this release."""
    data = json.loads(path.read_bytes())
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ValueError("it is not a record of this release")
    absent = [key for key in _REQUIRED if key not in data]
    if absent:
        raise ValueError(f"{absent[0]} is missing")
    hints = typing.get_type_hints(Record)
    record = Record(**{_FIELDS[key].name: _field(key, hints, data) for key in _FIELDS if key in data})
    if _file(record) != path.name:
        raise ValueError(f"it holds the record {_file(record)}")
    return record


def _field(key: str, hints: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
    """One field, with what a later release may have added passed over: it may have been rolled back."""
    value = data[key]
    try:
        if key == "plan":
            return None if value is None else Plan.from_dict(value, newer=True)
        return from_plain(hints[_FIELDS[key].name], value, newer=True)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{key}: {error}") from None
