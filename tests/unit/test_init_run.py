"""What the first process runs, and how it tells the end: the real program, as process 1 of namespaces of its own."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.protocol import init
from tests.support.first_process import OWNER, REPOSITORY, FirstProcess, build

RLIMIT_LOCKS = 10  # asm-generic/resource.h; the module has no name for it
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="making namespaces needs root")


@pytest.fixture(scope="module", params=["installed", "sanitized"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is installed, and with the compiler's sanitizers, which end it at the first fault."""
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


# -- what a program gets ------------------------------------------------------------------------------------------


def test_joined_output_keeps_its_order(first: FirstProcess) -> None:
    """Both descriptors are one file's, as with -j oe: 2,000 lines to either come in the order they were written."""
    end, said = first.run("job", "sh", "-c", "i=0; while [ $i -lt 1000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done")

    assert (end.kind, end.number) == (init.ENDED, 0)
    assert said == b"".join(b"o%d\ne%d\n" % (i, i) for i in range(1000))


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3 << 8),
        ("exit 255", 255 << 8),
        ("kill -9 $$", 9),
        ("kill -15 $$", 15),
        ("kill -10 $$", 10),
    ],
)
def test_ends(first: FirstProcess, script: str, status: int) -> None:
    """The raw wait status: the leader of a session dies of USR1 as outside, since it is not process 1."""
    end, _ = first.run("task", "sh", "-c", script)

    assert (end.kind, end.number) == (init.ENDED, status)


def test_the_environment_is_exact(first: FirstProcess) -> None:
    """Names with dots, exported functions, bytes that are no text, twice the same, nothing of process 1's own."""
    given = [
        b"a-b.c=1",
        b"BASH_FUNC_greet%%=() {  echo hello from $1\n}",
        b"latin=\xe9\xff\xfe",
        b"\xe9=name",
        b"twice=1",
        b"twice=2",
        b"empty=",
        b"no-equals-sign",
    ]

    _, said = first.run("task", "cat", "/proc/self/environ", environment=[*given, *()], program=b"/bin/cat")

    assert said.split(b"\0")[:-1] == given
    _, said = first.run(
        "bash", "/bin/bash", "-c", "greet bash; env | grep -c '^a-b.c=1'", environment=[*given, b"PATH=/bin"]
    )
    assert said == b"hello from bash\n1\n"


def test_arguments_are_exact(first: FirstProcess) -> None:
    """Empty ones, newlines, bytes that are no text; the program may be another than the first of them."""
    arguments = [b"-odd name", b"/proc/self/cmdline", b"", b"a\nb", b"\xff\xfe"]

    _, said = first.run("task", *arguments, program=b"/bin/cat")

    assert said.startswith(b"\0".join(arguments) + b"\0")


def test_large_environment_and_arguments(first: FirstProcess) -> None:
    """More than two megabytes, with limits as a bare process needs them."""
    environment = [b"V%05d=" % i + b"x" * 100_000 for i in range(22)]
    limits = {resource.RLIMIT_STACK: (64 << 20, 64 << 20)}

    end, said = first.run("task", "/bin/sh", "-c", "env | wc -c", environment=environment, limits=limits)

    assert (end.kind, end.number) == (init.ENDED, 0)
    assert int(said) > 2_200_000


def test_too_large_for_the_kernel(first: FirstProcess) -> None:
    """It is execve's answer, not a silent cut."""
    end, _ = first.run("task", "/bin/true", environment=[b"V=" + b"x" * 200_000])

    assert (end.kind, end.number, end.step, end.path) == (init.FAILED, errno.E2BIG, "execve", b"/bin/true")


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_umask(first: FirstProcess, umask: int) -> None:
    """As given."""
    _, said = first.run("task", "sh", "-c", "umask", umask=umask)

    assert said == b"%04o\n" % umask


