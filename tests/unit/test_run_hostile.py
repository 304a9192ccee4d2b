"""The run hook in C, with the compiler's sanitizers, against an agent and a first process that answer what they like."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pbsdock.admin.setup import first_process
from pbsdock.protocol import init, wire
from tests.support.first_process import REPOSITORY, SANITIZED, build

_IMPATIENT = """
#define IMPATIENT
enum { ADOPT_AFTER_MS = 20, CONNECT_MS = 500, GIVE_UP_MS = 500, AGENT_AWAY_MS = 200, AGENT_AT_WORK_MS = 200 };
"""
_PYTHON = 77  # what the stand-in of the interpreter ends with
_STARTED = {"name": "task-1", "task": "task-1", "argv": b"/bin/true", "env": b"A=1", "limit": b"7 64 64"}
_GONE = b"pbsdock: the pbsdock agent on this node did not answer; the job was not started, please submit it again\n"
pytestmark = pytest.mark.timeout(120)


def test_the_parsers_under_a_fuzzer(tmp_path: Path) -> None:
    """A million messages that are almost good, in a process of its own with the sanitizers."""
    program = tmp_path / "fuzz"
    seconds = os.environ.get("PBSDOCK_FUZZ_S", "3")
    subprocess.run(["cc", *SANITIZED, "-o", str(program), str(REPOSITORY / "tests/run_fuzz.c")], check=True)
    seed = str(random.randrange(1 << 30))

    done = subprocess.run([str(program), seconds, seed], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, ""), f"seed {seed}\n{done.stderr}"
    rounds, messages, requests, answers = (int(word) for word in done.stdout.split() if word.isdigit())
    assert rounds > 10_000
    assert min(messages, requests, answers) > rounds / 1000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, which waits for little."""
    return build(tmp_path_factory, sanitized=True, of=first_process.RUN, before=_IMPATIENT)


class Place:
    """The two sockets, and a hook between them."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self.directory = Path(tempfile.mkdtemp(prefix="pbsdock-run."))
        self.agent, self.first = self.listener("agent.sock"), self.listener("socket")

    def listener(self, name: str) -> socket.socket:
        """Somebody who listens by that name."""
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(self.directory / name))
        made.listen()
        made.settimeout(10)
        return made

    def hook(self, *argv: str, **more: object) -> subprocess.Popen[bytes]:
        """A run hook; its interpreter only says that it was asked."""
        python = ["/bin/sh", "-c", f"exit {_PYTHON}", "python"]
        words = [str(self.program), str(self.directory / "agent.sock"), "", str(len(python)), *python, *argv]
        environment = {"PATH": "/usr/bin:/bin", "PBS_JOBID": "7.vm"}
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        return subprocess.Popen(words, **{"env": environment, **options})  # type: ignore[call-overload,no-any-return]

    def let_in(self, peer: socket.socket, **fields: str | bytes | int | list[bytes]) -> None:
        """Answer the request for a start."""
        fd = os.open(self.directory, os.O_PATH)
        given = {**_STARTED, "pbs_track": "/bin/true", "fds": 1, **fields}
        socket.send_fds(peer, [wire.encode(wire.Message("started", **given))], [fd])  # type: ignore[arg-type]
        os.close(fd)

    def close(self) -> None:
        """Tidy up."""
        self.agent.close()
        self.first.close()
        shutil.rmtree(self.directory)


@pytest.fixture
def place(program: Path) -> Iterator[Place]:
    made = Place(program)
    yield made
    made.close()


def _message(peer: socket.socket) -> wire.Message:
    data = peer.recv(4, socket.MSG_WAITALL)
    return wire.decode(peer.recv(int.from_bytes(data, "big"), socket.MSG_WAITALL))


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
def test_an_answer_that_is_none_is_no_answer(place: Place, answer: bytes) -> None:
    """The agent is asked three times, and then taken for lost; nothing runs."""
    hook = place.hook("/bin/true")
    for attempt in range(3):
        peer, _ = place.agent.accept()
        assert _message(peer).number("again") == min(attempt, 1)
        peer.sendall(answer)
        peer.close()

    assert hook.communicate(timeout=20)[1] == _GONE
    assert hook.returncode == 125


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (wire.Message("refused", sentence="not today"), b"not today"),
        (wire.Message("fault", sentence=b"\xff"), b"\xff"),
        (wire.Message("refused"), b"the agent gave no answer that can be understood"),
        (wire.Message("started", argv=b"sh"), b"the agent gave no answer that can be understood"),
        (wire.Message("started", argv=b"sh", fds=-1), b"the agent gave no answer that can be understood"),
    ],
)
def test_what_is_not_started(place: Place, message: wire.Message, says: bytes) -> None:
    """The agent's sentence, or that there is none."""
    hook = place.hook("/bin/true")
    peer, _ = place.agent.accept()
    _message(peer)
    peer.sendall(wire.encode(message))

    assert hook.communicate(timeout=20)[1] == b"pbsdock: " + says + b"\n"
    assert hook.returncode == 125
    peer.close()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "../x"}, b"'../x' is not an id: 1 to 64 letters, digits, '.', '_', '-', the first of them no '.'"),
        ({"name": "n" * 65}, b"'" + b"n" * 65 + b"' is not an id: 1 to 64 letters"),
        ({"limit": b"7 1"}, b"'7 1' is not a limit"),
        ({"limit": b"-3 1 1"}, b"-3 is not the number of a limit"),
        ({"limit": b"7 99999999999999999999999 1"}, b"is not a limit"),
    ],
)
def test_what_cannot_be_asked_for(place: Place, fields: dict[str, object], says: bytes) -> None:
    """One sentence, and nothing is asked for."""
    hook = place.hook("/bin/true")
    peer, _ = place.agent.accept()
    _message(peer)
    place.let_in(peer, **fields)  # type: ignore[arg-type]
    first, _ = place.first.accept()

    assert first.recv(1) == b""
    said = hook.communicate(timeout=20)[1]
    assert said.startswith(b"pbsdock: the job was not started: ")
    assert says in said
    assert hook.returncode == 125
    for one in (first, peer):
        one.close()


