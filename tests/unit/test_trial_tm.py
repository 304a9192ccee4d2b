"""The stand-in for mom's task manager, as libtorque speaks to it; tasks are started by a fake, elsewhere real."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from pbsdock.trial import dis
from pbsdock.trial.dis import Reader
from pbsdock.trial.tm import Outputs, TaskManager

_JOB = ("7.vm", "C" * 32)
_INIT, _TASKS, _SPAWN, _OBIT, _RESOURCES, _POSTINFO, _GETINFO, _FINALIZE = 100, 101, 102, 104, 105, 106, 107, 112


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, b"+0"),
        (-1, b"-1"),
        (10, b"2+10"),
        (-65536, b"5-65536"),
        (1234567890, b"210+1234567890"),
    ],
)
def test_numbers(value: int, data: bytes) -> None:
    """As Torque's diswsi() writes them."""
    assert dis.number(value) == data
    assert Reader(io.BytesIO(data)).number() == value


@pytest.mark.parametrize("data", [b"x", b"0+1", b"2+1x", b"2x1", b"220+" + b"1" * 20, b"9999999999+1"])
def test_what_is_no_number(data: bytes) -> None:
    """Whoever says so is no client of TM's."""
    with pytest.raises((ValueError, EOFError)):
        Reader(io.BytesIO(data)).number()


@pytest.mark.parametrize("data", [b"+3a\0b", b"-1", b"8+99999999"])
def test_what_is_no_text(data: bytes) -> None:
    """No program could take it, or it is too long."""
    with pytest.raises(ValueError, match="text"):
        Reader(io.BytesIO(data)).text()


def test_texts() -> None:
    """Any byte but NUL; what ends early is the end."""
    assert Reader(io.BytesIO(dis.text(b"a\nb\xff"))).text() == "a\nb\udcff"
    with pytest.raises(EOFError):
        Reader(io.BytesIO(b"+5ab")).text()


class FakeTask:
    """One that ends with 3 as soon as it is asked."""

    pid = 0
    torque_status = 3

    def poll(self) -> int:
        """It has ended."""
        return 3


