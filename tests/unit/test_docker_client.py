"""The `docker` of jobs, init/docker.c, against a stand-in of the agent that sends what a test tells it to.

What runs a command is the real first process, as process 1 of namespaces of its own. Everything else is the program itself, as
it is installed and with the compiler's sanitizers.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.admin.setup import first_process
from pbsdock.protocol import init, wire
from tests.support.docker_client import IMPATIENT, Call, StandInAgent
from tests.support.first_process import OWNER, FirstProcess, build

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="making namespaces needs root")
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=["installed", "sanitized"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is installed, and with the compiler's sanitizers, which end it at the first fault."""
    return build(tmp_path_factory, sanitized=request.param == "sanitized", of=first_process.DOCKER)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the sanitizers; it waits for little."""
    return build(tmp_path_factory, sanitized=True, of=first_process.DOCKER, before=IMPATIENT)


@pytest.fixture
def agent(program: Path) -> Iterator[StandInAgent]:
    made = StandInAgent(program)
    yield made
    made.close()


@pytest.fixture
def hasty(impatient: Path) -> Iterator[StandInAgent]:
    made = StandInAgent(impatient)
    yield made
    made.close()


@pytest.fixture(scope="module")
def init_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first process as it is installed."""
    return build(tmp_path_factory, sanitized=False)


@pytest.fixture
def first(init_program: Path) -> Iterator[FirstProcess]:
    with FirstProcess(init_program) as made:
        yield made


# -- how it was called, and how it ends ---------------------------------------------------------------------------


def test_how_it_was_called(agent: StandInAgent) -> None:
    """Arguments and environment byte by byte, the directory, the umask, and which descriptors are terminals."""
    environment = {"A": "b\nc", "DOCKER_HOST": "tcp://elsewhere", "RAW": "\udcff"}
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))
    call = agent.call("run", "", "\udcfe", "-it", env=environment, cwd="/usr", umask=0o027, stderr=slave)

    assert call.asked.op == "docker"
    assert call.asked.text("called").rpartition("/")[2] == "docker"
    assert call.asked.raw("argv") == [b"run", b"", b"\xfe", b"-it"]
    assert sorted(call.asked.raw("env")) == [b"A=b\nc", b"DOCKER_HOST=tcp://elsewhere", b"RAW=\xff"]
    assert call.asked.text("cwd") == "/usr"
    assert call.asked.number("umask") == 0o027
    assert call.asked.raw("tty") == [b"2"]
    assert (call.asked.number("rows"), call.asked.number("columns")) == (33, 77)
    call.end()
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize("code", [0, 1, 125, 255])
def test_exit(agent: StandInAgent, code: int) -> None:
    """With the code that the agent tells."""
    assert agent.call("ps").end(code) == (b"", b"")


def test_output_and_notices(agent: StandInAgent) -> None:
    """Texts are written as they are; a notice is one line."""
    call = agent.call("ps")
    call.tell("waiting")
    call.tell("out", stream=1, text="no line end")
    call.tell("out", stream=2, text=b"\xff\n")
    call.tell("notice", sentence="hear this")
    call.tell("out", stream=1, text="")

    assert call.end() == (b"no line end", b"\xff\nhear this\n")


@pytest.mark.parametrize(("op", "fields", "code"), [("refused", {}, 125), ("fault", {"status": 1}, 1)])
def test_refusals(agent: StandInAgent, op: str, fields: dict[str, int], code: int) -> None:
    """The sentence as Docker's own are, with its status."""
    call = agent.call("run", "--privileged", "x")
    call.tell(op, sentence="not here", **fields)  # type: ignore[arg-type]

    assert call.over(code) == (b"", b"docker: not here\n")


def test_nobody_reads_the_output(agent: StandInAgent) -> None:
    """A closed pipe ends it as it ends Docker's."""
    read_end, write_end = os.pipe()
    call = agent.call("ps", stdout=write_end)
    os.close(write_end)
    os.close(read_end)
    call.tell("out", stream=1, text="text")

    assert call.over(128 + signal.SIGPIPE)[1] == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_nothing_runs(agent: StandInAgent, number: int) -> None:
    """Ends it, by a code."""
    call = agent.call("pull", "x")
    call.process.send_signal(number)

    call.over(128 + number)