def test_every_limit(first: FirstProcess) -> None:
    """All sixteen as the kernel holds them, soft and hard, unlimited ones among them."""
    limits = {}
    for number, (soft, hard) in _limits(first.pid).items():
        below = 1_000_000 + number if hard == -1 else hard
        limits[number] = (min(below, soft) if soft > 0 else below, hard)
    limits[resource.RLIMIT_CORE] = (0, 0)
    limits[resource.RLIMIT_NOFILE] = (100, 200)
    limits[resource.RLIMIT_AS] = (1 << 30, -1)

    connection = first.start("task", "sleep", "60", limits=limits)
    pid = connection.receive().host_pid
    _wait_for(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    found = _limits(pid)
    first.send_signal("task", signal.SIGKILL)

    assert found == limits
    assert first.end(connection).number == signal.SIGKILL


def _open(first: FirstProcess, limits: dict[int, tuple[int, int]]) -> init.Answer:
    connection = first.connect()
    try:
        connection.send(init.encode_open(limits))
        return connection.receive()
    finally:
        connection.close()


def test_the_gates_limits_are_process_1s_own(program: Path) -> None:
    """Those that are named, and no other; what it starts has them too, and gets no more by asking."""
    wanted = {
        resource.RLIMIT_CORE: (1 << 20, 1 << 20),
        resource.RLIMIT_NOFILE: (900, 900),
        resource.RLIMIT_FSIZE: (1 << 30, 1 << 30),
    }
    with FirstProcess(program, is_open=False) as first:
        before = _limits(first.pid)
        assert _open(first, wanted).kind == init.DONE
        assert _limits(first.pid) == {**before, **wanted}

        end, said = first.run("plain", "sh", "-c", "ulimit -Hf; ulimit -Hn; ulimit -Sc")
        assert (end.number, said) == (0, b"2097152\n900\n2048\n")
        less = {resource.RLIMIT_FSIZE: (1 << 20, 1 << 20)}
        assert first.run("less", "sh", "-c", "ulimit -Hf", limits=less)[1] == b"2048\n"
        more = {resource.RLIMIT_FSIZE: (1 << 20, (1 << 30) + 1)}
        end, _ = first.run("more", "sh", "-c", "ulimit -Hf", limits=more)
        assert (end.kind, end.step, end.path, end.number) == (init.FAILED, "setrlimit", b"1", errno.EPERM)


def test_a_gate_without_limits_leaves_process_1s_alone(program: Path) -> None:
    """As the engine has made it."""
    with FirstProcess(program, is_open=False) as first:
        before = _limits(first.pid)
        assert _open(first, {}).kind == init.DONE
        assert _limits(first.pid) == before


def test_a_limit_that_is_lower_already_is_in_no_others_way(program: Path) -> None:
    """It cannot be raised, and need not be: nothing gets more than the job. The others are set all the same."""
    with FirstProcess(program, is_open=False, descriptors="100:100") as first:
        wanted = {resource.RLIMIT_NOFILE: (500, 500), RLIMIT_LOCKS: (5, 5), resource.RLIMIT_CPU: (900, 900)}
        assert _open(first, wanted).kind == init.DONE
        found = _limits(first.pid)

    assert {number: found[number] for number in wanted} == {**wanted, resource.RLIMIT_NOFILE: (100, 100)}


@pytest.mark.parametrize("limited", [1 << 16, 1 << 31, (1 << 16) | 1])
def test_a_gate_with_limits_that_there_are_not_stays_closed(program: Path, limited: int) -> None:
    """Nothing is set of a message that is none."""
    with FirstProcess(program, is_open=False) as first:
        before = _limits(first.pid)
        message = bytearray(init.encode_open({resource.RLIMIT_CPU: (900, 900)}))
        message[28:32] = struct.pack("=I", limited)
        connection = first.connect()
        connection.send(bytes(message))
        answer = connection.receive()
        connection.close()
        assert (answer.kind, answer.step, answer.number) == (init.FAILED, "request", errno.EINVAL)
        assert _limits(first.pid) == before
        assert first.run("task", "true")[0].step == "gate"


def test_the_gates_limits_are_roots_alone_to_set(program: Path) -> None:
    """An owner's OPEN is closed or refused, before the gate is open and after, and changes nothing."""
    with FirstProcess(program, is_open=False) as first:
        before = _limits(first.pid)
        for _when in ("before", "after"):
            asked = subprocess.run(
                ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", sys.executable, "-c", _OPENS],
                env={"PYTHONPATH": str(REPOSITORY / "lib"), "PYTHONDONTWRITEBYTECODE": "1"},
                input=first.path,
                capture_output=True,
                text=True,
                timeout=20,
            )
            assert asked.stdout.strip() == f"{init.FAILED} gate {errno.EPERM}", asked.stderr
            assert _limits(first.pid) == before
            assert first.open_gate().kind == init.DONE


_OPENS = """
import sys
from pbsdock.protocol import init
connection = init.Connection(sys.stdin.read())
connection.send(init.encode_open({4: (0, 0)}))
answer = connection.receive()
print(answer.kind, answer.step, answer.number)
"""


def _limits(pid: int) -> dict[int, tuple[int, int]]:
    """As proc(5) has them, a line each in the order of their numbers."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    words = [(line[26:47].strip(), line[47:68].strip()) for line in lines]
    assert len(words) == init.LIMITS
    return {number: (_limit(soft), _limit(hard)) for number, (soft, hard) in enumerate(words)}


def _limit(word: str) -> int:
    return -1 if word == "unlimited" else int(word)


def test_without_limits_they_are_process_1s(program: Path) -> None:
    """What it has raised for its own connections is not passed on."""
    with FirstProcess(program, descriptors="300:4000") as first:
        _, said = first.run("task", "sh", "-c", "ulimit -Sn; ulimit -Hn")
        assert said == b"300\n4000\n"


def test_descriptors_and_session_are_its_own(first: FirstProcess) -> None:
    """0, 1, 2 and no other descriptor; a session and a group."""
    _, said = first.run("task", "sh", "-c", "ls /proc/self/fd; cut -d' ' -f5,6 /proc/$$/stat; echo $$")

    lines = said.split()
    assert lines[:4] == [b"0", b"1", b"2", b"3"]  # 3: the directory that ls reads
    assert lines[4] == lines[5] == lines[6]


def test_signals_are_as_they_begin(first: FirstProcess) -> None:
    """Nothing is blocked, ignored or caught. No shell looks: one of them would tidy up itself."""
    _, said = first.run("task", "/bin/cat", "/proc/self/status")

    found = dict(line.split(b":\t") for line in said.splitlines() if line.startswith(b"Sig"))
    assert {found[name] for name in (b"SigBlk", b"SigIgn", b"SigCgt", b"SigPnd")} == {b"0" * 16}


def test_it_runs_as_the_owner_whoever_asks(first: FirstProcess) -> None:
    """Root's request gets no more than the owner's: process 1 has nothing else to give."""
    _, said = first.run("task", "sh", "-c", "id -u; id -G; grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs)' /proc/self/status")

    assert (
        said.split()
        == (
            b"%d %d CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1"
            % (OWNER, OWNER)
        ).split()
    )


# -- what cannot be run -------------------------------------------------------------------------------------------


def test_a_missing_directory_is_told(first: FirstProcess) -> None:
    """It is not run somewhere else."""
    end, said = first.run("task", "sh", "-c", "echo ran", directory=b"/no/such\xff")

    assert (end.kind, end.number, end.step, end.path, said) == (
        init.FAILED,
        errno.ENOENT,
        "chdir",
        b"/no/such\xff",
        b"",
    )
    _, said = first.run("other", "pwd", directory=b"/usr/bin")
    assert said == b"/usr/bin\n"


@pytest.mark.parametrize(
    ("argv", "flags", "number"),
    [
        (["/no/such/program"], init.SESSION, errno.ENOENT),
        (["/etc/passwd"], init.SESSION, errno.EACCES),
        (["no-such-program"], init.SESSION | init.SEARCH, errno.ENOENT),
        (["sh"], init.SESSION, errno.ENOENT),
        (["/usr/bin"], init.SESSION, errno.EACCES),
        ([""], init.SESSION | init.SEARCH, errno.ENOENT),
    ],
)
def test_what_cannot_be_executed_is_told(first: FirstProcess, argv: list[str], flags: int, number: int) -> None:
    """With the errno and the path."""
    end, _ = first.run("task", *argv, flags=flags)

    assert (end.kind, end.number, end.step, end.path) == (init.FAILED, number, "execve", os.fsencode(argv[0]))
    written = first.status("task")
    assert written is not None
    assert (written.kind, written.number, written.step, written.path) == (end.kind, end.number, end.step, end.path)


def test_a_limit_that_cannot_be_raised_is_told(first: FirstProcess) -> None:
    """With its number."""
    hard = _limits(first.pid)[resource.RLIMIT_NOFILE][1]

    end, _ = first.run("task", "true", limits={resource.RLIMIT_NOFILE: (1, hard + 1)})

    assert (end.kind, end.number, end.step, end.path) == (init.FAILED, errno.EPERM, "setrlimit", b"7")


def test_descriptor_0_that_is_no_terminal_is_told(first: FirstProcess) -> None:
    """As the step it is."""
    end, _ = first.run("task", "true", flags=init.SESSION | init.CONTROL)

    assert (end.kind, end.number, end.step) == (init.FAILED, errno.ENOTTY, "terminal")


def test_a_failed_leader_ends_the_container(program: Path) -> None:
    """As a shell would: 127 for what is not there."""
    with FirstProcess(program) as first:
        end, _ = first.run("leader", "/no/such", flags=init.SESSION | init.LEADER)
        assert (end.step, end.number) == ("execve", errno.ENOENT)
        assert first.outer.wait(10) == 127


# -- the gate, and who may ask -------------------------------------------------------------------------------------


def test_behind_a_closed_gate_nothing_runs(program: Path) -> None:
    """Neither for the owner nor for root; the owner cannot open it."""
    with FirstProcess(program, is_open=False) as first:
        end, said = first.run("task", "sh", "-c", "echo ran")
        assert (end.kind, end.number, end.step, said) == (init.FAILED, errno.EACCES, "gate", b"")
        assert _as_user(OWNER, first.path, init.encode_open())[:2] == (init.FAILED, errno.EPERM)
        end, _ = first.run("task", "sh", "-c", "echo ran")
        assert end.step == "gate"
        assert first.status("task") is None

        assert first.open_gate().kind == init.DONE
        end, said = first.run("task", "sh", "-c", "echo ran")
        assert (end.kind, said) == (init.ENDED, b"ran\n")


def _as_user(uid: int, path: str, message: bytes) -> tuple[int, int]:
    """Kind and number of the answer that *uid* gets; (0, 0): the connection is closed without one."""
    read_end, write_end = os.pipe()
    if not (child := os.fork()):
        code = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            try:
                connection = init.Connection(path)
                connection.send(message)
                answer = connection.receive()
                os.write(write_end, b"%d %d" % (answer.kind, answer.number))
            except init.InitError:
                os.write(write_end, b"0 0")
            code = 0
        finally:
            os._exit(code)
    os.close(write_end)
    with open(read_end, "rb") as file:
        kind, number = map(int, file.read().split())
    assert os.waitpid(child, 0)[1] == 0
    return kind, number


def test_the_owner_may_ask(first: FirstProcess) -> None:
    """For instance to join what root has run."""
    connection = first.start("task", "sleep", "60")
    connection.receive()

    assert _as_user(OWNER, first.path, init.encode_join("task"))[0] == init.PID
    assert _as_user(OWNER, first.path, init.encode_signal("task", 9)) == (init.DONE, 1)


def test_others_are_refused(first: FirstProcess) -> None:
    """By the kernel, and where the owner has opened the socket to all, by process 1."""
    assert _as_user(OWNER + 1, first.path, init.encode_join("task")) == (0, 0)
    os.chmod(first.path, 0o777)
    assert _as_user(OWNER, first.path, init.encode_join("task")) == (init.FAILED, errno.ESRCH)

    assert _as_user(OWNER + 1, first.path, init.encode_join("task")) == (0, 0)
    assert _as_user(65534, first.path, init.encode_open()) == (0, 0)


def test_a_client_can_tell_the_real_one(first: FirstProcess) -> None:
    """The directory is the owner's: the kernel says which process listens."""
    connection = first.connect()

    assert connection.listener() == first.pid
    connection.close()


# -- pids, ends, files ----------------------------------------------------------------------------------------------


def test_the_pid_is_told_in_both_namespaces(first: FirstProcess) -> None:
    """What the program sees, and what this host sees: translated by the kernel."""
    read_end, write_end = os.pipe()
    connection = first.start("task", "sh", "-c", "echo $$; exec sleep 60", fds=(write_end, write_end, write_end))
    os.close(write_end)
    answer = connection.receive()

    assert int(os.read(read_end, 100)) == answer.number
    status = Path(f"/proc/{answer.host_pid}/status").read_text()
    assert f"NSpid:\t{answer.host_pid}\t{answer.number}\n" in status
    os.close(read_end)
    connection.close()


def test_the_end_is_written_before_it_is_told(first: FirstProcess) -> None:
    """Whoever knows it finds it there, always; and nothing half-written beside it."""
    for number in range(100):
        first_end = first.end(first.start(f"task{number}", "sh", "-c", f"exit {number}"))
        written = first.status(f"task{number}")
        assert written is not None
        assert (written.kind, written.number) == (init.ENDED, number << 8) == (first_end.kind, first_end.number)
    assert {path.suffix for path in first.directory.iterdir()} == {".status", ""}
    assert not (first.directory / ".new").exists()


def test_a_full_directory_loses_no_end(first: FirstProcess) -> None:
    """What cannot be written is sent, and kept for who joins."""
    (first.directory / ".new").mkdir()  # stands for it: nothing can be created under that name

    end = first.end(first.start("task", "sh", "-c", "exit 4"))
    connection = first.connect()
    connection.send(init.encode_join("task"))

    assert first.status("task") is None
    assert (end.number, first.end(connection).number) == (4 << 8, 4 << 8)


def test_whoever_lost_the_connection_can_join(first: FirstProcess) -> None:
    """While it runs, and when it is over; the newest connection has it."""
    connection = first.start("task", "sh", "-c", "read x; exit 5")
    connection.close()
    read_end, write_end = os.pipe()
    connection = first.start("second", "sh", "-c", "read x; exit 6", fds=(read_end, write_end, write_end))
    pid = connection.receive().number
    connection.close()
    joined = first.connect()
    joined.send(init.encode_join("second"))
    assert (answer := joined.receive()).kind == init.PID
    assert answer.number == pid

    os.write(write_end, b"\n")
    assert first.end(joined).number == 6 << 8
    for _ in range(2):
        late = first.connect()
        late.send(init.encode_join("second"))
        assert first.end(late).number == 6 << 8
    os.close(read_end)
    os.close(write_end)
    _wait_for(lambda: first.status("task") is not None)


def test_the_same_id_runs_once(installed: FirstProcess) -> None:
    """However often it is asked for; also when there was no more place to remember it."""
    assert installed.run("task", "sh", "-c", "echo ran")[1] == b"ran\n"
    again, said = installed.run("task", "sh", "-c", "echo ran")
    assert (again.kind, again.number, again.step, said) == (init.FAILED, errno.EEXIST, "id", b"")

    for number in range(1100):
        installed.end(installed.start(f"t{number}", "/bin/true"))
    again, said = installed.run("task", "sh", "-c", "echo ran")
    assert (again.number, again.step, said) == (errno.EEXIST, "id", b"")


def test_one_leader(first: FirstProcess) -> None:
    """A second one is refused."""
    connection = first.start("leader", "sleep", "60", flags=init.SESSION | init.SEARCH | init.LEADER)
    connection.receive()

    end, _ = first.run("usurper", "true", flags=init.SESSION | init.SEARCH | init.LEADER)

    assert (end.kind, end.number, end.step) == (init.FAILED, errno.EEXIST, "leader")
    connection.close()


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -10 $$", 138), ("exit 0", 0)])
def test_with_the_leader_ends_the_rest(program: Path, script: str, code: int) -> None:
    """Tasks, daemons in sessions of their own, all at once; every end is told; process 1 exits as the leader did."""
    with FirstProcess(program) as first:
        task = first.start("task", "sh", "-c", "trap '' TERM; setsid sleep 60 & wait")
        task.receive()
        end, _ = first.run("leader", "sh", "-c", script, flags=init.SESSION | init.SEARCH | init.LEADER)
        assert first.end(task).number == signal.SIGKILL
        assert first.outer.wait(5) == code
        assert os.waitstatus_to_exitcode(end.number) in (code, 128 - code)
        assert first.status("leader") is not None
        assert first.status("task") is not None


LEADER = init.SESSION | init.SEARCH | init.LEADER


@pytest.mark.parametrize(
    ("left", "least", "most"), [("(sleep 0.3; touch done) &", 0.25, 0.9), ("sleep 60 &", 0.95, 3), ("", 0, 0.5)]
)
def test_grace(program: Path, left: str, least: float, most: float) -> None:
    """What a leader that TERM has ended leaves has as long as was said, and no longer; nobody waits for nothing."""
    with FirstProcess(program, "1000") as first:
        script = f"cd /proc/1/cwd; exec >/dev/null 2>&1; {left} kill -TERM $$; sleep 60"
        leader = first.start("leader", "sh", "-c", script, flags=LEADER)
        assert first.end(leader).number == signal.SIGTERM
        begun = time.monotonic()
        assert first.outer.wait(5) == 128 + signal.SIGTERM
        assert least <= time.monotonic() - begun < most


@pytest.mark.parametrize(
    ("last", "status"),
    [("exit 0", 0), ("exit 143", 143), ("kill -KILL $$", 137), ("kill -USR1 $$", 138), ("kill -INT $$", 130)],
)
def test_no_grace_after_another_end(program: Path, last: str, status: int) -> None:
    """An exit code that only looks like TERM's among them: what is left is soon killed, as mom does it."""
    with FirstProcess(program, "20000") as first:
        begun = time.monotonic()
        leader = first.start("leader", "sh", "-c", f"exec >/dev/null 2>&1; sleep 60 & {last}; sleep 60", flags=LEADER)
        first.end(leader)
        assert first.outer.wait(5) == status
        assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("grace", "last", "is_told"), [("20000", "USR1", True), ("20000", "KILL", False), ("0", "USR1", False)]
)
def test_a_moment_after_another_signal(program: Path, grace: str, last: str, is_told: bool) -> None:
    """What a signal to the whole session has ended the leader by, others of it may trap: they have time to begin."""
    with FirstProcess(program, grace) as first:
        script = f"exec >/dev/null 2>&1; (sleep 0.1; : >{first.directory}/told) & kill -{last} $$; sleep 60"
        first.end(first.start("leader", "sh", "-c", script, flags=LEADER))
        first.outer.wait(5)
        assert (first.directory / "told").exists() is is_told


