"""The run hook, as the job's user, against the real first process; the agent is made here."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pbsdock.admin.setup import first_process as admin_first_process
from pbsdock.agent import first_process
from pbsdock.protocol import init, wire
from tests.conftest import ROOT, wait_until
from tests.support.first_process import OWNER, FirstProcess, build

pytestmark = [pytest.mark.skipif(os.getuid() != 0, reason="making namespaces needs root"), pytest.mark.timeout(60)]
_LEADER = first_process.LEADER
_HOOK = "from pbsdock.hook.client import hook; hook()"


class Before(NamedTuple):
    """What makes a run hook another for a test: Python that is run in it first, C that is compiled in front of it."""

    python: str
    c: str


def _patience(*, connect_s: float = 60, agent_s: float | None = None, give_up_s: float = 600) -> Before:
    python = f"""
from pbsdock.hook import agent_link, direct
direct._CONNECT_S, agent_link._GIVE_UP_S = {connect_s}, {give_up_s}
"""
    if agent_s is not None:
        python += f"direct._AGENT_AT_WORK_S = direct._AGENT_AWAY_S = {agent_s}\n"
    work_ms, away_ms = (120_000, 5_000) if agent_s is None else (int(agent_s * 1000),) * 2
    c = f"""
#define IMPATIENT
enum {{ ADOPT_AFTER_MS = 500, CONNECT_MS = {int(connect_s * 1000)}, GIVE_UP_MS = {int(give_up_s * 1000)} }};
enum {{ AGENT_AWAY_MS = {away_ms}, AGENT_AT_WORK_MS = {work_ms} }};
"""
    return Before(python, c)


_IMPATIENT = _patience(agent_s=0.3)
_HOPELESS = _patience(agent_s=0.3, give_up_s=0.5)
# A connection that breaks when the pid has come: the first process sees its end, as of a client that is gone.
_BROKEN = Before(
    """
from pbsdock.protocol import init
receive, seen = init.Connection.receive, []
def broken(self):
    answer = receive(self)
    if answer.kind == init.PID and not seen:
        seen.append(1)
        self.sock.shutdown(2)
    return answer
init.Connection.receive = broken
""",
    """
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
static ssize_t broken(int fd, struct msghdr *m, int flags) {
	static bool is_seen;
	uint32_t reply[3] = { 0 };
	ssize_t got = recvmsg(fd, m, flags);
	if (got == sizeof reply)
		memcpy(reply, m->msg_iov->iov_base, sizeof reply);
	if (reply[1] == 1 && !is_seen) /* PID */
		is_seen = !shutdown(fd, SHUT_RDWR);
	return got;
}
#define recvmsg broken
""",
)
_AS_IT_IS = Before("", "")
_RUN_HOOK = "/hooks/run"
_LONG = f"777.{os.getpid()}"  # seconds, of this run alone


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is installed."""
    return build(tmp_path_factory, sanitized=False)


@pytest.fixture
def first(program: Path) -> Iterator[FirstProcess]:
    """One with its gate open."""
    with FirstProcess(program) as made:
        yield made


class Agent:
    """The agent's end, in a directory that users reach; it does nothing but what a test has it do."""

    def __init__(self, programs: Callable[[str], Path] | None) -> None:
        self.programs = programs  # of the hook in C, by what is compiled in front of it; None: the one in Python
        self.directory = Path(tempfile.mkdtemp(prefix="pbsdock-agent."))
        self.directory.chmod(0o755)
        self.hooks: list[subprocess.Popen[bytes]] = []
        self._data = b""
        self.open()

    def open(self) -> None:
        """Listen."""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.directory / "agent.sock"))
        os.chmod(self.directory / "agent.sock", 0o777)
        self.listener.listen()
        self.listener.settimeout(20)

    def hook(self, *argv: str, before: Before = _AS_IT_IS, **more: Any) -> subprocess.Popen[bytes]:
        """A run hook of that command's, which has asked for its start."""
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "lib"), "PBS_JOBID": "7.vm", "PBS_O_LANG": "é"}
        words = [
            sys.executable,
            "-c",
            before.python + _HOOK,
            "--run-dir",
            str(self.directory),
            "--hook",
            _RUN_HOOK,
            "run",
        ]
        if self.programs is not None:
            program = shutil.copy(self.programs(before.c), self.directory / f"run-{len(self.hooks)}")
            words = [str(program), str(self.directory / "agent.sock"), _RUN_HOOK, str(len(words)), *words]
        process = subprocess.Popen(
            [*words, *argv],
            user=OWNER,
            group=OWNER,
            extra_groups=[],
            env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            **more,
        )
        self.hooks.append(process)
        self.accept()
        self.asked = self.next()
        assert self.asked.op == "start"
        return process

    def accept(self) -> None:
        """Have the next connection."""
        self.peer, _ = self.listener.accept()
        self.peer.settimeout(20)
        self._data = b""

    def next(self) -> wire.Message:
        """What it is told next."""
        while len(self._data) < 4 or len(self._data) < 4 + int.from_bytes(self._data[:4], "big"):
            more = self.peer.recv(65536)
            assert more, "the hook has gone"
            self._data += more
        end = 4 + int.from_bytes(self._data[:4], "big")
        message, self._data = wire.decode(self._data[4:end]), self._data[end:]
        return message

    def let_in(self, first: FirstProcess, *argv: str | bytes, name: str = _LEADER, **fields: Any) -> None:
        """Answer with what the first process is to be asked for: the hook's own command where none is given."""
        words = [os.fsencode(word) for word in argv] or self.asked.raw("argv")
        given = {"argv": words, "env": [b"PATH=/usr/bin:/bin", b"A=1"], "directory": b"/", "name": name, **fields}
        fd = first_process.open_directory(first.directory)
        socket.send_fds(self.peer, [wire.encode(wire.Message("started", fds=1, **given))], [fd])
        os.close(fd)

    def end(self, code: int, *sentences: str) -> None:
        """Tell the end."""
        said = [sentence.encode() for sentence in sentences]
        self.peer.sendall(wire.encode(wire.Message("ended", code=code, sentence=said)))

    def go(self) -> None:
        """Be away."""
        self.listener.close()
        (self.directory / "agent.sock").unlink()
        self.peer.close()


