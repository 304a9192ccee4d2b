"""The agent's side of a first process: its directory, its gate, its limits; the real program in namespaces of its own."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pbsdock.agent import first_process
from pbsdock.core.errors import NodeFault
from pbsdock.engine.base import Rlimits
from pbsdock.engine.spec import parse_limits
from pbsdock.host import installed, syscalls
from pbsdock.protocol import init
from tests.conftest import wait_until
from tests.support.first_process import OTHER, OWNER, FirstProcess, build

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="making namespaces needs root")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is installed."""
    return build(tmp_path_factory, sanitized=False)


@pytest.fixture
def closed(program: Path) -> Iterator[FirstProcess]:
    """One whose gate is closed."""
    with FirstProcess(program, is_open=False) as made:
        yield made


def _as(uid: int, *argv: str, **more: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, user=uid, group=uid, extra_groups=[], **more)  # type: ignore[call-overload,no-any-return]


# -- the program --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "uid", "is_usable"),
    [
        (0o755, 0, True),
        (0o555, 0, True),
        (0o775, 0, False),
        (0o757, 0, False),
        (0o750, 0, False),
        (0o644, 0, False),
        (0o755, OWNER, False),
    ],
)
def test_a_program_is_roots_alone_to_change_and_everybodys_to_run(
    tmp_path: Path, mode: int, uid: int, is_usable: bool
) -> None:
    """Jobs of all users start with it."""
    path = tmp_path / "pbsdock-init"
    path.write_bytes(b"x")
    os.chown(path, uid, 0)
    path.chmod(mode)

    assert installed.is_usable(path) is is_usable


def test_what_is_no_program(tmp_path: Path) -> None:
    """Nothing, a directory, and a link wherever it leads."""
    (tmp_path / "true").write_bytes(b"x")
    (tmp_path / "true").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "true")
    (tmp_path / "directory").mkdir()

    assert installed.is_usable(tmp_path / "true")
    assert [name for name in ("none", "link", "directory", "true/x") if installed.is_usable(tmp_path / name)] == []


def test_which_program_a_process_runs(closed: FirstProcess, program: Path, tmp_path: Path) -> None:
    """By its inode: a copy is another one."""
    copy = tmp_path / "copy"
    copy.write_bytes(program.read_bytes())

    assert first_process.is_program_of(closed.pid, program)
    assert not first_process.is_program_of(closed.pid, copy)
    assert not first_process.is_program_of(os.getpid(), program)
    with pytest.raises(OSError, match="No such"):
        first_process.is_program_of(_over(), program)


