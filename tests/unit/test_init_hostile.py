"""The first process against clients that are mad or malicious: it serves the others, loses nothing, and never dies.

All of it runs on the program as it is installed and on one with the compiler's sanitizers, whose report would be found in
its standard error.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pbsdock.protocol import init
from tests.support.first_process import OWNER, REPOSITORY, SANITIZED, FirstProcess, build

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="making namespaces needs root")
HEAD = 296
RUN = init.encode_run(
    init.Run("victim", [b"sh", b"-c", b"true"], [b"PATH=/bin", b"A=1"], b"/", umask=0o22, flags=init.SESSION)
)


@pytest.fixture(scope="module", params=["installed", "sanitized"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both builds."""
    return build(tmp_path_factory, sanitized=request.param == "sanitized")


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstProcess]:
    """The same without sanitizers, for what takes long or is measured."""
    with FirstProcess(build(tmp_path_factory, sanitized=False)) as made:
        yield made


@pytest.fixture
def first(program: Path) -> Iterator[FirstProcess]:
    """One with its gate open."""
    with FirstProcess(program) as made:
        yield made


@contextmanager
def as_owner() -> Iterator[None]:
    """Connections made meanwhile are the owner's."""
    os.setegid(OWNER)
    os.seteuid(OWNER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def raw(first: FirstProcess) -> socket.socket:
    """A connection that says what it likes."""
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(15)
    made.connect(first.path)
    return made


def serves(first: FirstProcess, id: str, most_s: float = 2) -> None:
    """It still does what it is for, and at once."""
    began = time.monotonic()
    assert first.run(id, "echo", "served")[1] == b"served\n"
    assert time.monotonic() - began < most_s


def descriptors(first: FirstProcess) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{first.pid}/fd"))


def test_half_messages_stop_nobody_and_are_forgotten(installed: FirstProcess) -> None:
    """Nothing, half a head, a head without its texts, half of the texts, a byte now and then: ten seconds, not more."""
    before = descriptors(installed)
    clients = [raw(installed) for _ in range(5)]
    for client, size in zip(clients, (0, 7, HEAD, len(RUN) - 1, 1), strict=True):
        client.sendall(RUN[:size])
    serves(installed, "meanwhile")
    began = time.monotonic()
    for at in range(1, 200):
        try:
            clients[4].sendall(RUN[at : at + 1])
        except OSError:
            break
        time.sleep(0.1)
    assert 8 < time.monotonic() - began < 13

    for client in clients:
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""
        client.close()
    _wait_for(lambda: descriptors(installed) <= before)
    assert installed.status("victim") is None


def test_one_byte_at_a_time_is_a_message(first: FirstProcess) -> None:
    """However a stream is cut."""
    client = raw(first)
    message = init.encode_signal("nobody", 0)
    for at in range(len(message)):
        client.sendall(message[at : at + 1])

    answer = init.decode(client.recv(1000))

    assert answer is not None
    assert (answer[0].step, answer[0].number) == ("id", errno.ESRCH)
    client.close()


def test_several_messages_at_once(first: FirstProcess) -> None:
    """Each has its answer, in order."""
    client = raw(first)
    client.sendall(init.encode_signal("a", 0) * 50 + init.encode_join("b"))
    data = b""
    answers = []
    while len(answers) < 51:
        while (found := init.decode(data)) is None:
            data += client.recv(4096)
        answers.append(found[0])
        data = data[found[1] :]

    assert {(one.kind, one.number, one.step) for one in answers} == {(init.FAILED, errno.ESRCH, "id")}
    client.close()


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, 2),  # version
        (4, 0),  # kind
        (4, 5),
        (8, 0),  # length: the texts are then the next head
        (12, 32),  # a flag that is none
        (12, init.TERMINAL),  # without a session
        (20, 0o1000),  # umask
        (24, 0),  # no argument
        (24, 4),  # more arguments than texts... the environment is taken for arguments, but never what is not there
        (24, 6),
        (24, 0xFFFFFFFF),
        (24, 0x7FFFFFFF),
        (28, 1 << 16),  # a limit that is none
    ],
)
def test_heads_that_lie(first: FirstProcess, at: int, value: int) -> None:
    """Refused, or what the kernel makes of it; never more than was sent."""
    client = raw(first)
    null = os.open(os.devnull, os.O_RDWR)
    message = RUN[:at] + value.to_bytes(4, "little") + RUN[at + 4 :]
    socket.send_fds(client, [message], [null, null, null])
    os.close(null)

    found = init.decode(client.recv(1000))

    assert found is not None
    assert found[0].kind == (init.PID if (at, value) == (24, 4) else init.FAILED)
    client.close()
    serves(first, "after")