def test_a_hangup_that_is_ignored(agent: StandInAgent) -> None:
    """nohup(1) works."""
    call = agent.call("pull", "x", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    call.process.send_signal(signal.SIGHUP)
    time.sleep(0.1)

    call.end(3)


def test_no_agent(agent: StandInAgent) -> None:
    """With nobody behind the socket: a sentence, and whatever the environment says."""
    agent.listener.close()
    process = agent.start("ps", env={"DOCKER_HOST": "unix:///var/run/docker.sock"})
    assert process.communicate(timeout=20)[1] == b"docker: the pbsdock agent on this node did not answer\n"
    assert process.returncode == 125


def test_an_agent_that_has_just_been_started(agent: StandInAgent) -> None:
    """By the hook before the job: it is waited for, whether there is a socket of an earlier one or none."""
    for leaves in (True, False):
        agent.listener.close()
        if not leaves:
            (agent.directory / "agent.sock").unlink()
        process = agent.start("ps")
        time.sleep(0.3)
        agent.listen()
        Call(agent, process).end(3)


def test_no_file_beside_it(hasty: StandInAgent) -> None:
    """Then it is a container's, where the agent has a place of its own; here that is one in the working directory."""
    (hasty.directory / "agent.path").unlink()
    process = hasty.start("ps", env={"DOCKER_HOST": "unix:///var/run/docker.sock"}, cwd=hasty.directory)
    said = process.communicate(timeout=20)[1]
    assert said == b"docker: there is no pbsdock agent here: this docker works in jobs only\n"
    assert process.returncode == 125

    (hasty.directory / "agent.sock").rename(hasty.directory / "door.sock")
    hasty.call("ps", cwd=hasty.directory).end(4)


def test_an_agent_that_does_not_answer(hasty: StandInAgent) -> None:
    """It has half a second here, ten as installed; once it has said something it may take as long as it likes."""
    call = hasty.call("ps")
    assert call.over(125)[1] == b"docker: the pbsdock agent on this node did not answer\n"

    call = hasty.call("ps")
    call.tell("waiting")
    time.sleep(1)
    call.end(2)


def test_an_agent_that_is_lost(agent: StandInAgent) -> None:
    """Nothing runs: one sentence."""
    call = agent.call("ps")
    call.tell("notice", sentence="hear")
    call.peer.close()

    assert call.over(125)[1] == b"hear\ndocker: the pbsdock agent on this node is gone\n"


# -- files and questions ------------------------------------------------------------------------------------------


def test_reading(agent: StandInAgent, tmp_path: Path) -> None:
    """A file's bytes, standard input's, or why not."""
    (tmp_path / "file").write_bytes(b"A=1\nB=\xff\n")
    (tmp_path / "nul").write_bytes(b"A\0B")
    call = agent.call("run", cwd=tmp_path, stdin=subprocess.PIPE)
    assert call.process.stdin is not None
    call.process.stdin.write(b"typed")
    call.process.stdin.close()
    call.process.stdin = None

    assert call.ask("read", path="file", most=100).raw("data") == [b"A=1\nB=\xff\n"]
    assert call.ask("read", path="-").raw("data") == [b"typed"]
    assert call.ask("read", path="/dev/null").raw("data") == [b""]
    for path, most, error, reason in (
        ("file", 7, 22, "it is too long"),
        ("nul", 100, 22, "it holds a NUL"),
        ("/dev/zero", 1 << 40, 22, "it holds a NUL"),
        (".", 100, 21, "Is a directory"),
        ("none", 100, 2, "No such file or directory"),
    ):
        answer = call.ask("read", path=path, most=most)
        assert (answer.op, answer.number("errno")) == ("failed", error)
        assert answer.text("reason") == reason
    call.end()


def test_writing_what_is_new(agent: StandInAgent, tmp_path: Path) -> None:
    """Only where nothing is, links included."""
    (tmp_path / "link").symlink_to("elsewhere")
    call = agent.call("run", cwd=tmp_path, umask=0o027)

    assert call.ask("write", path="id", text="abc", mode="666", how="new").op == "done"
    assert (tmp_path / "id").read_bytes() == b"abc"
    assert (tmp_path / "id").stat().st_mode & 0o7777 == 0o640
    for path in ("id", "link"):
        answer = call.ask("write", path=path, text="other", mode="666", how="new")
        assert (answer.op, answer.number("errno")) == ("failed", 17)
    assert not (tmp_path / "elsewhere").exists()
    call.end()


def test_writing_what_is_replaced(agent: StandInAgent, tmp_path: Path) -> None:
    """The file is the old or the new, never half; its directory is made; a link stays one."""
    call = agent.call("login", cwd=tmp_path)
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")

    for path in (f"{tmp_path}/.docker/config.json", "plain", "link"):
        assert call.ask("write", path=path, text="{}", mode="600", how="replace").op == "done"
    assert (tmp_path / ".docker").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / ".docker/config.json").stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "real").read_text() == "{}"
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {".docker", "plain", "real", "link"}
    answer = call.ask("write", path="/proc/none/x", text="", mode="600", how="replace")
    assert answer.op == "failed"
    call.end()


