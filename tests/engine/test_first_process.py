"""The first process in a real container of the engine's, as a job's will be: unprivileged, read-only, bind-mounted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

from pbsdock.protocol import init
from tests.conftest import IMAGE
from tests.support.first_process import OWNER, FirstProcess, build

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]
LEADER = init.SESSION | init.SEARCH | init.LEADER
IN = "/run/pbsdock/init"


class Contained(FirstProcess):
    """Process 1 of a container."""

    def __init__(self, program: Path) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="pbsdock-init.", dir="/var/tmp"))
        self.base.chmod(0o755)
        self.directory = self.base / "job"
        self.directory.mkdir()
        os.chown(self.directory, OWNER, OWNER)
        self.path = str(self.directory / init.SOCKET)
        self.name = self.base.name.replace(".", "-")
        mounts = [f"--volume={program}:/.pbsdock-init:ro", f"--volume={self.directory}:{IN}"]
        rights = [f"--user={OWNER}:{OWNER}", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        rest = ["--read-only", "--network=none", "--log-driver=none", "--entrypoint=/.pbsdock-init"]
        command = ["docker", "run", "--detach", "--name", self.name, *mounts, *rights, *rest, IMAGE, IN]
        subprocess.run(command, check=True, capture_output=True)
        assert self.open_gate().kind == init.DONE

    @property
    def pid(self) -> int:
        """As the engine has it."""
        return int(_docker("inspect", "--format", "{{.State.Pid}}", self.name))

    def wait(self) -> int:
        """The container's exit code."""
        return int(_docker("wait", self.name))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["docker", "rm", "-f", self.name], check=True, capture_output=True)
        shutil.rmtree(self.base)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is installed."""
    return build(tmp_path_factory, sanitized=False)


@pytest.fixture
def first(program: Path) -> Iterator[Contained]:
    """One that waits for its leader."""
    with Contained(program) as made:
        yield made


def test_a_job(first: Contained) -> None:
    """Joined output in order, the pid as the host has it, the raw status, the engine's code, nothing left running."""
    task = first.start("task", "sleep", "300")
    answer = task.receive()
    assert Path(f"/proc/{answer.host_pid}/comm").read_text() in ("sleep\n", "pbsdock-init\n", ".pbsdock-init\n")
    assert f"NSpid:\t{answer.host_pid}\t{answer.number}\n" in Path(f"/proc/{answer.host_pid}/status").read_text()

    end, said = first.run("leader", "sh", "-c", "echo o; echo e >&2; echo o2; id -u; exit 3", flags=LEADER)

    assert (end.kind, end.number, said) == (init.ENDED, 3 << 8, b"o\ne\no2\n%d\n" % OWNER)
    assert first.end(task).number == signal.SIGKILL
    assert first.wait() == 3
    written = first.status("leader")
    assert written is not None
    assert written.number == 3 << 8


def test_a_signal_ends_a_leader_that_does_not_catch_it(first: Contained) -> None:
    """It is not process 1: USR1 is as deadly as outside."""
    leader = first.start("leader", "sh", "-c", "sleep 300; exit 1", flags=LEADER)
    leader.receive()
    assert first.send_signal("leader", signal.SIGUSR1).number >= 1

    assert first.end(leader).number == signal.SIGUSR1
    assert first.wait() == 128 + signal.SIGUSR1


def test_a_terminal_has_a_name(first: Contained) -> None:
    """In the container's own /dev/pts."""
    leader = first.start(
        "leader", "sh", "-c", "tty; stty size; exit 4", flags=LEADER | init.TERMINAL, window=(50, 160, 0, 0)
    )
    terminal = leader.receive().terminal
    end = first.end(leader)

    said = b""
    with suppress(OSError):  # EIO: nobody has the other end any more
        while piece := os.read(terminal, 1000):
            said += piece
    assert said.split() == [b"/dev/pts/0", b"50", b"160"]
    os.close(terminal)
    assert end.number == 4 << 8


def test_the_engines_stop_is_quick(first: Contained) -> None:
    """A container that waits for a job that never comes needs no ten seconds and no SIGKILL."""
    began = time.monotonic()
    _docker("stop", first.name)

    assert time.monotonic() - began < 5
    assert first.wait() == 143


def test_a_gigabyte_in_a_fraction_of_the_engines_time(first: Contained, tmp_path: Path) -> None:
    """And a task in a fraction of an exec's. Ratios of one run."""
    dd = ["dd", "if=/dev/zero", "bs=64k", "count=16384"]
    with (tmp_path / "ours").open("wb") as file:
        began = time.monotonic()
        first.end(first.start("dd", *dd, fds=(file.fileno(),) * 3))
        ours = time.monotonic() - began
    (tmp_path / "ours").unlink()
    with (tmp_path / "engine").open("wb") as file:
        began = time.monotonic()
        subprocess.run(
            ["docker", "run", "--rm", "--log-driver=none", IMAGE, *dd],
            stdout=file,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        engines = time.monotonic() - began
    (tmp_path / "engine").unlink()
    took = []
    for number in range(50):
        began = time.monotonic()
        first.end(first.start(f"t{number}", "true"))
        took.append(time.monotonic() - began)
    task = sorted(took)[25]
    began = time.monotonic()
    _docker("exec", first.name, "true")
    execs = time.monotonic() - began
    print(
        f"1 GiB: {ours:.2f} s, docker run {engines:.2f} s ({ours / engines:.2f}); task {task * 1e3:.2f} ms, exec {execs * 1e3:.0f} ms"
    )

    assert ours < 0.6 * engines
    assert task < 0.3 * execs