@pytest.mark.parametrize("id", [b"", b".new", b"..", b"a/b", b"a b", b"x" * 65, b"x" * 5000, b"socket\xff"])
def test_ids_that_are_none(first: FirstProcess, id: bytes) -> None:
    """They would be names of files, and have a place of 64 bytes."""
    null = os.open(os.devnull, os.O_RDWR)
    texts = RUN[HEAD:].replace(b"victim", id, 1)
    client = raw(first)
    socket.send_fds(client, [RUN[:8] + len(texts).to_bytes(4, "little") + RUN[12:HEAD] + texts], [null, null, null])
    os.close(null)

    found = init.decode(client.recv(1000))

    assert found is not None
    assert (found[0].kind, found[0].number, found[0].step) == (init.FAILED, errno.EINVAL, "request")
    client.close()


@pytest.mark.parametrize(("length", "number"), [((8 << 20) + 1, errno.E2BIG), (0xFFFFFFFF, errno.E2BIG)])
def test_what_is_too_large_is_not_waited_for(first: FirstProcess, length: int, number: int) -> None:
    """The head is enough to refuse it."""
    client = raw(first)
    client.sendall(RUN[:8] + length.to_bytes(4, "little") + RUN[12:HEAD])

    found = init.decode(client.recv(1000))

    assert found is not None
    assert (found[0].kind, found[0].number, found[0].step) == (init.FAILED, number, "request")
    assert client.recv(1) == b""
    client.close()


def test_the_owner_can_use_up_the_memory_for_requests_and_root_is_served(first: FirstProcess) -> None:
    """64 MiB of unfinished requests; what is forgotten is free again."""
    head = RUN[:8] + (8 << 20).to_bytes(4, "little") + RUN[12:HEAD]
    clients = []
    with as_owner():
        for _ in range(9):
            clients.append(raw(first))
            clients[-1].sendall(head)
        found = init.decode(clients[-1].recv(1000))
        assert found is not None
        assert (found[0].number, found[0].step) == (errno.ENOMEM, "request")
    serves(first, "root")
    for client in clients:
        client.close()
    with as_owner():
        serves(first, "owner")


@pytest.mark.parametrize("count", [1, 2, 4, 100, 253])
def test_wrong_numbers_of_descriptors(first: FirstProcess, count: int) -> None:
    """Refused or dropped, and none of them stays open."""
    before = descriptors(first)
    with open(os.devnull) as null:
        for message in (RUN, init.encode_open(), init.encode_join("x"), RUN[:5]):
            client = raw(first)
            with suppress(OSError):
                socket.send_fds(client, [message], [null.fileno()] * count)
            if message is RUN:
                with suppress(OSError):
                    found = init.decode(client.recv(1000))
                    assert found is None or found[0].kind == init.FAILED
            client.close()
    serves(first, "after")
    _wait_for(lambda: descriptors(first) <= before)
    assert first.status("victim") is None


def test_descriptors_in_many_pieces(first: FirstProcess) -> None:
    """One by one with the bytes of one message: three are three, a fourth is one that was not announced, a fifth is more
    than there can be."""
    with open(os.devnull) as null:
        for count, kind in ((3, init.PID), (4, init.FAILED), (5, None)):
            client = raw(first)
            with suppress(OSError):
                for at in range(count):
                    socket.send_fds(client, [RUN[at : at + 1]], [null.fileno()])
                client.sendall(RUN[count:])
            found = None
            with suppress(OSError):
                found = init.decode(client.recv(1000))
            assert (found and found[0].kind) == kind
            client.close()


def test_a_thousand_connections(first: FirstProcess) -> None:
    """And another hundred of the owner's, which are refused; root is served all the same."""
    clients = []
    with as_owner():
        for _ in range(1100):
            clients.append(raw(first))
        found = init.decode(clients[-1].recv(1000))
        assert found is not None
        assert (found[0].number, found[0].step) == (errno.EAGAIN, "busy")
    serves(first, "root")
    assert first.run("signals", "true")[0].kind == init.ENDED
    for client in clients:
        client.close()
    with as_owner():
        serves(first, "owner")


def test_too_few_descriptors(program: Path) -> None:
    """Where no connection can be taken it waits for one to end, and does not spin."""
    with FirstProcess(program, descriptors="40:40") as first:
        clients = [raw(first) for _ in range(60)]
        used = _cpu(first.pid)
        time.sleep(1)
        assert _cpu(first.pid) - used < 0.3
        for client in clients:
            client.close()
        serves(first, "after")