@pytest.fixture(scope="module", params=["python", "c", "sanitized"])
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path] | None:
    """The run hook in Python, that in C, and that with the compiler's sanitizers, which end it at the first fault."""
    if request.param == "python":
        return None
    is_sanitized = request.param == "sanitized"
    of = admin_first_process.RUN
    made = cache(lambda before: build(tmp_path_factory, sanitized=is_sanitized, of=of, before=before))
    made("")  # no test that is about time waits for the compiler
    return made


@pytest.fixture
def agent(programs: Callable[[str], Path] | None) -> Iterator[Agent]:
    made = Agent(programs)
    yield made
    for process in made.hooks:
        process.kill()
        with suppress(ValueError):  # a stream that a test has closed
            process.communicate()
    made.peer.close()
    made.listener.close()
    shutil.rmtree(made.directory)


def _over(agent: Agent) -> tuple[int, int]:
    """Kind and number of the end as the agent is told it."""
    message = agent.next()
    assert (message.op, message.text("job")) == ("over", "7.vm")
    return message.number("kind"), message.number("number")


# -- ends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status", "code", "ends"),
    [
        ("exit 0", 0, 0, 0),
        ("exit 3", 3 << 8, 3, 3),
        ("exit 255", 255 << 8, 255, 255),
        ("exit 137", 137 << 8, 137, 137),
        ("kill -KILL $$", 9, 137, -9),
        ("kill -USR1 $$", 10, 138, -10),
        ("kill -TERM $$", 15, 143, -15),
        ("kill -SEGV $$", 11, 139, -11),
        ("kill -PIPE $$", 13, 141, -13),
        ("kill -KILL $$", 9, 9, 9),  # the agent knows better
        ("exit 0", 0, 153, 153),
        ("exit 1", 1 << 8, 256 + 7, 7),
    ],
)
def test_an_end_is_the_jobs_own(
    agent: Agent, first: FirstProcess, script: str, status: int, code: int, ends: int
) -> None:
    """By a signal where a signal it was, as mom sees of a bare job; and the agent's code where that is another."""
    hook = agent.hook("/bin/sh", "-c", script)
    agent.let_in(first)
    kind, number = _over(agent)
    agent.end(code)

    assert (kind, number & 0x7F7F) == (init.ENDED, status) or (kind, number & 0xFF7F) == (init.ENDED, status)
    assert hook.wait(20) == ends


def test_what_the_agent_has_to_say_is_said(agent: Agent, first: FirstProcess) -> None:
    """While the job runs, and at its end, on its own standard error."""
    hook = agent.hook("/bin/sh", "-c", "read line; echo to error >&2", stdin=subprocess.PIPE)
    agent.let_in(first)
    agent.peer.sendall(wire.encode(wire.Message("notice", sentence="hear, hear")))
    assert hook.stdin is not None
    assert hook.stderr is not None
    assert hook.stderr.readline() == b"pbsdock: hear, hear\n"
    hook.stdin.write(b"\n")
    hook.stdin.flush()
    _over(agent)
    agent.end(0, "one", "two")
    hook.stdin.close()
    hook.stdin = None

    assert hook.communicate(timeout=20)[1] == b"to error\npbsdock: one\npbsdock: two\n"