class FakeTasks:
    """Task 1 on the first node; the others are where they were asked for, two slots a node."""

    def __init__(self) -> None:
        self.spawned: list[tuple[int, Sequence[str], Mapping[str, str]]] = []

    def knows(self, number: int) -> bool:
        """Those that were started."""
        return 1 <= number <= 1 + len(self.spawned)

    def numbers(self, slot: int) -> list[int]:
        """Two slots are one node."""
        here = [number for number, (place, _, _) in enumerate(self.spawned, 2) if place // 2 == slot // 2]
        return [*([] if slot // 2 else [1]), *here]

    def task_of(self, _number: int) -> Any:
        """All are alike."""
        return FakeTask()

    def spawn(self, slot: int, argv: Sequence[str], env: Mapping[str, str], _outputs: Outputs) -> tuple[int, Any]:
        """Nothing runs; a program that is not there cannot be started."""
        if argv[0] == "/none":
            raise OSError
        self.spawned.append((slot, argv, env))
        return 1 + len(self.spawned), FakeTask()


class Client:
    """Speaks as libtorque does."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.file = self.socket.makefile("rb")
        self.reader = Reader(self.file)

    def ask(
        self, request: int, *values: int | bytes, task: int = 1, job: tuple[str, str] = _JOB, event: int = 9
    ) -> int:
        """Send one; returns 0, or TM's number of what is wrong, as the answer's head has it."""
        name, cookie = (dis.text(word.encode()) for word in job)
        head = dis.number(5) + dis.number(2) + name + cookie
        rest = [dis.number(value) if isinstance(value, int) else dis.text(value) for value in values]
        self.socket.sendall(head + b"".join([dis.number(request), dis.number(event), dis.number(task), *rest]))
        assert [self.reader.number() for _ in range(2)] == [5, 2]
        kind = self.reader.number()
        assert self.reader.number() == event
        return self.reader.number() if kind == 999 else kind

    def is_closed(self) -> bool:
        """Whether it is the end."""
        try:
            return not self.file.read(1)
        except ConnectionResetError:
            return True


@pytest.fixture
def tasks() -> FakeTasks:
    """None yet but the first."""
    return FakeTasks()


@pytest.fixture
def client(tasks: FakeTasks) -> Iterator[Client]:
    """Of a job with four slots."""
    manager = TaskManager()
    manager.serve(_JOB, 4, tasks)
    made = Client(manager.port)
    yield made
    made.file.close()
    made.socket.close()
    manager.close()


def test_init(client: Client) -> None:
    """The virtual nodes, and that nobody is the parent."""
    assert client.ask(_INIT) == 0
    assert [client.reader.number() for _ in range(5)] == [4, 0, 1, 2, 3]
    assert (client.reader.text(), client.reader.number(), client.reader.number()) == ("", -1, 0)


def test_a_task(client: Client, tasks: FakeTasks) -> None:
    """It is started with arguments and variables, told by its number on its own node, and how it ended."""
    assert client.ask(_SPAWN, 2, 2, b"/bin/echo", b"a b", b"X=1=2", b"") == 0
    assert client.reader.number() == 2
    assert tasks.spawned == [(2, ["/bin/echo", "a b"], {"X": "1=2"})]
    for slot, expected in ((3, [2, 0]), (0, [1, 0])):
        assert client.ask(_TASKS, slot) == 0
        assert [client.reader.number() for _ in range(2)] == expected
    assert client.ask(_OBIT, 3, 2, event=1234567890) == 0
    assert client.reader.number() == 3


def test_what_tasks_tell_each_other(client: Client) -> None:
    """Bytes by a name."""
    assert client.ask(_POSTINFO, b"where", b"\0\1") == 0
    assert client.ask(_GETINFO, 0, 1, b"where") == 0
    assert client.reader.data() == b"\0\1"


@pytest.mark.parametrize(
    ("request_", "values", "code"),
    [
        (_TASKS, (4,), 17006),
        (_OBIT, (0, 2), 17006),
        (_GETINFO, (0, 1, b"none"), 17006),
        (_SPAWN, (4, 1, b"/bin/true", b""), 17006),
        (_SPAWN, (0, 1, b"/none", b""), 17000),
        (_POSTINFO, (b"long", b"x" * 65537), 17000),
    ],
)
def test_what_is_refused(client: Client, request_: int, values: tuple[Any, ...], code: int) -> None:
    """By TM's number; the connection goes on."""
    assert client.ask(request_, *values) == code
    assert client.ask(_INIT) == 0


@pytest.mark.parametrize(("request_", "values", "code"), [(_RESOURCES, (0,), 17004), (150, (0,), 17003)])
def test_what_is_not_known(client: Client, request_: int, values: tuple[Any, ...], code: int) -> None:
    """By TM's number; what follows could not be told apart."""
    assert client.ask(request_, *values) == code
    assert client.is_closed()


def test_who_is_not_of_the_job(client: Client) -> None:
    """A task it does not have."""
    assert client.ask(_INIT, task=2) == 17006
    assert client.is_closed()


@pytest.mark.parametrize("job", [("8.vm", _JOB[1]), (_JOB[0], "no")])
def test_another_job(client: Client, job: tuple[str, str]) -> None:
    """Mom closes without a word."""
    with pytest.raises(EOFError):
        client.ask(_INIT, job=job)


@pytest.mark.parametrize("data", [b"2\n4:init", b"+4+2", b"GET / HTTP/1.0\r\n\r\n", dis.number(5) + b"+3"])
def test_another_protocol(client: Client, data: bytes) -> None:
    """Likewise."""
    client.socket.sendall(data)

    assert client.is_closed()


def test_the_end(client: Client) -> None:
    """TM_FINALIZE has no answer."""
    with pytest.raises(EOFError):
        client.ask(_FINALIZE)