def test_copying_streams(agent: StandInAgent, tmp_path: Path) -> None:
    """Each from where its descriptor stands; a gigabyte is not held in memory."""
    (tmp_path / "out").write_bytes(b"before" + b"x" * 3_000_000)
    (tmp_path / "error").write_bytes(b"oops\n")
    call = agent.call("logs", "c")
    with (tmp_path / "out").open("rb", buffering=0) as out, (tmp_path / "error").open("rb") as error:
        out.seek(6)
        call.tell("copy", fds=[out.fileno(), error.fileno()], stream=[b"1", b"2"])
    assert call.process.stdout is not None
    said = call.process.stdout.read(3_000_000)
    assert call.hear().op == "copied"

    assert (said, *call.end()) == (b"x" * 3_000_000, b"", b"oops\n")


def test_following(agent: StandInAgent, tmp_path: Path) -> None:
    """What is written later comes, until the agent says that it was all."""
    call = agent.call("logs", "-f", "c")
    with (tmp_path / "out").open("ab", buffering=0) as file:
        with (tmp_path / "out").open("rb") as out:
            call.tell("copy", fds=[out.fileno()], stream=1, follow=1)
        assert call.process.stdout is not None
        for number in range(3):
            file.write(b"line %d\n" % number)
            assert call.process.stdout.read(7) == b"line %d\n" % number
        file.write(b"last\n")
        call.tell("over")
        assert call.hear().op == "copied"

    assert call.end()[0] == b"last\n"


def test_asking(agent: StandInAgent) -> None:
    """One line of standard input, which stays otherwise unread; or that there was none."""
    call = agent.call("login", stdin=subprocess.PIPE, start_new_session=True)
    assert call.process.stdin is not None
    call.process.stdin.write(b"me\nsecret\n")
    call.process.stdin.close()
    call.process.stdin = None

    assert call.ask("ask", prompt="Username: ", echo=1).raw("data") == [b"me"]
    assert call.ask("ask", prompt="Password: ").raw("data") == [b"secret"]
    assert call.ask("ask", prompt="More: ").op == "failed"
    assert call.end()[1] == b"Username: Password: More: "


# -- a container --------------------------------------------------------------------------------------------------


def _started(call: Call, first: FirstProcess, *argv: str, **fields: str | bytes | int | list[bytes]) -> None:
    """As the agent answers when a child container waits at its gate that is open."""
    directory = os.open(first.directory, os.O_PATH)
    given: dict[str, str | bytes | int | list[bytes]] = {
        "name": "child",
        "argv": [os.fsencode(argument) for argument in argv],
        "env": [b"PATH=/usr/bin:/bin"],
        "directory": "/",
        "stdin": 1,
        "leader": 0,
    }
    call.tell("started", fds=[directory], **(given | fields))
    os.close(directory)