def _cpu(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_a_client_that_never_reads(first: FirstProcess) -> None:
    """Is dropped when its answers fill the socket; nobody waits for it."""
    client = raw(first)
    client.settimeout(5)
    many = init.encode_signal("nobody", 0) * 20_000
    with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe, as it comes
        client.sendall(many)
    serves(first, "meanwhile")
    client.close()


def test_clients_that_go_away(first: FirstProcess) -> None:
    """In the middle of everything, hundreds of times; what they had run runs on and is told to who joins."""
    before = descriptors(first)
    for number in range(300):
        first.start(f"t{number}", "sh", "-c", "exit 5").close()
    for number in range(300):
        connection = first.connect()
        connection.send(init.encode_join(f"t{number}"))
        assert first.end(connection).number == 5 << 8
    _wait_for(lambda: descriptors(first) <= before)


def test_more_tasks_than_there_is_place_for(first: FirstProcess) -> None:
    """The 1,025th is refused; the others end as they should."""
    connections = [first.start(f"t{number}", "sleep", "300") for number in range(1000)]
    for connection in connections:
        assert connection.receive().kind == init.PID
        connection.close()
    late = []
    for number in range(1000, 1026):
        late.append(first.start(f"t{number}", "sleep", "300"))
    kinds = [one.receive().kind for one in late]
    assert kinds == [init.PID] * 24 + [init.FAILED] * 2
    assert first.send_signal("t7", signal.SIGKILL).number == 1
    _wait_for(lambda: first.status("t7") is not None)
    serves(first, "after")
    for one in late:
        one.close()


def test_garbage_over_the_socket(first: FirstProcess) -> None:
    """Bytes at random, and good messages with a few of them changed; the seed is told where it fails."""
    seed = int(os.environ.get("PBSDOCK_FUZZ_SEED", random.randrange(1 << 32)))
    print(f"PBSDOCK_FUZZ_SEED={seed}")
    chance = random.Random(seed)
    good = [RUN, init.encode_join("x"), init.encode_signal("y", 9), init.encode_open()]
    before = descriptors(first)
    with open(os.devnull) as null:
        for _ in range(1500):
            message = bytearray(chance.choice(good))
            for _ in range(chance.randrange(6)):
                message[chance.randrange(len(message))] = chance.choice((0, 255, chance.randrange(256)))
            if chance.random() < 0.2:
                message = bytearray(chance.randbytes(chance.randrange(1, 2000)))
            client = raw(first)
            with suppress(OSError):
                socket.send_fds(
                    client,
                    [bytes(message[: chance.randrange(1, len(message) + 1)])],
                    [null.fileno()] * chance.randrange(4),
                )
                if chance.random() < 0.1:
                    client.setblocking(False)
                    client.recv(1000)
            client.close()
    serves(first, "after")
    _wait_for(lambda: descriptors(first) <= before)


def test_the_parser_under_a_fuzzer(tmp_path: Path) -> None:
    """A million requests that are almost good, in a process of its own with the sanitizers."""
    program = tmp_path / "fuzz"
    seconds = os.environ.get("PBSDOCK_FUZZ_S", "3")
    subprocess.run(["cc", *SANITIZED, "-o", str(program), str(REPOSITORY / "tests/init_fuzz.c")], check=True)
    seed = str(random.randrange(1 << 30))

    done = subprocess.run([str(program), seconds, seed], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, ""), f"seed {seed}\n{done.stderr}"
    rounds, good = (int(word) for word in done.stdout.split() if word.isdigit())
    assert rounds > 10_000
    assert good > rounds / 1000


def test_the_owner_can_break_only_their_own(program: Path) -> None:
    """A socket, a directory, a file of the job's that is exchanged: process 1 goes on, a reader is not deceived for long."""
    with FirstProcess(program) as first:
        elsewhere = first.base / "elsewhere"
        elsewhere.write_text("ended 0\n")
        (first.directory / "task.status").symlink_to(elsewhere)
        assert first.status("task") is None
        os.mkfifo(first.directory / "fifo.status")
        assert first.status("fifo") is None
        os.mkfifo(first.directory / ".new")
        serves(first, "other")
        end = first.status("other")
        assert end is not None
        assert end.number == 0
        (first.directory / "third.status").write_bytes(b"ended 99999999999999999999\n" + b"x" * 5000)
        assert first.status("third") is None


def _wait_for(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)
