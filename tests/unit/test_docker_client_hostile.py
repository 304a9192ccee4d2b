"""The `docker` of jobs, with the compiler's sanitizers, against a stand-in of an agent that sends what it likes."""

from __future__ import annotations

import os
import pty
import random
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pbsdock.admin.setup import first_process
from pbsdock.protocol import init, wire
from tests.support.docker_client import IMPATIENT, Call, StandInAgent
from tests.support.first_process import REPOSITORY, SANITIZED, build

_SECONDS = os.environ.get("PBSDOCK_FUZZ_S", "3")
_NOT_UNDERSTOOD = b"docker: the agent gave an answer that cannot be understood\n"
_GONE = b"docker: the pbsdock agent on this node did not answer\n"
pytestmark = pytest.mark.timeout(120)


def test_the_pure_parts_under_a_fuzzer(tmp_path: Path) -> None:
    """In a process of its own with the sanitizers."""
    program = tmp_path / "fuzz"
    subprocess.run(["cc", *SANITIZED, "-o", str(program), str(REPOSITORY / "tests/docker_fuzz.c")], check=True)
    seed = str(random.randrange(1 << 30))

    done = subprocess.run([str(program), _SECONDS, seed], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, ""), f"seed {seed}\n{done.stderr}"
    rounds, paths, keys = (int(word) for word in done.stdout.split() if word.isdigit())
    assert rounds > 10_000
    assert min(paths, keys) > rounds / 100


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, which waits for little."""
    return build(tmp_path_factory, sanitized=True, of=first_process.DOCKER, before=IMPATIENT)


@pytest.fixture
def agent(program: Path) -> Iterator[StandInAgent]:
    made = StandInAgent(program)
    yield made
    made.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"\0\0\0\0",
        b"\0\0\0\1",
        b"\xff\xff\xff\xff",
        b"\0\x40\0\1" + b"x" * 100,
        b"\0\0\0\2a\0",
        b"\0\0\0\3a\0b",
        b"\0\0\0\x28" + b"o" * 40,
        b"\0\0\0\3\xe9\0\0",
        b"",
    ],
)
def test_an_answer_that_is_none_is_no_answer(agent: StandInAgent, answer: bytes) -> None:
    """The agent is taken for lost."""
    call = agent.call("ps")
    call.peer.sendall(answer)
    call.peer.close()

    assert call.over(125)[1] == _GONE


@pytest.mark.parametrize(
    "message",
    [
        wire.Message("nothing"),
        wire.Message("over"),
        wire.Message("started", argv=b"sh", name="x"),
        wire.Message("started", argv=b"sh", name="x", fds=1),
        wire.Message("started", argv=b"sh", name="x", fds=-1),
    ],
)
def test_what_is_no_verb(agent: StandInAgent, message: wire.Message) -> None:
    """One sentence."""
    call = agent.call("ps")
    call.peer.sendall(wire.encode(message))

    assert call.over(125)[1] == _NOT_UNDERSTOOD


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "../x"}, b"'../x' is not an id: 1 to 64 letters, digits, '.', '_', '-', the first of them no '.'"),
        ({"limit": b"7 1"}, b"'7 1' is not a limit"),
        ({"limit": b"-3 1 1"}, b"-3 is not the number of a limit"),
        ({"umask": 1 << 40 | 0o1000}, b"its umask is 01000; at most 0777 is one"),
    ],
)
def test_what_cannot_be_asked_for(agent: StandInAgent, fields: dict[str, object], says: bytes) -> None:
    """One sentence, and nothing is asked for."""
    first = socket.socket(socket.AF_UNIX)
    first.bind(str(agent.directory / "socket"))
    first.listen()
    call = agent.call("run", "x")
    _start(call, agent.directory, **fields)

    assert call.over(125)[1] == b"docker: the container was not started: " + says + b"\n"
    first.setblocking(False)
    with suppress(BlockingIOError):
        peer, _ = first.accept()
        assert peer.recv(1) == b""
        peer.close()
    first.close()


def test_nobody_where_the_first_process_should_be(agent: StandInAgent) -> None:
    """A sentence; a descriptor of something else is none either."""
    call = agent.call("run", "x")
    _start(call, agent.directory)
    assert call.over(125)[1] == b"docker: the container was not started: No such file or directory\n"
    call = agent.call("run", "x")
    _start(call, agent.program)
    assert call.over(125)[1] == b"docker: the container was not started: Not a directory\n"


def test_the_connection_to_the_first_process_breaks(agent: StandInAgent) -> None:
    """The end is asked for on another; what has run does not run again."""
    first = socket.socket(socket.AF_UNIX)
    first.bind(str(agent.directory / "socket"))
    first.listen()
    first.settimeout(20)
    call = agent.call("run", "x")
    _start(call, agent.directory)
    head = struct.Struct("=8I4H32Q")
    kinds = []
    for answer in (b"", b"\0", struct.pack("=3I", 0, init.ENDED, 7 << 8)):
        peer, _ = first.accept()
        kinds.append(head.unpack(peer.recv(head.size, socket.MSG_WAITALL))[1])
        peer.recv(65536)
        peer.sendall(answer)
        peer.close()
    first.close()

    assert kinds == [2, 3, 3]  # RUN, JOIN, JOIN (init/message.h)
    assert call.hear().number("number") == 7 << 8
    call.end(7)


def _start(call: Call, directory: Path, **fields: object) -> None:
    fd = os.open(directory, os.O_PATH)
    given: dict[str, object] = {"name": "n", "argv": b"/bin/true", "env": b"A=1", "limit": b"7 64 64"}
    call.tell("started", fds=[fd], **(given | fields))  # type: ignore[arg-type]
    os.close(fd)


def test_more_descriptors_than_asked_for(agent: StandInAgent) -> None:
    """They are closed, and none gets into another's place."""
    call = agent.call("ps")
    null = os.open(os.devnull, os.O_RDWR)
    for _turn in range(20):
        socket.send_fds(call.peer, [wire.encode(wire.Message("notice", sentence="x"))], [null] * 9)
        call.tell("copy", fds=[null] * 2, stream=[b"1", b"7", b"2"])
        call.hear()
    assert len(os.listdir(f"/proc/{call.process.pid}/fd")) < 40
    os.close(null)

    assert call.end()[1] == b"x\n" * 20