def test_the_job_has_the_hooks_own_descriptors(agent: Agent, first: FirstProcess, tmp_path: Path) -> None:
    """Joined output in the order it was written, its input as it comes, and none but these three."""
    out = (tmp_path / "out").open("w+b")
    script = "i=0; while [ $i -lt 500 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done; cat; ls /proc/self/fd | wc -l"
    hook = agent.hook("/bin/sh", "-c", script, stdin=subprocess.PIPE, stdout=out, stderr=out)
    agent.let_in(first)
    assert hook.stdin is not None
    hook.stdin.write(b"what was typed\n")
    hook.stdin.close()
    _over(agent)
    agent.end(0)
    assert hook.wait(20) == 0
    hook.stdin = None
    out.seek(0)

    wanted = b"".join(b"o%d\ne%d\n" % (i, i) for i in range(500)) + b"what was typed\n"
    said = out.read()
    assert said[: len(wanted)] == wanted
    assert said[len(wanted) :] == b"4\n"  # with ls(1)'s own, of the directory


def test_what_is_asked_for(agent: Agent, first: FirstProcess, tmp_path: Path) -> None:
    """The agent's words, environment, directory and limits; the hook's own umask, and a session of its own."""
    script = "umask; pwd; ulimit -n; echo $A; echo $B; cut -d' ' -f5,6 /proc/self/stat; echo $0 $1"
    hook = agent.hook("/bin/sh", preexec_fn=lambda: os.umask(0o027))
    agent.let_in(
        first, "sh", "-c", script, "zero", b"\xff", directory=b"/usr", limit=[b"7 55 66"], env=[b"PATH=/bin", b"A=1 2"]
    )
    _over(agent)
    agent.end(0)
    out, error = hook.communicate(timeout=20)
    lines = out.split(b"\n")

    assert lines[:5] == [b"0027", b"/usr", b"55", b"1 2", b""], error
    group, session = lines[5].split()
    assert group == session
    assert lines[6] == b"zero \xff"
    assert (agent.asked.number("umask"), agent.asked.number("tty")) == (0o027, 0)


def test_a_task_leaves_the_container_running(agent: Agent, first: FirstProcess) -> None:
    """Only the leader takes all with it. Its messages name it."""
    hook = agent.hook("/bin/sh", "-c", "exit 4")
    agent.let_in(first, name="task-1", task="task-1")
    message = agent.next()
    agent.end(4)

    assert (message.op, message.text("task")) == ("over", "task-1")
    assert hook.wait(20) == 4
    assert first.outer.poll() is None
    assert first.run("task-2", "true")[0].number == 0


def test_a_leader_takes_all_with_it(agent: Agent, first: FirstProcess) -> None:
    """The same without a task's name."""
    agent.hook("/bin/sh", "-c", "exit 4")
    agent.let_in(first)
    _over(agent)
    agent.end(4)

    assert first.outer.wait(10) == 4


# -- what is not run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "fields", "says"),
    [
        (["/bin/none"], {}, "execve /bin/none: No such file or directory"),
        (["none"], {}, "execve none: No such file or directory"),
        (["/usr"], {}, "execve /usr: Permission denied"),
        (["/bin/true"], {"directory": b"/none"}, "chdir /none: No such file or directory"),
        (["/bin/true"], {"limit": [b"7 2000000000 2000000000"]}, "setrlimit 7: Operation not permitted"),
    ],
)
@pytest.mark.parametrize("is_there", [True, False], ids=["agent", "no-agent"])
def test_what_could_not_be_run_is_told(
    agent: Agent, first: FirstProcess, argv: list[str], fields: dict[str, Any], says: str, is_there: bool
) -> None:
    """In the agent's words, or by the hook itself where there is no agent."""
    hook = agent.hook("/bin/sh", before=_IMPATIENT)
    agent.let_in(first, *argv, **fields)
    message = agent.next()
    assert (message.op, message.number("kind")) == ("over", init.FAILED)
    assert f"{message.text('step')} {message.text('path')}: {os.strerror(message.number('number'))}" == says
    if is_there:
        agent.end(125, "in the agent's words")
        says = "in the agent's words"
    else:
        agent.go()
        says = f"the job's command was not started: {says}"

    assert hook.communicate(timeout=20)[1].decode() == f"pbsdock: {says}\n"
    assert hook.returncode == 125


def test_a_first_process_that_does_not_listen_is_told(agent: Agent, first: FirstProcess) -> None:
    """Nothing was started, and the hook says so itself."""
    hook = agent.hook("/bin/sh", before=_patience(connect_s=0.3))
    Path(first.path).unlink()
    agent.let_in(first)

    assert re.fullmatch(rb"pbsdock: the job was not started: .*No such file.*\n", hook.communicate(timeout=20)[1])
    assert hook.returncode == 125


