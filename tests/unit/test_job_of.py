"""Which job a process belongs to, by what mom has written down."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from pbsdock.host.process import sessions
from pbsdock.rm.torque.sessions import first_of, of_tasks, read_tasks

JOB = "12.server"
NAME = 1041  # bytes of ti_parentjobid in a mom of Torque 6.1-dev (observed)


def struct_of(job: str, task: int, session: int, name: int = NAME) -> bytes:
    """A ``taskfix`` as mom writes it."""
    head = job.encode().ljust(name, b"\0")
    head += b"\0" * (-len(head) % 4)
    return head + struct.pack("=6i", 0, 0, task, 1, session, 0) + b"\0" * 64


def file_of(*tasks: tuple[int, int], name: int = NAME) -> bytes:
    """A .TK: each struct at its number times their size, holes between them."""
    size = len(struct_of(JOB, 0, 0, name))
    data = bytearray(size * (max(task for task, _ in tasks) + 1))
    for task, session in tasks:
        data[task * size : (task + 1) * size] = struct_of(JOB, task, session, name)
    return bytes(data)


@pytest.mark.parametrize("name", [87, 1025, NAME])  # builds differ in the longest id they take
@pytest.mark.parametrize("tasks", [[(1, 500)], [(1, 500), (2, 600)], [(1, 500), (7, 700)], [(3, 900)]])
def test_sessions_of_tasks(tasks: list[tuple[int, int]], name: int) -> None:
    assert of_tasks(file_of(*tasks, name=name), JOB) == {session for _, session in tasks}


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, JOB.encode(), b"x" * 3000, file_of((1, 5))[:-3], file_of((1, 5)) + b"x"]
)
def test_what_is_no_such_file_has_none(data: bytes) -> None:
    assert of_tasks(data, JOB) == frozenset()


def test_another_jobs_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "x.TK").write_bytes(file_of((1, 500)))

    assert read_tasks(tmp_path / "x.TK", "2.server") == frozenset()
    assert read_tasks(tmp_path / "none.TK", JOB) == frozenset()


def test_the_nearest_of_the_sessions_decides_between_jobs() -> None:
    assert first_of([5, 9], [("a", frozenset({9})), ("b", frozenset({5}))]) == "b"
    assert first_of([7], [("a", frozenset({9}))]) == ""


def test_own_sessions_begin_with_the_own() -> None:
    assert sessions(os.getpid())[0] == os.getsid(0)
    assert sessions(1) == []