@pytest.mark.parametrize("is_again", [False, True])
def test_the_interpreter_is_executed_where_the_agent_says_so(place: Place, is_again: bool) -> None:
    """The job has no first process: nothing was started, and the hook in Python asks for itself."""
    hook = place.hook("/bin/true")
    if is_again:
        peer, _ = place.agent.accept()
        peer.close()
    peer, _ = place.agent.accept()
    asked = _message(peer)
    assert (asked.op, asked.number("direct"), asked.raw("argv")) == ("start", 1, [b"/bin/true"])
    peer.sendall(wire.encode(wire.Message("relay")))

    assert hook.wait(20) == _PYTHON
    peer.close()


def test_the_interpreter_is_executed_in_a_directory_without_a_name(place: Place) -> None:
    """Which only it can tell what to say of."""
    gone = place.directory / "gone"
    gone.mkdir()
    hook = place.hook("/bin/true", preexec_fn=lambda: (os.chdir(gone), gone.rmdir()))

    assert hook.wait(20) == _PYTHON


@pytest.mark.parametrize(("command", "code"), [(["/bin/sh", "-c", "exit 9"], 9), (["sh", "-c", "exit 8"], 8)])
def test_a_job_without_a_container_is_the_command_itself(place: Place, command: list[str], code: int) -> None:
    """Executed in the hook's place."""
    hook = place.hook(*command)
    peer, _ = place.agent.accept()
    _message(peer)
    peer.sendall(wire.encode(wire.Message("notice", sentence="hear")) + wire.encode(wire.Message("bare")))

    assert hook.communicate(timeout=20)[1] == b"pbsdock: hear\n"
    assert hook.returncode == code
    peer.close()


def test_a_command_that_is_not_there_without_a_container(place: Place) -> None:
    """As a shell tells it; a standard error that nobody reads ends nothing."""
    hook = place.hook("/no/such")
    peer, _ = place.agent.accept()
    _message(peer)
    assert hook.stderr is not None
    hook.stderr.close()
    peer.sendall(wire.encode(wire.Message("notice", sentence="hear")) + wire.encode(wire.Message("bare")))

    assert hook.wait(20) == 127
    peer.close()