def test_a_request_that_cannot_be_made_is_told(agent: Agent, first: FirstProcess) -> None:
    """A limit that the first process does not know, as an agent of another release might have."""
    hook = agent.hook("/bin/sh")
    agent.let_in(first, "/bin/true", limit=[b"16 1 1"])

    assert hook.communicate(timeout=20)[1] == b"pbsdock: the job was not started: 16 is not the number of a limit\n"
    assert hook.returncode == 125
    assert first.status(_LEADER) is None


# -- signals ------------------------------------------------------------------------------------------------------


_TRAPS = "trap 'echo got; exit 9' {}; echo up; while :; do sleep 0.02; done"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "XCPU"])
@pytest.mark.parametrize("is_caught", [True, False], ids=["trap", "plain"])
def test_a_signal_goes_to_the_job(agent: Agent, first: FirstProcess, name: str, is_caught: bool) -> None:
    """Which may catch it, and ends as it likes; else it and the hook end by that signal, as a bare job does."""
    number = getattr(signal, f"SIG{name}")
    script = _TRAPS.format(name) if is_caught else "echo up; exec sleep 60"
    hook = agent.hook("/bin/sh", "-c", script)
    agent.let_in(first)
    assert hook.stdout is not None
    assert hook.stdout.readline() == b"up\n"
    if not is_caught:
        time.sleep(0.05)  # until sleep(1) is what runs
    hook.send_signal(number)
    kind, status = _over(agent)
    code = 9 if is_caught else 128 + number
    agent.end(code)

    assert (kind, status & 0xFF7F) == (init.ENDED, 9 << 8 if is_caught else number)
    assert hook.wait(20) == (9 if is_caught else -number)
    assert hook.stdout.read() == (b"got\n" if is_caught else b"")


@pytest.mark.parametrize(("number", "is_told"), [(signal.SIGTSTP, False), (signal.SIGCONT, True)])
def test_stop_and_go_reach_the_session(agent: Agent, first: FirstProcess, number: int, is_told: bool) -> None:
    """Which may catch them. The agent is told when the job is to go on: it thaws what it may have frozen."""
    hook = agent.hook("/bin/sh", "-c", _TRAPS.format(signal.Signals(number).name[3:]))
    agent.let_in(first)
    assert hook.stdout is not None
    assert hook.stdout.readline() == b"up\n"
    hook.send_signal(number)
    if is_told:
        message = agent.next()
        assert (message.op, message.number("signal")) == ("signal", number)
    assert _over(agent) == (init.ENDED, 9 << 8)
    agent.end(9)

    assert hook.wait(20) == 9


def test_a_signal_that_comes_with_the_end_does_not_lose_it(agent: Agent, first: FirstProcess) -> None:
    """The job was over before, and its first process with it: what it has told is read all the same."""
    hook = agent.hook("/bin/sh", "-c", "echo up; sleep 0.3; exit 3")
    agent.let_in(first)
    assert hook.stdout is not None
    assert hook.stdout.readline() == b"up\n"
    hook.send_signal(signal.SIGSTOP)
    assert first.outer.wait(10) == 3
    hook.send_signal(signal.SIGUSR1)
    hook.send_signal(signal.SIGCONT)
    told = [agent.next()]
    while told[-1].op != "over":
        told.append(agent.next())
    agent.end(3)

    assert (told[-1].number("kind"), told[-1].number("number")) == (init.ENDED, 3 << 8)
    assert hook.wait(20) == 3


def test_a_signal_after_the_end_is_the_agents(agent: Agent, first: FirstProcess) -> None:
    """Results may be being staged out, which the agent then ends; a deleted job ends as a bare one does."""
    hook = agent.hook("/bin/sh", "-c", "exit 3")
    agent.let_in(first, results=1)
    assert _over(agent) == (init.ENDED, 3 << 8)
    hook.send_signal(signal.SIGTERM)
    message = agent.next()
    agent.end(3)

    assert (message.op, message.number("signal")) == ("signal", signal.SIGTERM)
    assert hook.wait(20) == -signal.SIGTERM


# -- Torque's accounting ------------------------------------------------------------------------------------------


def _tools(agent: Agent, *names: str, script: str = "exit 0") -> str:
    """Torque's client programs, which write down how they were called; returns pbs_track's path."""
    place = agent.directory / "torque bin"
    place.mkdir()
    os.chown(place, OWNER, OWNER)
    for name in names:
        text = f"""#!/bin/sh
{{ echo "{name} $*"; env | grep -v '^PWD=' | sort; cut -d' ' -f5 /proc/self/stat; readlink /proc/self/fd/0
grep -E '^Sig(Blk|Ign)' /proc/self/status; }} >>"{place}/calls"
{script}
"""
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return str(place / "pbs_track")