@needs_root
@pytest.mark.parametrize(("script", "status", "code"), [("exit 7", 7 << 8, 7), ("kill -9 $$", 9, 137)])
def test_a_container_runs(agent: StandInAgent, first: FirstProcess, script: str, status: int, code: int) -> None:
    """With the very descriptors; its end is told, and the agent has the last word."""
    call = agent.call("run", "x", stdin=subprocess.PIPE, user=OWNER, group=OWNER, extra_groups=[])
    _started(call, first, "sh", "-c", f"read line; echo got $line; echo error >&2; {script}")
    assert call.process.stdin is not None
    call.process.stdin.write(b"a line\n")
    call.process.stdin.flush()
    over = call.hear()

    assert (over.op, over.text("child")) == ("over", "child")
    assert (over.number("kind"), over.number("number")) == (init.ENDED, status)
    assert call.end(code) == (b"got a line\n", b"error\n")


@needs_root
def test_without_input(agent: StandInAgent, first: FirstProcess) -> None:
    """Standard input is /dev/null, whatever the client's is: the rest of a script is not eaten."""
    call = agent.call("run", "x", stdin=subprocess.PIPE)
    _started(call, first, "sh", "-c", "readlink /proc/self/fd/0; cat", stdin=0)
    assert call.hear().op == "over"

    assert call.end()[0] == b"/dev/null\n"


@needs_root
def test_a_command_that_is_not_there(agent: StandInAgent, first: FirstProcess) -> None:
    """The agent learns the step and what it was."""
    call = agent.call("run", "x")
    _started(call, first, "/no/such")
    over = call.hear()

    assert (over.number("kind"), over.number("number")) == (init.FAILED, 2)
    assert (over.text("step"), over.text("path")) == ("execve", "/no/such")
    call.tell("fault", sentence="no /no/such in the image", status=127)
    assert call.over(127)[1] == b"docker: no /no/such in the image\n"


@needs_root
@pytest.mark.parametrize("proxy", [1, 0])
def test_signals(agent: StandInAgent, first: FirstProcess, proxy: int) -> None:
    """Are the container's, or with --sig-proxy=false the client's own."""
    call = agent.call("run", "x")
    script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    _started(call, first, "sh", "-c", script, proxy=proxy)
    assert call.process.stdout is not None
    assert call.process.stdout.readline() == b"ready\n"
    call.process.send_signal(signal.SIGTERM)
    if proxy:
        assert call.hear().number("number") == 3 << 8
        assert call.end(3)[0] == b"term\n"
    else:
        assert call.process.wait(20) == 128 + signal.SIGTERM
        first.send_signal("child", signal.SIGKILL)


@needs_root
@pytest.mark.parametrize("is_started_again", [False, True])
def test_the_agent_dies_meanwhile(agent: StandInAgent, first: FirstProcess, is_started_again: bool) -> None:
    """The container's end is waited for, and the next agent is told; without one it is the client's own end."""
    call = agent.call("run", "x")
    _started(call, first, "sh", "-c", "echo up; sleep 0.3; exit 5", child="c1")
    assert call.process.stdout is not None
    assert call.process.stdout.readline() == b"up\n"
    call.peer.close()
    agent.listener.close()
    if is_started_again:
        agent.listen()
        call.peer, _ = agent.listener.accept()
        told = call.hear()
        assert (told.op, told.text("child")) == ("docker-over", "c1")
        assert (told.number("kind"), told.number("number")) == (init.ENDED, 5 << 8)
        call.end(9)
    else:
        call.over(5)
        agent.listen()


@needs_root
def test_an_agent_without_a_last_word(hasty: StandInAgent, first: FirstProcess) -> None:
    """It exits as the container did."""
    call = hasty.call("run", "x")
    _started(call, first, "sh", "-c", "exit 6")
    assert call.hear().op == "over"

    call.over(6)


