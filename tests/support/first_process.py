"""The first process as process 1 of namespaces of its own, run by an ordinary user without rights, as the engine does it."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

from pbsdock.admin.setup import first_process
from pbsdock.protocol import init
from pbsdock.protocol.init import Answer, Connection, Run

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "init"
OWNER, OTHER = 12345, 12346
ENVIRONMENT = (b"PATH=/usr/bin:/bin",)
SANITIZED = ("-g", "-O1", "-std=c11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build(
    made: pytest.TempPathFactory, *, sanitized: bool, of: first_process.Program = first_process.INIT, before: str = ""
) -> Path:
    """Compile it as it is installed, or with the sanitizers, where its owner can execute it.

    *before* is text in C that is compiled in front of it.
    """
    where = made.mktemp("init")
    for directory in (where, made.getbasetemp(), made.getbasetemp().parent):
        if directory.stat().st_mode & 0o777 == 0o700:  # pytest's own, for nobody else
            directory.chmod(0o755)
    program = where / Path(of.name).name
    if before:
        (where / "before.h").write_text(before)
    flags = (
        *(SANITIZED if sanitized else first_process.FLAGS),
        *(["-include", str(where / "before.h")] if before else ()),
    )
    if sanitized or before:
        subprocess.run(["cc", *flags, "-o", str(program), str(SOURCE / of.sources[0])], check=True)
    else:
        first_process.compile_to(program, SOURCE, of)
    return program


def _ignore_signal_32() -> None:
    """As some programs that start others do; no C library lets its callers take that back."""
    if platform.machine() == "x86_64":
        ctypes.CDLL(None).syscall(13, 32, (ctypes.c_ulong * 4)(1), None, 8)  # rt_sigaction, SIG_IGN


class FirstProcess:
    """One of them, in a directory that is its owner's. ``with`` ends it and all that runs in it."""

    def __init__(self, program: Path, *options: str, is_open: bool = True, descriptors: str = "") -> None:
        self.base = Path(tempfile.mkdtemp(prefix="pbsdock-init."))
        self.base.chmod(0o755)
        self.directory = self.base / "job"
        self.directory.mkdir()
        os.chown(self.directory, OWNER, OWNER)
        self.path = str(self.directory / init.SOCKET)
        self.errors = (self.base / "errors").open("w+b")
        limit = ["prlimit", f"--nofile={descriptors}"] if descriptors else []
        become = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", "--bounding-set=-all"]
        self.outer = subprocess.Popen(
            [
                "unshare",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                *limit,
                *become,
                "--no-new-privs",
                str(program),
                str(self.directory),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stderr=self.errors,
            start_new_session=True,
            preexec_fn=_ignore_signal_32,
            env={"PATH": "/usr/bin:/bin", "ASAN_OPTIONS": "detect_leaks=0", "OF_PROCESS_1": "1"},
        )
        deadline = time.monotonic() + 10
        while not os.path.exists(self.path):
            assert self.outer.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.002)
        if is_open:
            assert self.open_gate().kind == init.DONE

    def said(self) -> str:
        """What it wrote to its standard error: a sanitizer's report, or nothing."""
        return Path(self.errors.name).read_text()

    @property
    def pid(self) -> int:
        """As this namespace has it."""
        with open(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children") as file:
            return int(file.read().split()[0])

    def connect(self, timeout_s: float = 20.0) -> Connection:
        """One more connection, as root. It is there before it is answered."""
        deadline = time.monotonic() + 5
        while True:
            try:
                return Connection(self.path, timeout_s)
            except init.InitError:
                if time.monotonic() > deadline:  # bound, and not yet listening
                    raise
                time.sleep(0.002)

    def open_gate(self) -> Answer:
        """As the agent does it."""
        connection = self.connect()
        try:
            connection.send(init.encode_open())
            return connection.receive()
        finally:
            connection.close()

    def start(
        self,
        id: str,
        *argv: bytes | str,
        fds: Sequence[int] | None = None,
        flags: int = init.SESSION | init.SEARCH,
        environment: Sequence[bytes] = ENVIRONMENT,
        directory: bytes = b"/",
        umask: int = 0o022,
        **more: object,
    ) -> Connection:
        """Ask for a program; without *fds* it has /dev/null thrice."""
        run = Run(
            id,
            [os.fsencode(one) for one in argv],
            environment,
            directory,
            umask=umask,
            flags=flags,
            **more,  # type: ignore[arg-type]
        )
        connection = self.connect()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            connection.run(run, fds or (null, null, null))
        finally:
            os.close(null)
        return connection

    def end(self, connection: Connection) -> Answer:
        """Wait for the end of what *connection* has started, and close it."""
        try:
            while (answer := connection.receive()).kind not in (init.ENDED, init.FAILED):
                pass
            return answer
        finally:
            connection.close()

    def run(self, id: str, *argv: bytes | str, **more: object) -> tuple[Answer, bytes]:
        """The end of a program, and what it wrote to standard output and error together."""
        read_end, write_end = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        connection = self.start(id, *argv, fds=(null, write_end, write_end), **more)  # type: ignore[arg-type]
        os.close(write_end)
        os.close(null)
        with open(read_end, "rb") as file:
            said = file.read()
        return self.end(connection), said

    def send_signal(self, id: str, number: int) -> Answer:
        """To the session of *id*, over a connection of its own."""
        connection = self.connect()
        try:
            connection.send(init.encode_signal(id, number))
            return connection.receive()
        finally:
            connection.close()

    def status(self, id: str) -> Answer | None:
        """What was written down."""
        return init.read_status(str(self.directory), id)

    def __enter__(self) -> FirstProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.outer.poll() is None:
            # unshare's --kill-child is undone by the change of user behind it (prctl(2), PR_SET_PDEATHSIG).
            with suppress(IndexError, ProcessLookupError):  # it may have ended just now
                first = self.pid
                os.kill(self.outer.pid, signal.SIGKILL)
                os.kill(first, signal.SIGKILL)
            self.outer.wait(10)
        said = self.said()
        self.errors.close()
        shutil.rmtree(self.base)
        if error is None:
            assert said == "", said