def _calls(agent: Agent) -> list[str]:
    lines = (agent.directory / "torque bin/calls").read_text().splitlines()
    # Signals 32 and 33 are a C library's own.
    assert not [line for line in lines if line.startswith("Sig") and int(line.split()[1], 16) & 0x7FFFFFFF]
    assert "PBS_JOBID=7.vm" in lines
    assert "PATH=/usr/bin:/bin" in lines
    assert not [line for line in lines if line.startswith("PYTHON")]
    return [line for line in lines if line.startswith("pbs")]


@pytest.mark.parametrize("task", ["", "task-1"])
def test_a_session_is_counted_by_torque(agent: Agent, first: FirstProcess, task: str) -> None:
    """Half a second after the start, of a leader behind a task that takes a place in mom's file; with little environment.
    From then on signals come from mom itself."""
    hook = agent.hook("/bin/sh", "-c", "trap 'exit 9' USR1; trap 'exit 8' USR2; echo $$; while :; do sleep 0.02; done")
    began = time.monotonic()
    tools = _tools(agent, "pbs_track", "pbsdsh")
    agent.let_in(first, name=task or _LEADER, task=task, pbs_track=tools)
    assert hook.stdout is not None
    hook.stdout.readline()
    with open(f"/proc/{first.pid}/task/{first.pid}/children") as file:
        pid = int(file.read().split()[0])
    message = agent.next()
    assert (message.op, message.raw("status"), message.text("task")) == ("adopted", [b"0"], task)
    assert 0.4 < time.monotonic() - began < 10
    placed = [] if task else [f"pbsdsh -n 0 {_RUN_HOOK}"]
    assert _calls(agent) == [*placed, f"pbs_track -j 7.vm -a {pid}"]
    hook.send_signal(signal.SIGUSR1)
    hook.send_signal(signal.SIGCONT)
    message = agent.next()
    assert (message.op, message.number("signal")) == ("signal", signal.SIGCONT)
    time.sleep(0.2)
    os.kill(pid, signal.SIGUSR2)
    assert _over(agent) == (init.ENDED, 8 << 8)
    agent.end(8)
    assert hook.wait(20) == 8


@pytest.mark.parametrize(
    ("names", "script", "status"),
    [(["pbs_track"], "exit 7", 7), (["pbs_track"], "kill -9 $$", -9), (["pbsdsh"], "exit 0", 127), ([], "", 127)],
)
def test_a_session_that_is_not_counted(
    agent: Agent, first: FirstProcess, names: list[str], script: str, status: int
) -> None:
    """What the tool ended with is told; signals still go to the job."""
    hook = agent.hook("/bin/sh", "-c", _TRAPS.format("USR1"))
    agent.let_in(first, pbs_track=_tools(agent, *names, script=script))
    message = agent.next()
    assert (message.op, message.number("status")) == ("adopted", status)
    hook.send_signal(signal.SIGUSR1)
    assert _over(agent) == (init.ENDED, 9 << 8)
    agent.end(9)
    assert hook.wait(20) == 9


def test_a_tool_that_runs_when_the_job_is_over_is_killed(agent: Agent, first: FirstProcess) -> None:
    """There is nothing to count any more."""
    hook = agent.hook("/bin/sh", "-c", "sleep 1; exit 4")
    tools = _tools(agent, "pbs_track", script=f"exec sleep {_LONG}")
    agent.let_in(first, name="task-1", task="task-1", pbs_track=tools)
    assert _over(agent) == (init.ENDED, 4 << 8)
    agent.end(4)

    assert hook.wait(20) == 4
    assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if f"\0{_LONG}\0".encode() in one.read_bytes()]


def test_what_is_joined_is_not_counted(agent: Agent, first: FirstProcess) -> None:
    """Process 1 itself has sent that answer, whose session it is not."""
    hook = agent.hook("/bin/sh", "-c", "sleep 1.2; exit 9", before=_BROKEN)
    tools = _tools(agent, "pbs_track")
    agent.let_in(first, pbs_track=tools)
    pid = first.pid
    told = [agent.next()]
    while told[-1].op != "over":
        told.append(agent.next())
    agent.end(9)
    assert hook.wait(20) == 9
    calls = _calls(agent)
    assert len(calls) == 1
    assert not calls[0].endswith(f" {pid}")


