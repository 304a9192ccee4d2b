"""tm-agent before a fake mom, which speaks as Torque's src/resmom/mom_comm.c does; real ones were tried by hand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pbsdock.admin.setup import first_process

SOURCE = Path(__file__).resolve().parents[2] / "init"
INIT, SPAWN, SIGNAL, OBIT = 100, 102, 103, 104


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled as it is installed."""
    path = tmp_path_factory.mktemp("agent") / "tm-agent"
    first_process.compile_to(path, SOURCE, first_process.TM_AGENT)
    return path


def _number(value: int) -> bytes:
    text, sign = str(abs(value)), "-" if value < 0 else "+"
    out, count = sign + text, len(text)
    while count > 1:
        out, count = str(count) + out, len(str(count))
    return out.encode()


class FakeMom:
    """Two nodes with two slots each, whose ids are 10 to 13. Tasks end with *code* as soon as they are asked for, after
    they have written *output*; with None they end by a signal alone."""

    def __init__(self, tmp_path: Path) -> None:
        self.code: int | None = 0
        self.output = (b"", b"")
        self.lost = 0  # connections that are closed in place of telling an end
        self.deaf = 0  # connections that are closed before a word
        self.refuses = 0
        self.spawned: list[tuple[int, list[str], dict[str, str]]] = []
        self.signals: list[int] = []
        self.got_obit = threading.Event()
        self._door = socket.create_server(("127.0.0.1", 0))
        nodes = tmp_path / "nodes"
        nodes.write_text("n1\nn1\nn2.example.org\nn2.example.org\n")
        self.environment = {
            "PBS_JOBID": "7.server",
            "PBS_JOBCOOKIE": "C" * 32,
            "PBS_NODENUM": "0",
            "PBS_TASKNUM": "1",
            "PBS_MOMPORT": str(self._door.getsockname()[1]),
            "PBS_NODEFILE": str(nodes),
        }
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._door.accept()
            except OSError:
                return
            with connection:
                if self.deaf:
                    self.deaf -= 1
                    continue
                self._talk(connection, connection.makefile("rb"))

    def _talk(self, connection: socket.socket, stream: object) -> None:
        read: Callable[[int], bytes] = stream.read  # type: ignore[attr-defined]

        def number() -> int:
            count = 1
            while True:
                head = read(1)
                if not head:
                    raise EOFError
                if head in b"+-":
                    return int(head + read(count))
                count = int(head + read(count - 1))

        def text() -> str:
            return os.fsdecode(read(number()))

        def answer(kind: int, event: int, *values: bytes) -> None:
            connection.sendall(b"".join((_number(5), _number(2), _number(kind), _number(event), *values)))

        obit = 0
        try:
            while True:
                assert (number(), number()) == (5, 2)
                assert (text(), text()) == ("7.server", "C" * 32)
                request, event, _task = number(), number(), number()
                if request == INIT:
                    nodes = [_number(4), *map(_number, range(10, 14))]
                    answer(0, event, *nodes, _number(0), _number(-1), _number(0))
                elif request == SPAWN:
                    node, count = number(), number()
                    argv, variables = [text() for _ in range(count)], {}
                    while pair := text():
                        name, _, variables_value = pair.partition("=")
                        variables[name] = variables_value
                    self.spawned.append((node, argv, variables))
                    if self.refuses:
                        answer(999, event, _number(self.refuses))
                        continue
                    for name, data in zip(("TM_STDOUT_PORT", "TM_STDERR_PORT"), self.output, strict=True):
                        with socket.create_connection(("127.0.0.1", int(variables[name]))) as out:
                            out.sendall(data)
                    answer(0, event, _number(123456789012))
                elif request == OBIT:
                    assert (number() in range(10, 14), number()) == (True, 123456789012)
                    if self.lost:
                        self.lost -= 1
                        return
                    obit = event
                    if self.code is not None:
                        answer(0, event, _number(self.code))
                    self.got_obit.set()
                elif request == SIGNAL:
                    number(), number()
                    self.signals.append(number())
                    answer(0, event)
                    answer(0, obit, _number(256 + self.signals[-1]))
        except (EOFError, OSError, ValueError):
            return

    def close(self) -> None:
        self._door.close()


@pytest.fixture
def mom(tmp_path: Path) -> Iterator[FakeMom]:
    """One per test."""
    made = FakeMom(tmp_path)
    yield made
    made.close()