@needs_root
def test_the_first_process_is_killed(agent: StandInAgent, first: FirstProcess) -> None:
    """The agent is told that nothing is known."""
    call = agent.call("run", "x")
    _started(call, first, "sh", "-c", "echo up; sleep 60")
    assert call.process.stdout is not None
    assert call.process.stdout.readline() == b"up\n"
    os.kill(first.pid, signal.SIGKILL)
    over = call.hear()

    assert (over.op, over.raw("kind")) == ("over", [])
    call.end(137)
    first.outer.wait(10)
    first.errors.truncate(0)  # unshare's own word on it


@needs_root
def test_the_job_ends_meanwhile(agent: StandInAgent, first: FirstProcess) -> None:
    """The agent's word ends it, with what the container still says."""
    call = agent.call("run", "x")
    _started(call, first, "sleep", "60")
    time.sleep(0.2)
    call.tell("notice", sentence="the job is over")
    call.tell("exit", code=137)
    assert call.process.wait(20) == 137
    first.send_signal("child", signal.SIGKILL)  # it has the descriptors still

    assert call.over(137)[1] == b"the job is over\n"


@needs_root
def test_limits_and_umask(agent: StandInAgent, first: FirstProcess) -> None:
    """Are the agent's to say."""
    call = agent.call("run", "x", umask=0o077)
    _started(call, first, "sh", "-c", "ulimit -n; umask", limit=[b"7 99 99"], umask=0o022)
    assert call.hear().op == "over"

    assert call.end()[0] == b"99\n0022\n"


# -- a container's terminal ---------------------------------------------------------------------------------------


class Terminal:
    """The user's terminal; the client is in its foreground."""

    def __init__(self, agent: StandInAgent, *argv: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.call = agent.call(*argv, stdin=slave, stdout=slave, stderr=slave, preexec_fn=self._control)

    @staticmethod
    def _control() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, rows: int, columns: int) -> None:
        """As its window is."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """What the user types."""
        os.write(self.master, keys)

    def read_until(self, text: bytes) -> bytes:
        """What is shown, up to *text*."""
        shown = b""
        deadline = time.monotonic() + 20
        while not shown.endswith(text):
            assert time.monotonic() < deadline, shown
            if select.select([self.master], [], [], 0.1)[0]:
                shown += os.read(self.master, 1)
        return shown

    @property
    def is_as_before(self) -> bool:
        """Whether the terminal's settings are the user's."""
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        """Tidy up."""
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(agent: StandInAgent) -> Iterator[Terminal]:
    made = Terminal(agent, "run", "-it", "x")
    yield made
    made.close()


@needs_root
def test_a_terminal(terminal: Terminal, first: FirstProcess) -> None:
    """Raw outside, a terminal with a name and the window's size inside; keys are the container's, the size follows."""
    assert terminal.call.asked.raw("tty") == [b"0", b"1", b"2"]
    script = "trap 'echo interrupted' INT; tty; stty size; read line; stty size; echo got $line; read line; exit 4"
    _started(terminal.call, first, "bash", "-c", script, terminal=1)
    assert terminal.read_until(b"24 80\r\n").startswith(b"/dev/pts/")
    assert not terminal.is_as_before
    terminal.resize(50, 132)
    time.sleep(0.2)
    terminal.type(b"a b\r")
    assert terminal.read_until(b"got a b\r\n") == b"a b\r\n50 132\r\ngot a b\r\n"
    terminal.type(b"\x03")
    assert terminal.read_until(b"interrupted\r\n") == b"^Cinterrupted\r\n"
    terminal.type(b"\r")
    assert terminal.call.hear().number("number") == 4 << 8
    assert terminal.is_as_before
    terminal.call.end(4)


@needs_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_given_back_by_a_signal(terminal: Terminal, first: FirstProcess, number: int) -> None:
    """With the client's end, whatever the container does."""
    _started(terminal.call, first, "sh", "-c", "trap '' TERM HUP; echo up; sleep 60", terminal=1, proxy=0)
    terminal.read_until(b"up\r\n")
    assert not terminal.is_as_before
    terminal.call.process.send_signal(number)

    assert terminal.call.process.wait(20) == 128 + number
    assert terminal.is_as_before
    first.send_signal("child", signal.SIGKILL)