# -- connections that break ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "ends"), [("sleep 0.5; exit 6", 6), ("exit 6", 6), ("sleep 0.3; kill -9 $$", -9)])
def test_a_connection_that_broke_is_made_again(agent: Agent, first: FirstProcess, script: str, ends: int) -> None:
    """The first process tells the end to whoever asks by the name; also one that is over by then, while it is there."""
    hook = agent.hook("/bin/sh", "-c", script, before=_BROKEN)
    agent.let_in(first, name="task-1", task="task-1")
    kind, number = _over(agent)
    agent.end(number >> 8 or 128 + number)

    assert kind == init.ENDED
    assert hook.wait(20) == ends


def test_a_signal_over_a_connection_that_broke(agent: Agent, first: FirstProcess) -> None:
    """It goes to the next one."""
    hook = agent.hook("/bin/sh", "-c", _TRAPS.format("USR1"), before=_BROKEN)
    agent.let_in(first)
    assert hook.stdout is not None
    assert hook.stdout.readline() == b"up\n"
    time.sleep(0.3)
    hook.send_signal(signal.SIGUSR1)

    assert _over(agent) == (init.ENDED, 9 << 8)
    agent.end(9)
    assert hook.wait(20) == 9


def test_what_runs_already_is_joined(agent: Agent, first: FirstProcess) -> None:
    """The agent was lost after the hook had asked: nothing runs twice, and process 1's own session is not counted."""
    flags = init.SESSION | init.SEARCH | init.LEADER
    before = first.start(_LEADER, "sh", "-c", "sleep 2; exit 5", flags=flags)
    assert before.receive().kind == init.PID
    hook = agent.hook("/bin/sh", "-c", "echo twice")
    tools = _tools(agent, "pbs_track")
    agent.let_in(first, pbs_track=tools)
    end = _over(agent)
    agent.end(5)
    out, _ = hook.communicate(timeout=20)

    assert (end, out, hook.returncode) == ((init.ENDED, 5 << 8), b"", 5)
    assert not Path(tools).with_name("calls").exists()
    before.close()


@pytest.mark.parametrize(("answer", "code"), [("ended", 137), ("refused", 125), ("away", 125)])
def test_a_first_process_that_is_killed(agent: Agent, first: FirstProcess, answer: str, code: int) -> None:
    """The agent is told that nothing is known, and knows more, or does not."""
    hook = agent.hook("/bin/sh", "-c", "echo up; sleep 60", before=_HOPELESS)
    agent.let_in(first)
    assert hook.stdout is not None
    assert hook.stdout.readline() == b"up\n"
    os.kill(first.pid, signal.SIGKILL)
    first.outer.wait(10)
    first.errors.truncate(0)  # unshare complains that it cannot end by SIGKILL itself
    message = agent.next()
    assert (message.op, message.raw("kind")) == ("over", [])
    if answer == "ended":
        agent.end(137, "the container was killed")
    elif answer == "refused":
        agent.peer.sendall(wire.encode(wire.Message("refused", code="no-such-job")))
    else:
        agent.go()
    _, error = hook.communicate(timeout=20)

    assert hook.returncode == code
    said = (
        "the container was killed" if answer == "ended" else "the agent of this node is gone; the job's end is unknown"
    )
    assert error.decode() == f"pbsdock: {said}\n"


# -- agents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "ends"), [("exit 3", 3), ("exit 0", 0), ("kill -9 $$", -9)])
@pytest.mark.parametrize("is_there", [True, False], ids=["silent", "away"])
def test_an_agent_that_never_answers(agent: Agent, first: FirstProcess, script: str, ends: int, is_there: bool) -> None:
    """After its patience the hook ends by itself, as the job has: the agent could only have added a sentence."""
    hook = agent.hook("/bin/sh", "-c", script, before=_IMPATIENT)
    agent.let_in(first)
    began = time.monotonic()
    _over(agent)
    if not is_there:
        agent.go()

    assert hook.wait(20) == ends
    assert 0.25 < time.monotonic() - began < 5
    assert hook.communicate()[1] == b""


def test_an_agent_that_is_at_work_for_results_is_waited_for(agent: Agent, first: FirstProcess) -> None:
    """However long it takes: its end may be another than the job's."""
    hook = agent.hook("/bin/sh", "-c", "exit 0", before=_IMPATIENT)
    agent.let_in(first, results=1)
    _over(agent)
    time.sleep(2)
    assert hook.poll() is None
    agent.end(74, "a result could not be stored")

    assert hook.wait(20) == 74


def test_an_agent_that_stays_away_is_given_up(agent: Agent, first: FirstProcess) -> None:
    """Results or not."""
    hook = agent.hook("/bin/sh", "-c", "exit 3", before=_HOPELESS)
    agent.let_in(first, results=1)
    _over(agent)
    agent.go()

    assert hook.wait(20) == 3