def _run(agent: Path, mom: FakeMom, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(agent), *words],
        env=mom.environment | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_a_command_on_another_node(agent: Path, mom: FakeMom) -> None:
    """As a shell reads it, with the ticket and nothing else of the environment; output and end come back whole."""
    mom.code, mom.output = 7, (b"o" * 300_000, b"told\n")

    done = _run(agent, mom, "n2", "echo", "$HOME;", "exit 7", PBSDOCK_TICKET="t.1", SECRET="x")

    assert (done.returncode, len(done.stdout), done.stderr) == (7, 300_000, "told\n")
    ((node, argv, variables),) = mom.spawned
    assert (node, argv) == (12, ["/bin/sh", "-c", "echo $HOME; exit 7"])
    assert set(variables) == {"PBSDOCK_TICKET", "TM_STDOUT_PORT", "TM_STDERR_PORT"}


@pytest.mark.parametrize(
    ("code", "seen"), [(0, 0), (255, 255), (256 + 9, 137), (256 + 15, 143), (-1, 255), (4096, 255)]
)
def test_how_it_ended(agent: Path, mom: FakeMom, code: int, seen: int) -> None:
    """Torque tells of signals as 256 and the number."""
    mom.code = code

    assert _run(agent, mom, "n1", "true").returncode == seen


@pytest.mark.parametrize(
    "words",
    [
        ("-x", "-q", "n2", "true"),
        ("-n", "-o", "StrictHostKeyChecking=no", "-p22", "-l", "alice", "n2", "true"),
        ("alice@n2.example.org", "true"),
        ("N2", "-n", "true"),
        ("-TX", "--", "n2", "true"),
    ],
)
def test_sshs_options_are_passed_over(agent: Path, mom: FakeMom, words: tuple[str, ...]) -> None:
    """A launcher that knows ssh need not know better."""
    assert _run(agent, mom, *words).returncode == 0
    assert [(node, argv[2]) for node, argv, _ in mom.spawned] == [(12, "true")]


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        (("n3", "true"), {}, "tm-agent: host n3 is none of this job's: n1, n2.example.org\n"),
        (("n2.other.org", "true"), {}, "host n2.other.org is none of this job's"),
        (("n2",), {}, "tm-agent: no command"),
        ((), {}, "tm-agent: usage: tm-agent"),
        (("-Z", "n2", "true"), {}, "tm-agent: unknown option -Z\n"),
        (("n2", "true"), {"PBS_NODENUM": "1"}, "only the job's first node can start commands on others"),
        (("n2", "true"), {"PBS_NODEFILE": "/none"}, "cannot read the node file /none"),
        (("n2", "true"), {"PBS_JOBCOOKIE": ""}, "PBS_JOBCOOKIE is not set"),
    ],
)
def test_one_sentence_and_255(
    agent: Path, mom: FakeMom, words: tuple[str, ...], environment: dict[str, str], says: str
) -> None:
    """As ssh ends where the command could not be run; nothing was started."""
    done = _run(agent, mom, *words, **environment)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (255, "", 1)
    assert says in done.stderr
    assert mom.spawned == []


def test_mom_refuses(agent: Path, mom: FakeMom) -> None:
    """With her number of the reason."""
    mom.refuses = 17000

    done = _run(agent, mom, "n2", "true")

    assert (done.returncode, done.stderr) == (
        255,
        "tm-agent: pbs_mom could not start the command on n2 (TM error 17000)\n",
    )


def test_a_mom_that_is_restarted(agent: Path, mom: FakeMom) -> None:
    """The command went on meanwhile: its end is asked for again, and it is not started twice."""
    mom.code, mom.lost = 3, 1

    assert _run(agent, mom, "n2", "true").returncode == 3
    assert len(mom.spawned) == 1


def test_a_mom_that_is_just_restarted(agent: Path, mom: FakeMom) -> None:
    """There is no command yet whose end could be asked for."""
    mom.code, mom.deaf = 3, 1

    assert _run(agent, mom, "n2", "true").returncode == 3
    assert len(mom.spawned) == 1


def test_a_signal_is_the_commands(agent: Path, mom: FakeMom) -> None:
    """Launchers end their daemons so."""
    mom.code = None
    with subprocess.Popen([str(agent), "n2", "sleep 60"], env=mom.environment) as running:
        assert mom.got_obit.wait(10)
        running.send_signal(signal.SIGTERM)

        assert running.wait(10) == 128 + 15
    assert mom.signals == [signal.SIGTERM]


def test_as_pbsdsh_without_one(agent: Path, mom: FakeMom, tmp_path: Path) -> None:
    """A sentence with the other way."""
    (tmp_path / "pbsdsh").symlink_to(agent)

    done = _run(tmp_path / "pbsdsh", mom, "hostname")

    assert done.returncode == 255
    assert done.stderr.startswith("pbsdsh: this node has no pbsdsh of pbs_mom's that runs in a container; ")