def test_the_variables_it_was_started_with(closed: FirstProcess) -> None:
    """The image's own; what is no pair is passed over, what is no text comes back as it was."""
    found = first_process.environment_of(closed.pid)
    assert (found["PATH"], found["OF_PROCESS_1"]) == ("/usr/bin:/bin", "1")

    with subprocess.Popen(["sleep", "60"], env={b"\xe9": b"\xff=x", b"EMPTY": b""}) as process:
        wait_until("it runs", lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", 5)
        assert first_process.environment_of(process.pid) == {"\udce9": "\udcff=x", "EMPTY": ""}
        process.kill()
    with pytest.raises(OSError, match="No such"):
        first_process.environment_of(_over())


def _over() -> int:
    """The number of a process that is over."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


# -- the directory ------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A job's, below one of root's."""
    path = tmp_path / "init"
    first_process.make_directory(path, OWNER, OTHER)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_directory_is_its_users_and_a_file_system_of_its_own(directory: Path) -> None:
    """Nothing in it is run, has a set-user-ID bit or is a device; what is full is its own."""
    found = directory.stat()
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {directory} " in line)
    room = os.statvfs(directory)

    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (OWNER, OTHER, 0o700)
    assert {"nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))
    assert room.f_blocks * room.f_frsize == 8 << 20
    assert room.f_files == 4096
    with pytest.raises(FileExistsError):
        first_process.make_directory(directory, OWNER, OTHER)


def test_a_directory_that_cannot_be_mounted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whoever prepares the job, who then removes what there is."""

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(syscalls, "mount", full)
    with pytest.raises(OSError, match="No space"):
        first_process.make_directory(tmp_path / "init", OWNER, OWNER)


def test_by_its_descriptor_a_user_gets_where_the_way_is_closed(tmp_path: Path, directory: Path) -> None:
    """The socket can be reached, and nothing else: it cannot be listed by another user, nor left by dots."""
    tmp_path.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "socket"))
        os.chown(directory / "socket", OWNER, OWNER)
        listener.listen()
        fd = first_process.open_directory(directory)
        ask = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('in')"
        for uid, path, code in (
            (OWNER, f"/proc/self/fd/{fd}/socket", 0),
            (OWNER, str(directory / "socket"), 1),
            (OWNER, f"/proc/self/fd/{fd}/../init/socket", 1),
            (OTHER, f"/proc/self/fd/{fd}/socket", 1),
        ):
            with _as(uid, "/usr/bin/python3", "-c", ask, path, pass_fds=[fd], stderr=subprocess.DEVNULL) as process:
                assert process.wait(10) == code, (uid, path)
        os.close(fd)


def test_a_directory_that_is_a_link_is_none(tmp_path: Path) -> None:
    """Nobody but root can have put it there; all the same."""
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="Not a directory|Too many levels"):
        first_process.open_directory(tmp_path / "link")


# -- the gate -----------------------------------------------------------------------------------------------------


def test_a_gate_is_opened_with_the_hard_limits(closed: FirstProcess) -> None:
    """Both of process 1's own are the job's hard ones: no soft one of the job's is in the way of process 1."""
    with first_process.connected(closed.directory, closed.pid) as connection:
        first_process.open_gate(connection, {resource.RLIMIT_CORE: (0, 4096), resource.RLIMIT_NOFILE: (10, 500)})
    found = _limits(closed.pid)

    assert (found["Max core file size"], found["Max open files"]) == ((4096, 4096), (500, 500))
    assert closed.run("task", "true")[0].number == 0


def test_a_path_may_be_longer_than_a_sockets_name(closed: FirstProcess, tmp_path: Path) -> None:
    """108 bytes (unix(7)); a job's name alone may be longer."""
    far = tmp_path / ("x" * 120)
    far.mkdir()
    there = far / "init"
    there.mkdir()
    subprocess.run(["mount", "--bind", str(closed.directory), str(there)], check=True)
    try:
        with first_process.connected(there, closed.pid) as connection:
            first_process.open_gate(connection, {})
    finally:
        subprocess.run(["umount", str(there)], check=True)


def test_who_listens_in_its_place_is_found_out(closed: FirstProcess) -> None:
    """The directory is the user's, who can bind another socket there."""
    with pytest.raises(NodeFault) as caught, first_process.connected(closed.directory, os.getpid()):
        raise AssertionError("unreachable")

    assert caught.value.code == "first-process"
    assert f"process {closed.pid} listens in the place of the container's first one, {os.getpid()}" in str(caught.value)


def test_one_that_is_over_is_told_at_once(tmp_path: Path) -> None:
    """Nobody waits for it to listen."""
    began = time.monotonic()
    with (
        pytest.raises(NodeFault, match="the container's first process ended before the job began"),
        first_process.connected(tmp_path, _over()),
    ):
        raise AssertionError("unreachable")

    assert time.monotonic() - began < 1


def test_one_that_does_not_listen_is_waited_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has been started and has not come to it yet; or never does."""
    monkeypatch.setattr(first_process, "_LISTENS_S", 0.3)
    began = time.monotonic()
    with (
        pytest.raises(NodeFault, match="the container's first process does not listen: "),
        first_process.connected(tmp_path, os.getpid()),
    ):
        raise AssertionError("unreachable")
    assert 0.25 < time.monotonic() - began < 3

    with _listening(tmp_path / "socket", after_s=0.1), first_process.connected(tmp_path, os.getpid()) as connection:
        assert connection.listener() == os.getpid()


@contextmanager
def _listening(path: Path, *, after_s: float = 0.0, answer: bytes | None = None) -> Iterator[None]:
    """This process listens, and answers whoever comes with those bytes, or never."""
    listener = socket.socket(socket.AF_UNIX)
    held: list[socket.socket] = []

    def listen() -> None:
        time.sleep(after_s)
        listener.bind(str(path))
        listener.listen()
        if answer is not None:
            peer, _ = listener.accept()
            held.append(peer)
            peer.recv(65536)
            peer.sendall(answer)

    thread = threading.Thread(target=listen)
    thread.start()
    yield
    thread.join(10)
    for end in (*held, listener):
        end.close()


@pytest.mark.parametrize("answer", [b"", b"nonsense" * 10])
def test_one_that_gives_no_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """One that hangs, is stopped, or speaks otherwise."""
    monkeypatch.setattr(first_process, "_ANSWERS_S", 0.3)
    with (
        _listening(tmp_path / "socket", answer=answer),
        pytest.raises(NodeFault, match="the container's first process gave no answer: ") as caught,
        first_process.connected(tmp_path, os.getpid()) as connection,
    ):
        first_process.open_gate(connection, {})

    assert caught.value.code == "first-process"


def test_a_stopped_one_is_told(closed: FirstProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes the connection; nobody answers it."""
    monkeypatch.setattr(first_process, "_ANSWERS_S", 0.3)
    pid = closed.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with (
            pytest.raises(NodeFault, match="gave no answer"),
            first_process.connected(closed.directory, pid) as connection,
        ):
            first_process.open_gate(connection, {})
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_refusal_is_told(tmp_path: Path) -> None:
    """As of one for whom root is nobody."""
    refusal = b"gate\0\0"
    head = len(refusal).to_bytes(4, "little") + init.FAILED.to_bytes(4, "little") + (1).to_bytes(4, "little")
    with (
        _listening(tmp_path / "socket", answer=head + refusal),
        pytest.raises(NodeFault, match="the container's first process refused to let the job in: gate"),
        first_process.connected(tmp_path, os.getpid()) as connection,
    ):
        first_process.open_gate(connection, {})


def test_no_descriptor_is_left_by_a_connection(closed: FirstProcess, tmp_path: Path) -> None:
    """Whether it was one or not."""
    pid = closed.pid
    before = len(os.listdir("/proc/self/fd"))
    with first_process.connected(closed.directory, pid):
        pass
    for path, wrong in ((closed.directory, os.getpid()), (tmp_path, _over())):
        with pytest.raises(NodeFault), first_process.connected(path, wrong):
            raise AssertionError("unreachable")

    assert len(os.listdir("/proc/self/fd")) == before


# -- signals and ends ---------------------------------------------------------------------------------------------


def test_a_signal_by_name(closed: FirstProcess) -> None:
    """To that one and no other; to none that is there it is nothing."""
    closed.open_gate()
    task, other = closed.start("task-1", "sleep", "60"), closed.start("task-2", "sleep", "60")
    task.receive()
    other.receive()
    first_process.send_signal(closed.directory, closed.pid, "task-1", signal.SIGKILL)
    assert closed.end(task).number == signal.SIGKILL
    assert first_process.read_end(closed.directory, "task-2") is None
    first_process.send_signal(closed.directory, closed.pid, "nobody", signal.SIGKILL)
    first_process.send_signal(closed.directory, closed.pid, "task-2", signal.SIGTERM)
    assert closed.end(other).number == signal.SIGTERM


def test_an_end_is_read_until_it_is_forgotten(closed: FirstProcess) -> None:
    """What it wrote down."""
    closed.open_gate()
    closed.run("task", "sh", "-c", "exit 3")
    end = first_process.read_end(closed.directory, "task")
    assert end is not None
    assert (end.kind, end.number) == (init.ENDED, 3 << 8)
    first_process.forget_end(closed.directory, "task")
    assert first_process.read_end(closed.directory, "task") is None
    first_process.forget_end(closed.directory, "task")


# -- limits -------------------------------------------------------------------------------------------------------


def _limits(pid: int) -> Rlimits:
    return parse_limits(Path(f"/proc/{pid}/limits").read_text())


@contextmanager
def _limited(**limits: str) -> Iterator[int]:
    options = [f"--{name}={value}" for name, value in limits.items()]
    with subprocess.Popen(["prlimit", *options, "sleep", "60"]) as process:
        wait_until("it runs", lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", 5)
        yield process.pid
        process.kill()


def test_every_limit_of_the_kernels_is_known() -> None:
    """By the name and the number it has there."""
    assert set(first_process.RLIMITS) == set(_limits(os.getpid()))
    assert sorted(first_process.RLIMITS.values()) == list(range(init.LIMITS))
    with _limited(nofile="77:99", core="5:6", locks="8:9") as pid:
        for name, number in first_process.RLIMITS.items():
            assert resource.prlimit(pid, number) == _limits(pid)[name], name


def test_limits_within_are_the_jobs() -> None:
    """Soft and hard as the run hook has them; what the kernel does not know is passed over."""
    with _limited(nofile="100:200", core="unlimited:unlimited") as pid:
        found = first_process.within(
            pid, {"Max open files": (50, 200), "Max core file size": (0, -1), "Max of a later kernel": (1, 2)}
        )

        assert found == {resource.RLIMIT_NOFILE: (50, 200), resource.RLIMIT_CORE: (0, -1)}
        assert _limits(pid)["Max open files"] == (100, 200)


_MORE = [
    ((300, 400), (200, 200)),
    ((100, 400), (100, 200)),
    ((-1, -1), (200, 200)),
    ((100, -1), (100, 200)),
    ((200, 200), (200, 200)),
    ((0, 0), (0, 0)),
]


@pytest.mark.parametrize(("asked", "found"), _MORE)
def test_limits_that_cannot_be_raised_are_the_engines(
    monkeypatch: pytest.MonkeyPatch, asked: tuple[int, int], found: tuple[int, int]
) -> None:
    """Where the kernel lets the agent raise none: as near as can be, and the job starts. The refusals are fakes."""

    for error in (ValueError("not allowed to raise maximum limit"), PermissionError(1, "no")):

        def refuse(*_arguments: object, error: Exception = error) -> None:
            raise error

        with _limited(nofile="100:200") as pid:
            monkeypatch.setattr(resource, "prlimit", refuse)
            assert first_process.within(pid, {"Max open files": asked}) == {resource.RLIMIT_NOFILE: found}
            monkeypatch.undo()


@pytest.mark.parametrize(("asked", "_found"), _MORE)
def test_limits_that_can_be_raised_are_with_a_fake_kernel(
    monkeypatch: pytest.MonkeyPatch, asked: tuple[int, int], _found: tuple[int, int]
) -> None:
    """First process 1's own, both of the kind, and only where the job's are more."""
    raised: list[tuple[int, int, tuple[int, int]]] = []
    with _limited(nofile="100:200") as pid:
        monkeypatch.setattr(resource, "prlimit", lambda *arguments: raised.append(arguments))
        found = first_process.within(pid, {"Max open files": asked})

    hard = asked[1]
    assert found == {resource.RLIMIT_NOFILE: asked}
    is_more = hard == -1 or hard > 200
    assert raised == ([(pid, resource.RLIMIT_NOFILE, (hard, hard))] if is_more else [])


def test_limits_of_one_that_is_over() -> None:
    """Told as that, also where it ends in between."""
    with pytest.raises(OSError, match="No such"):
        first_process.within(_over(), {})


def test_limits_are_got_by_what_it_starts(closed: FirstProcess) -> None:
    """From the run hook's to the job's own, all of them."""
    hook = {**_limits(os.getpid()), "Max open files": (123, 456), "Max core file size": (0, 8192)}
    numbered = first_process.within(closed.pid, hook)
    with first_process.connected(closed.directory, closed.pid) as connection:
        first_process.open_gate(connection, numbered)
    end, said = closed.run("task", "cat", "/proc/self/limits", limits=numbered)

    assert end.number == 0
    found = parse_limits(said.decode())
    assert {name: found[name] for name in ("Max open files", "Max core file size")} == {
        "Max open files": (123, 456),
        "Max core file size": (0, 8192),
    }
    assert {first_process.RLIMITS[name]: limit for name, limit in found.items()} == numbered