def test_an_agent_that_is_restarted_does_not_disturb_the_job(agent: Agent, first: FirstProcess) -> None:
    """The hook comes back to the next one, long after the last was lost, and tells it the end."""
    hook = agent.hook(
        "/bin/sh",
        "-c",
        "read line; exit 3",
        stdin=subprocess.PIPE,
        before=_patience(give_up_s=0.3),
    )
    agent.let_in(first, results=1)
    agent.go()
    time.sleep(0.5)
    assert hook.poll() is None
    agent.open()
    agent.accept()
    message = agent.next()
    assert (message.op, message.text("job"), message.number("attached")) == ("rejoin", "7.vm", 1)
    assert hook.stdin is not None
    hook.stdin.write(b"\n")
    hook.stdin.flush()
    assert _over(agent) == (init.ENDED, 3 << 8)
    time.sleep(1.2)
    assert hook.poll() is None  # it waits for the agent that is there
    agent.end(4)
    assert hook.wait(20) == 4


def test_an_agent_that_comes_back_after_the_end_is_told_it(agent: Agent, first: FirstProcess) -> None:
    """Also where the job has ended meanwhile."""
    hook = agent.hook("/bin/sh", "-c", "sleep 0.3; exit 3")
    agent.let_in(first, results=1)
    agent.go()
    first.outer.wait(10)
    time.sleep(0.3)
    agent.open()
    agent.accept()
    assert agent.next().op == "rejoin"
    assert _over(agent) == (init.ENDED, 3 << 8)
    agent.end(3)
    assert hook.wait(20) == 3


def test_an_end_that_only_the_agent_knows_of(agent: Agent, first: FirstProcess) -> None:
    """The first process is given a moment to tell its own; then the hook ends with the agent's code."""
    hook = agent.hook("/bin/sh", "-c", "echo up; sleep 60")
    agent.let_in(first)
    assert hook.stdout is not None
    assert hook.stdout.readline() == b"up\n"
    began = time.monotonic()
    agent.end(137, "the job was ended by the agent")

    assert hook.wait(20) == 137
    assert 0.5 < time.monotonic() - began < 4


# -- descriptors that are not there -------------------------------------------------------------------------------


def test_what_a_hook_was_started_without_is_dev_null(agent: Agent, first: FirstProcess) -> None:
    """And no descriptor of the hook's, the agent's or the first process's comes in its place."""
    place = Path(tempfile.mkdtemp(prefix="pbsdock-out."))
    os.chown(place, OWNER, OWNER)
    script = f"(for n in 0 1 2; do readlink /proc/$$/fd/$n; done; ls /proc/$$/fd | wc -l) > {place}/new; mv {place}/new {place}/out"

    def close() -> None:
        for fd in (0, 1, 2):
            os.close(fd)

    hook = agent.hook("/bin/sh", "-c", script, stdin=None, stdout=None, stderr=None, preexec_fn=close)
    agent.let_in(first)
    assert _over(agent) == (init.ENDED, 0)
    agent.end(0)
    assert hook.wait(20) == 0
    lines = (place / "out").read_text().splitlines()
    shutil.rmtree(place)

    assert lines == ["/dev/null"] * 3 + ["3"]


# -- terminals ----------------------------------------------------------------------------------------------------


class Screen:
    """A terminal with somebody at it, who has seen all that was written to it."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.size(24, 80)
        self.seen = b""
        self._is_open = True
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def size(self, rows: int, columns: int) -> None:
        """Its window's."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def _read(self) -> None:
        while self._is_open:
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)

    def close(self) -> None:
        """Nobody is at it any more: while somebody waits for it, the kernel keeps it."""
        if self._is_open:
            self._is_open = False
            self._thread.join(10)
            os.close(self.slave)
            os.close(self.master)

    def type(self, text: bytes) -> None:
        """At its keyboard."""
        os.write(self.master, text)

    def shows(self, text: bytes) -> None:
        """Wait until it was written to it."""
        wait_until(f"{text!r} of {self.seen[-300:]!r}", lambda: text in self.seen, 20)


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    os.chown(os.ttyname(made.slave), OWNER, OWNER)
    yield made
    made.close()


def _interactive(agent: Agent, first: FirstProcess, screen: Screen, *argv: str) -> subprocess.Popen[bytes]:
    hook = agent.hook(*argv, stdin=screen.slave, stdout=screen.slave, stderr=screen.slave, start_new_session=True)
    agent.let_in(first)
    return hook


_CLEAN = ("/bin/bash", "--norc", "--noprofile", "-i")


