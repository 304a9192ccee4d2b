"""The client's end of the first process's socket, without a process: what it encodes, what it takes."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.protocol import init
from pbsdock.protocol.init import InitError, RequestError, Run

TEXT = st.binary(max_size=50).map(lambda data: data.replace(b"\0", b""))
REPOSITORY = Path(__file__).resolve().parents[2]


def _run(**changes: object) -> Run:
    given: dict[str, object] = {"umask": 0o22, "flags": init.SESSION, **changes}
    id, argv, environment = given.pop("id", "job"), given.pop("argv", [b"sh"]), given.pop("environment", [])
    return Run(id, argv, environment, given.pop("directory", b"/"), **given)  # type: ignore[arg-type]


@given(st.lists(TEXT, min_size=1, max_size=5), st.lists(TEXT, max_size=5), TEXT)
def test_texts_come_in_the_order_of_the_format(argv: list[bytes], environment: list[bytes], directory: bytes) -> None:
    """Empty ones too: a text ends where its NUL is."""
    message = init.encode_run(_run(argv=argv, environment=environment, directory=directory))

    head, texts = struct.unpack_from("=8I", message), message[296:]
    assert head == (1, 2, len(texts), init.SESSION, 0, 0o22, len(argv), 0)
    assert texts.split(b"\0") == [b"job", directory, b"", *argv, *environment, b""]


def test_the_constants_are_the_programs() -> None:
    """One of the two cannot change alone."""
    text = (REPOSITORY / "init/message.h").read_text()

    assert f"VERSION = {init.VERSION}, LIMITS = {init.LIMITS}" in text
    assert "OPEN = 1, RUN, JOIN, SIGNAL" in text
    assert "PID = 1, ENDED, FAILED, DONE" in text
    assert "LEADER = 1, SESSION = 2, TERMINAL = 4, CONTROL = 8, SEARCH = 16" in text
    assert "TEXTS = 8 << 20," in text
    assert "STRINGS = 1 << 18," in text


def test_limits_and_window() -> None:
    """Each at its place; unlimited as the kernel has it."""
    message = init.encode_run(_run(limits={0: (1, 2), 7: (3, -1)}, window=(4, 5, 6, 7)))

    assert struct.unpack_from("=I4H", message, 28) == (1 << 0 | 1 << 7, 4, 5, 6, 7)
    limits = struct.unpack_from("=32Q", message, 40)
    assert limits[:2] == (1, 2)
    assert limits[14:16] == (3, 2**64 - 1)
    assert not any(limits[2:14] + limits[16:])


@pytest.mark.parametrize("id", ["", ".hidden", "a/b", "..", "x" * 65, "é", "a b", "a\0b", "a\n"])
def test_ids(id: str) -> None:
    """They are names of files."""
    with pytest.raises(RequestError, match="is not an id"):
        init.encode_join(id)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"argv": [b"a\0b"]}, "a text holds a NUL"),
        ({"environment": [b"A=\0"]}, "a text holds a NUL"),
        ({"environment": [b"A=" + b"x" * (8 << 20)]}, "at most 8388608 in 262144 are taken"),
        ({"environment": [b"A"] * (1 << 18)}, "at most 8388608 in 262144 are taken"),
        ({"limits": {16: (0, 0)}}, "16 is not the number of a limit"),
        ({"window": (70000, 0, 0, 0)}, "format"),
        ({"umask": -1}, "argument out of range"),
    ],
)
def test_what_does_not_fit(changes: dict[str, object], says: str) -> None:
    """Is told before anything is sent."""
    with pytest.raises(RequestError, match=says):
        init.encode_run(_run(**changes))


def test_answers_in_pieces() -> None:
    """None until it is whole; what is behind it stays."""
    whole = struct.pack("=3I", 12, init.FAILED, 2) + b"chdir\0/a\xff\nb\0"
    whole = struct.pack("=3I", len(whole) - 12, init.FAILED, 2) + whole[12:]
    for cut in range(len(whole)):
        assert init.decode(whole[:cut]) is None

    found = init.decode(whole + b"rest")

    assert found is not None
    answer, end = found
    assert (answer.kind, answer.number, answer.step, answer.path, end) == (
        init.FAILED,
        2,
        "chdir",
        b"/a\xff\nb",
        len(whole),
    )


def test_the_gates_limits_are_in_its_message() -> None:
    """By their numbers, a bit each, soft and hard, -1 for none; and no texts."""
    plain, limited = init.encode_open(), init.encode_open({0: (1, 2), 15: (-1, -1)})
    head = struct.unpack("=8I4H32Q", limited)

    assert struct.unpack("=8I4H32Q", plain)[7:] == (0,) * 37
    assert (head[0], head[1], head[2], head[7]) == (init.VERSION, 1, 0, 1 | 1 << 15)
    assert head[12:14] + head[-2:] == (1, 2, 2**64 - 1, 2**64 - 1)
    assert set(head[14:-2]) == {0}
    with pytest.raises(init.RequestError, match="16 is not the number of a limit"):
        init.encode_open({16: (0, 0)})


@given(st.binary(max_size=600))
def test_anything_may_come(data: bytes) -> None:
    """An answer, not yet one, or a clear error."""
    try:
        found = init.decode(data)
    except InitError:
        return
    assert found is None or found[1] <= len(data)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"ended 768\n", (init.ENDED, 768, "", b"")),
        (b"failed execve 2 /no such\nthing\n", (init.FAILED, 2, "execve", b"/no such\nthing")),
        (b"failed memory 12 \n", (init.FAILED, 12, "memory", b"")),
        (b"", None),
        (b"ended", None),
        (b"ended -1\n", None),
        (b"ended 1234567\n", None),
        (b"failed x y z\n", None),
        (b"\xff\n", None),
    ],
)
def test_what_was_written_down(tmp_path: Path, text: bytes, expected: object) -> None:
    """Only what process 1 writes is taken."""
    (tmp_path / "job.status").write_bytes(text)

    found = init.read_status(str(tmp_path), "job")

    assert (found and (found.kind, found.number, found.step, found.path)) == expected
    assert init.read_status(str(tmp_path), "none") is None


def test_descriptors_that_nobody_asked_for_are_closed(tmp_path: Path) -> None:
    """A peer that is not process 1 cannot fill this process with them."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        connection = init.Connection(str(tmp_path / "socket"), 1.0)
        assert connection.listener() == os.getpid()
        before = len(os.listdir("/proc/self/fd"))
        peer, _ = listener.accept()
        with peer, open(os.devnull) as null:
            socket.send_fds(peer, [struct.pack("=3I", 0, init.DONE, 0)], [null.fileno()] * 20)
            with pytest.raises(InitError, match="nobody had asked for"):
                connection.receive()
        connection.close()
        assert len(os.listdir("/proc/self/fd")) < before


def test_nobody_there(tmp_path: Path) -> None:
    """One kind of error."""
    with pytest.raises(InitError, match="No such file"):
        init.Connection(str(tmp_path / "socket"))