def test_a_large_request_is_whole(place: Place) -> None:
    """Two MiB of environment and bytes that are no text, as they are; and as much to the first process."""
    environment = {f"V{number}": "x" * 100_000 for number in range(20)} | {"PBS_JOBID": "7.vm", "RAW": "\udcff\n"}
    hook = place.hook("/bin/true", "\udcfe", "", env=environment, cwd="/usr")
    peer, _ = place.agent.accept()
    asked = _message(peer)
    assert asked.raw("env") == [os.fsencode(f"{name}={value}") for name, value in environment.items()]
    assert asked.raw("argv") == [b"/bin/true", b"\xfe", b""]
    assert asked.raw("cwd") == [b"/usr"]
    place.let_in(peer, env=asked.raw("env"), argv=asked.raw("argv"))
    first, _ = place.first.accept()
    head = struct.Struct("=8I4H32Q")
    data, fds, _flags, _address = socket.recv_fds(first, head.size, 8)
    assert len(fds) == 3
    length = head.unpack(data)[2]
    texts = first.recv(length, socket.MSG_WAITALL)
    assert texts.split(b"\0")[:-1] == [b"task-1", b"/", b"", *asked.raw("argv"), *asked.raw("env")]
    first.sendall(struct.pack("=3I", 0, init.ENDED, 5 << 8))
    assert _message(peer).op == "over"
    peer.sendall(wire.encode(wire.Message("ended", code=5)))

    assert hook.wait(20) == 5
    for one in (first, peer):
        one.close()
    for fd in fds:
        os.close(fd)


def _noise(chance: random.Random, good: list[bytes]) -> bytes:
    data = bytearray(b"".join(chance.choice(good) for _ in range(chance.randrange(1, 4))))
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.choice((0, 255, chance.randrange(256)))
    return bytes(data[: chance.randrange(1, len(data) + 1)])


def test_whatever_they_answer(place: Place) -> None:
    """No fault that a sanitizer finds, and an end each time."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    told = [
        wire.encode(message)
        for message in (
            wire.Message("ended", code=3, sentence="so"),
            wire.Message("notice", sentence="hear"),
            wire.Message("refused"),
        )
    ]
    said = [
        struct.pack("=3I", 0, init.PID, 99),
        struct.pack("=3I", 0, init.ENDED, 9),
        struct.pack("=3I", 12, init.FAILED, 2) + b"execve\0/sh\0\0",
        struct.pack("=3I", 4, init.FAILED, 17) + b"id\0\0",
        struct.pack("=3I", 0, init.DONE, 1),
    ]
    for _round in range(4 * int(os.environ.get("PBSDOCK_FUZZ_S", "3"))):
        hook = place.hook("/bin/true")
        peer, _ = place.agent.accept()
        _message(peer)
        place.let_in(peer)
        place.first.settimeout(0.2)
        peers = [peer]
        with suppress(OSError):
            for _turn in range(chance.randrange(1, 5)):
                first, _ = place.first.accept()
                peers.append(first)
                first.recv(65536)
                fds = [first.fileno()] * chance.choice((0, 0, 0, 1, 3))
                socket.send_fds(first, [_noise(chance, said)], fds)
                if chance.random() < 0.3:
                    peer.sendall(_noise(chance, told))
                if chance.random() < 0.3:
                    hook.send_signal(chance.choice((1, 10, 12, 15, 18, 20)))
        for one in peers:
            one.close()
        place.close()
        with suppress(subprocess.TimeoutExpired):
            hook.wait(20)
        code = hook.returncode
        hook.kill()
        _, error = hook.communicate()
        assert code is not None, f"seed {seed}"
        assert b"Sanitizer" not in error, f"seed {seed}\n{error.decode()}"
        assert b"runtime error" not in error, f"seed {seed}\n{error.decode()}"
        place.__init__(place.program)  # type: ignore[misc]