def _noise(chance: random.Random, good: list[bytes]) -> bytes:
    data = bytearray(b"".join(chance.choice(good) for _ in range(chance.randrange(1, 4))))
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.choice((0, 255, chance.randrange(256)))
    return bytes(data[: chance.randrange(1, len(data) + 1)])


def _verbs(place: Path) -> list[wire.Message]:
    return [
        wire.Message("out", stream=1, text="text"),
        wire.Message("notice", sentence="hear"),
        wire.Message("waiting"),
        wire.Message("read", path=f"{place}/file", most=100),
        wire.Message("read", path="-"),
        wire.Message("write", path=f"{place}/new", text="text", mode="644", how="new"),
        wire.Message("write", path=f"{place}/new", text="text", mode="644", how="replace"),
        wire.Message("ask", prompt="so?"),
        wire.Message("copy", fds=2, stream=[b"1", b"2"]),
        wire.Message("copy", fds=1, stream=1, follow=1),
        wire.Message("over"),
        wire.Message("cp", fds=1, direction="in", source="file", target="/new"),
        wire.Message("cp", fds=1, direction="out", source="/file", target="got"),
        wire.Message("started", fds=1, name="n", argv=b"x", stdin=1, terminal=1, limit=b"7 1 1"),
        wire.Message("refused", sentence="no", status=3),
        wire.Message("exit", code=3),
    ]


def test_whatever_an_agent_sends(agent: StandInAgent, tmp_path: Path) -> None:
    """No fault that a sanitizer finds, and an end each time."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    place, root = tmp_path / "place", tmp_path / "root"
    for directory in (place, root):
        directory.mkdir()
        (directory / "file").write_text("text")
    verbs = [wire.encode(message) for message in _verbs(place)]
    for _round in range(15 * int(_SECONDS)):
        call = agent.call("run", "x", cwd=place, start_new_session=True)
        fd = os.open(root, os.O_PATH)
        file = os.open(root / "file", os.O_RDONLY)
        with suppress(OSError):
            for _turn in range(chance.randrange(1, 6)):
                fds = chance.choice(([], [fd], [file], [file, fd], [fd] * 5))
                data = chance.choice(verbs) if chance.random() < 0.5 else _noise(chance, verbs)
                socket.send_fds(call.peer, [data], fds)
        os.close(fd)
        os.close(file)
        call.peer.close()
        _check_the_end(call, seed)


def test_whatever_a_first_process_sends(agent: StandInAgent) -> None:
    """The same of what the container's directory has for one."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    said = [
        struct.pack("=3I", 0, init.PID, 99),
        struct.pack("=3I", 0, init.ENDED, 9),
        struct.pack("=3I", 0, init.ENDED, 0xFFFFFFFF),
        struct.pack("=3I", 12, init.FAILED, 0xFFFFFFFF) + b"execve\0/sh\0\0",
        struct.pack("=3I", 4, init.FAILED, 17) + b"id\0\0",
        struct.pack("=3I", 0, init.DONE, 1),
    ]
    fds = [os.open("/dev/null", os.O_RDWR), *pty.openpty(), *os.pipe()]
    for _round in range(4 * int(_SECONDS)):
        first = socket.socket(socket.AF_UNIX)
        first.bind(str(agent.directory / "socket"))
        first.listen()
        first.settimeout(0.2)
        call = agent.call("run", "x")
        _start(call, agent.directory, terminal=chance.randrange(2), stdin=1)
        peers = []
        with suppress(OSError):
            for _turn in range(chance.randrange(1, 5)):
                peer, _ = first.accept()
                peers.append(peer)
                peer.recv(65536)
                socket.send_fds(peer, [_noise(chance, said)], [chance.choice(fds)] * chance.choice((0, 0, 1, 3)))
                if chance.random() < 0.3:
                    call.process.send_signal(chance.choice((signal.SIGTERM, signal.SIGWINCH, signal.SIGCONT)))
        for peer in peers:
            peer.close()
        first.close()
        (agent.directory / "socket").unlink()
        call.peer.close()
        _check_the_end(call, seed)
        agent.listener.close()
        agent.listen()  # nobody of this round is left in the queue
    for fd in fds:
        os.close(fd)


def _check_the_end(call: Call, seed: int) -> None:
    with suppress(subprocess.TimeoutExpired):
        call.process.wait(20)
    code = call.process.returncode
    call.process.kill()
    _, error = call.process.communicate()
    assert code is not None, f"seed {seed}"
    assert code >= 0, f"seed {seed}\n{error.decode()}"
    assert b"Sanitizer" not in error, f"seed {seed}\n{error.decode()}"
    assert b"runtime error" not in error, f"seed {seed}\n{error.decode()}"