def test_the_engines_stop(program: Path) -> None:
    """SIGTERM from outside: a container that waits ends at once, a leader is told."""
    with FirstProcess(program) as first:
        os.kill(first.pid, signal.SIGTERM)
        assert first.outer.wait(5) == 143
    with FirstProcess(program) as first:
        leader = first.start(
            "leader", "sh", "-c", "trap 'exit 9' TERM; sleep 60 & wait", flags=init.SESSION | init.SEARCH | init.LEADER
        )
        leader.receive()
        time.sleep(0.1)
        os.kill(first.pid, signal.SIGTERM)
        assert first.end(leader).number == 9 << 8
        assert first.outer.wait(5) == 9


# -- signals and orphans -------------------------------------------------------------------------------------------


def test_signals_reach_the_whole_session_and_no_other(first: FirstProcess) -> None:
    """Also other groups of it, as pbs_mom does; another task's session has nothing of it."""
    other = first.start("other", "sleep", "60")
    other.receive()
    read_end, write_end = os.pipe()
    script = "trap 'echo got; exit 1' USR1; set -m; (trap 'echo got; exit 1' USR1; echo up; while :; do sleep 0.05; done) & echo up; while :; do sleep 0.05; done"
    connection = first.start("task", "bash", "-c", script, fds=(write_end, write_end, write_end))
    os.close(write_end)
    connection.receive()
    said = b""
    while said.count(b"up") < 2:
        said += os.read(read_end, 100)

    assert first.send_signal("task", 0).number >= 2
    assert first.send_signal("task", signal.SIGUSR1).kind == init.DONE
    while said.count(b"got") < 2:
        said += os.read(read_end, 100)
    assert first.end(connection).number == 1 << 8
    assert first.send_signal("other", 0).number == 1
    assert first.send_signal("other", signal.SIGKILL).number == 1
    assert first.end(other).number == signal.SIGKILL
    os.close(read_end)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_stop_and_go_on(first: FirstProcess, number: int) -> None:
    """Jobs can be suspended."""
    connection = first.start("task", "sleep", "60")
    pid = connection.receive().host_pid

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    _wait_for(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    first.send_signal("task", signal.SIGSTOP)
    _wait_for(lambda: state() == "T")
    first.send_signal("task", signal.SIGCONT)
    _wait_for(lambda: state() != "T")
    connection.close()


def test_signals_to_what_is_over(first: FirstProcess) -> None:
    """Its number may be another process's."""
    first.run("task", "true")

    for id in ("task", "never"):
        answer = first.send_signal(id, signal.SIGKILL)
        assert (answer.kind, answer.number, answer.step) == (init.FAILED, errno.ESRCH, "id")


def test_nothing_inside_ends_process_1(first: FirstProcess) -> None:
    """Whatever its own processes send to it."""
    first.run("task", "bash", "-c", "for n in {1..64}; do kill -$n 1; done 2>/dev/null")

    assert first.run("after", "echo", "alive")[1] == b"alive\n"


def test_ten_thousand_orphans(installed: FirstProcess) -> None:
    """All are reaped, and the task's end is told meanwhile."""
    script = "i=0; while [ $i -lt 10000 ]; do (: & exit 0); i=$((i+1)); done"
    end, said = installed.run("task", "sh", "-c", script)

    assert (end.number, said) == (0, b"")
    children = Path(f"/proc/{installed.pid}/task/{installed.pid}/children")
    _wait_for(lambda: children.read_text() == "")


# -- terminals -------------------------------------------------------------------------------------------------------

TERMINAL = init.SESSION | init.SEARCH | init.TERMINAL


def _until(terminal: int, word: bytes) -> bytes:
    said = b""
    while word not in said:
        said += os.read(terminal, 4096)
    return said


def test_a_terminal(first: FirstProcess) -> None:
    """It has a name in there, its size, and is the session's own."""
    connection = first.start(
        "task", "sh", "-c", "tty; stty size; echo >/dev/tty through; exit 3", flags=TERMINAL, window=(43, 132, 0, 0)
    )
    terminal = connection.receive().terminal

    said = _until(terminal, b"through").split()

    assert said[0].startswith(b"/dev/pts/")
    assert said[1:] == [b"43", b"132", b"through"]
    assert first.end(connection).number == 3 << 8
    os.close(terminal)


def test_typing_and_job_control(first: FirstProcess) -> None:
    """^C ends what runs in front and not the shell, ^Z stops it, fg goes on."""
    connection = first.start(
        "task",
        "bash",
        "--norc",
        "--noediting",
        "-i",
        flags=TERMINAL,
        environment=[b"PATH=/usr/bin:/bin", b"PS1=ready$ "],
    )
    terminal = connection.receive().terminal
    _until(terminal, b"ready$ ")
    os.write(terminal, b"sleep 60\n")
    time.sleep(0.3)
    os.write(terminal, b"\x03")
    _until(terminal, b"ready$ ")
    os.write(terminal, b"echo code $?; cat\n")
    assert b"code 130" in _until(terminal, b"code 130")
    time.sleep(0.3)
    os.write(terminal, b"\x1a")
    _until(terminal, b"Stopped")
    os.write(terminal, b"jobs; fg\n")
    _until(terminal, b"cat\r\ncat\r\n")
    os.write(terminal, b"typed\n")
    _until(terminal, b"typed\r\ntyped")
    os.write(terminal, b"\x04exit 5\n")

    assert first.end(connection).number == 5 << 8
    os.close(terminal)


def test_a_closed_terminal_hangs_up(first: FirstProcess) -> None:
    """As a lost login would."""
    connection = first.start("task", "sleep", "60", flags=TERMINAL)
    os.close(connection.receive().terminal)

    assert first.end(connection).number == signal.SIGHUP


def test_a_terminal_of_the_callers(first: FirstProcess) -> None:
    """Descriptor 0 becomes the controlling terminal on demand."""
    master, slave = os.openpty()
    connection = first.start(
        "task",
        "sh",
        "-c",
        "echo through >/dev/tty",
        fds=(slave, slave, slave),
        flags=init.SESSION | init.SEARCH | init.CONTROL,
    )

    assert first.end(connection).number == 0
    assert b"through" in os.read(master, 100)
    os.close(master)
    os.close(slave)


# -- costs -----------------------------------------------------------------------------------------------------------


def test_nobody_stands_between_a_program_and_its_descriptors(installed: FirstProcess) -> None:
    """Its standard output is the very pipe that was handed over, and a gigabyte comes through it whole."""
    read_end, write_end = os.pipe()
    inode = os.fstat(read_end).st_ino
    with open(read_end, "rb") as file:
        installed.end(installed.start("who", "readlink", "/proc/self/fd/1", fds=(write_end,) * 3))
        os.close(write_end)
        assert file.read() == f"pipe:[{inode}]\n".encode()

    read_end, write_end = os.pipe()
    with subprocess.Popen(["wc", "-c"], stdin=read_end, stdout=subprocess.PIPE) as reader:
        os.close(read_end)
        program = ("dd", "if=/dev/zero", "bs=1M", "count=1024", "status=none")
        installed.end(installed.start("dd", *program, fds=(write_end,) * 3))
        os.close(write_end)
        said, _ = reader.communicate()
    assert int(said) == 1 << 30


def test_a_task_costs_milliseconds(installed: FirstProcess) -> None:
    """The middle of a hundred; a slow machine has twenty times what was measured."""
    took = []
    for number in range(100):
        began = time.monotonic()
        installed.end(installed.start(f"task{number}", "/bin/true"))
        took.append(time.monotonic() - began)

    assert sorted(took)[50] < 0.03


def _wait_for(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)