def test_an_interactive_job(agent: Agent, first: FirstProcess, screen: Screen) -> None:
    """A terminal of the container's own with a name, the window's size at the start and after, ^C, ^Z, and the end."""
    before = termios.tcgetattr(screen.slave)
    hook = _interactive(agent, first, screen, *_CLEAN)
    asked = agent.asked
    assert (asked.number("tty"), asked.number("rows"), asked.number("columns")) == (1, 24, 80)
    screen.type(b"PS1=; tty; stty size; echo re''ady\r")
    screen.shows(b"ready\r\n")
    assert re.search(rb"/dev/pts/\d+\r\n24 80\r\n", screen.seen)
    assert not termios.tcgetattr(screen.slave)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)

    screen.size(50, 132)
    hook.send_signal(signal.SIGWINCH)
    wait_until("the size is set", lambda: _shown(screen, b"stty size\r", b"50 132\r\n"), 20)

    screen.type(b"echo sleep''ing; sleep 60\r")
    screen.shows(b"sleeping\r\n")
    time.sleep(0.3)
    screen.type(b"\x03")
    screen.shows(b"^C")
    screen.type(b"echo code''=$?; sleep 60\r")
    screen.shows(b"code=130\r\n")
    time.sleep(0.3)
    screen.type(b"\x1a")
    screen.shows(b"Stopped")
    screen.type(b"kill %1; exit 9\r")
    screen.type(b"exit 9\r")
    assert _over(agent) == (init.ENDED, 9 << 8)
    agent.end(9)

    assert hook.wait(20) == 9
    assert termios.tcgetattr(screen.slave) == before


def _shown(screen: Screen, typed: bytes, text: bytes) -> bool:
    """Whether *text* comes when that is typed."""
    at = len(screen.seen)
    screen.type(typed)
    time.sleep(0.2)
    return text in screen.seen[at:]


def test_all_of_a_terminals_output_comes_before_the_end(agent: Agent, first: FirstProcess, screen: Screen) -> None:
    """Much more than a terminal holds, written just before the end."""
    hook = _interactive(agent, first, screen, "/bin/sh", "-c", "seq 1 20000; exit 2")
    assert _over(agent) == (init.ENDED, 2 << 8)
    agent.end(2)

    assert hook.wait(20) == 2
    screen.shows(b"\n20000\r\n")
    assert screen.seen == b"".join(b"%d\r\n" % number for number in range(1, 20001))


def test_a_terminals_last_output_comes_with_the_end(agent: Agent, first: FirstProcess, screen: Screen) -> None:
    """A hook that was stopped finds both at once."""
    hook = _interactive(agent, first, screen, "/bin/sh", "-c", "echo re''ady; sleep 0.3; seq 1 500; exit 2")
    screen.shows(b"ready\r\n")
    hook.send_signal(signal.SIGSTOP)
    assert first.outer.wait(10) == 2
    hook.send_signal(signal.SIGCONT)
    told = {message.op: message for message in (agent.next(), agent.next())}  # SIGCONT, and the end
    agent.end(2)

    assert told["over"].number("number") == 2 << 8
    assert hook.wait(20) == 2
    screen.shows(b"\n500\r\n")


def test_much_that_is_typed_at_once_arrives(agent: Agent, first: FirstProcess, screen: Screen) -> None:
    """More than the terminal in the container takes before somebody reads it."""
    script = "stty raw -echo; echo re''ady; sleep 0.5; head -c 200000 | md5sum"
    hook = _interactive(agent, first, screen, "/bin/sh", "-c", script)
    screen.shows(b"ready")
    text = b"".join(b"%09d\n" % number for number in range(20_000))
    screen.type(text)
    import hashlib

    screen.shows(hashlib.md5(text).hexdigest().encode())
    assert _over(agent) == (init.ENDED, 0)
    agent.end(0)
    assert hook.wait(20) == 0


def test_a_terminal_that_is_gone_hangs_up(agent: Agent, first: FirstProcess, screen: Screen) -> None:
    """Somebody has closed the window: the hook gets SIGHUP from the kernel, and the job by it."""
    hook = agent.hook(
        "/bin/sh",
        "-c",
        "trap 'exit 5' HUP; echo re''ady; while :; do sleep 0.05; done",
        stdin=screen.slave,
        stdout=screen.slave,
        stderr=screen.slave,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    agent.let_in(first)
    screen.shows(b"ready")
    screen.close()
    message = agent.next()
    if message.op == "signal":  # the kernel sends SIGCONT too, of which the hook tells unless the end is faster
        assert message.number("signal") == signal.SIGCONT
        message = agent.next()

    assert (message.op, message.number("kind"), message.number("number")) == ("over", init.ENDED, 5 << 8)
    agent.end(5)
    assert hook.wait(20) == 5