@needs_root
def test_the_terminal_is_given_back_by_the_agent(terminal: Terminal, first: FirstProcess) -> None:
    """With its word in the middle, and where nothing could be started."""
    _started(terminal.call, first, "sh", "-c", "echo up; sleep 60", terminal=1)
    terminal.read_until(b"up\r\n")
    terminal.call.tell("fault", sentence="the job is over", status=137)

    assert terminal.call.process.wait(20) == 137
    assert terminal.is_as_before


@needs_root
def test_leaving_a_container(terminal: Terminal, first: FirstProcess) -> None:
    """Control-P, Control-Q: its terminal is the agent's; Control-P alone is a key as any."""
    _started(
        terminal.call,
        first,
        "sh",
        "-c",
        "stty raw -echo; echo up; dd bs=1 count=2 2>&- | od -c; sleep 0.5; echo on",
        terminal=1,
    )
    terminal.read_until(b"up\n")
    terminal.type(b"\x10x")
    assert b"020   x" in terminal.read_until(b"0000002\n")
    terminal.type(b"\x10")
    time.sleep(0.05)
    terminal.type(b"\x11")
    data, fds, _flags, _address = socket.recv_fds(terminal.call.peer, 4096, 2)
    left = wire.decode(data[4:])
    assert (left.op, left.text("child"), len(fds)) == ("left", "child", 1)
    assert terminal.is_as_before
    terminal.call.end(0)
    assert select.select([fds[0]], [], [], 20)[0]
    assert os.read(fds[0], 100) == b"on\n"
    os.close(fds[0])


@needs_root
def test_a_terminal_without_one_outside(agent: StandInAgent, first: FirstProcess) -> None:
    """As `docker run -t image | cat`: the output is a terminal's, and all of it comes."""
    call = agent.call("run", "-t", "x")
    _started(call, first, "sh", "-c", "test -t 1 && seq 20000", terminal=1, stdin=0)
    assert call.process.stdout is not None
    said = call.process.stdout.read(len(b"".join(b"%d\r\n" % number for number in range(1, 20001))))
    assert said.splitlines()[-1] == b"20000"
    assert call.hear().op == "over"

    assert call.end() == (b"", b"")


@needs_root
def test_what_a_terminal_still_has(agent: StandInAgent, first: FirstProcess) -> None:
    """Where the container is over and its output has not been read: it comes all the same."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, 1031, 4096)  # F_SETPIPE_SZ
    call = agent.call("run", "-t", "x", stdout=write_end)
    os.close(write_end)
    _started(call, first, "seq", "3000", terminal=1, stdin=0)
    time.sleep(0.5)
    assert first.status("child") is not None
    with open(read_end, "rb") as file:
        said = file.read(len(b"".join(b"%d\r\n" % number for number in range(1, 3001))))

    assert said.endswith(b"\r\n3000\r\n")
    assert call.hear().op == "over"
    call.end()


@needs_root
def test_a_password(agent: StandInAgent) -> None:
    """Is not shown, and the terminal is as before; also where a signal ends the question."""
    made = Terminal(agent, "login")
    made.call.tell("ask", prompt="Password: ")
    made.read_until(b"Password: ")
    made.type(b"secret\r")
    assert made.call.hear().raw("data") == [b"secret"]
    assert made.read_until(b"\n") == b"\r\n"
    assert made.is_as_before
    made.call.tell("ask", prompt="Again: ")
    made.read_until(b"Again: ")
    made.type(b"\x03")
    assert made.call.process.wait(20) == 130
    assert made.is_as_before
    made.close()
