"""The `docker` of jobs with a stand-in of the agent, which is the test itself."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pbsdock.protocol import wire

IMPATIENT = """
#define IMPATIENT
#define DOOR "door.sock"
enum { ANSWER_MS = 500, AGENT_AT_WORK_MS = 500, AGENT_AWAY_MS = 300 };
"""


class Call:
    """One call of the client, and the agent's end of its connection."""

    def __init__(self, agent: StandInAgent, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.peer, _ = agent.listener.accept()
        self.peer.settimeout(20)
        self.asked = self.hear()

    def hear(self) -> wire.Message:
        """The client's next message."""
        data = self.peer.recv(4, socket.MSG_WAITALL)
        return wire.decode(self.peer.recv(int.from_bytes(data, "big"), socket.MSG_WAITALL))

    def tell(self, op: str, *, fds: Sequence[int] = (), **fields: str | bytes | int | list[bytes]) -> None:
        """Send a message, *fds* with it."""
        if fds:
            fields["fds"] = len(fds)
        socket.send_fds(self.peer, [wire.encode(wire.Message(op, **fields))], list(fds))

    def ask(self, op: str, *, fds: Sequence[int] = (), **fields: str | bytes | int | list[bytes]) -> wire.Message:
        """Send a message and wait for its answer."""
        self.tell(op, fds=fds, **fields)
        return self.hear()

    def end(self, code: int = 0) -> tuple[bytes, bytes]:
        """Have the client exit with *code*; returns what it wrote to standard output and error."""
        self.tell("exit", code=code)
        return self.over(code)

    def over(self, code: int) -> tuple[bytes, bytes]:
        """Wait until the client has exited with *code*."""
        out, error = self.process.communicate(timeout=20)
        self.peer.close()
        assert self.process.returncode == code, error.decode()
        return out or b"", error or b""


class StandInAgent:
    """Listens where the client looks for the agent: a file beside the program names the socket."""

    def __init__(self, program: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pbsdock-docker."))
        self.directory.chmod(0o777)
        self.program = self.directory / "docker"
        shutil.copy(program, self.program)
        (self.directory / "agent.path").write_text(f"{self.directory}/agent.sock\n")
        self.started: list[subprocess.Popen[bytes]] = []
        self.listen()

    def listen(self) -> None:
        """Once more, as an agent that was started again."""
        with suppress(FileNotFoundError):
            (self.directory / "agent.sock").unlink()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.directory / "agent.sock"))
        (self.directory / "agent.sock").chmod(0o666)
        self.listener.listen()
        self.listener.settimeout(20)

    def start(self, *argv: str, **more: object) -> subprocess.Popen[bytes]:
        """Start the client."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        options.setdefault("env", {"PATH": "/usr/bin:/bin"})
        process = subprocess.Popen([str(self.program), *argv], **options)  # type: ignore[call-overload]
        self.started.append(process)
        return process  # type: ignore[no-any-return]

    def call(self, *argv: str, **more: object) -> Call:
        """Start the client and take its connection."""
        return Call(self, self.start(*argv, **more))

    def close(self) -> None:
        """Tidy up."""
        self.listener.close()
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for file in (process.stdin, process.stdout, process.stderr):
                if file is not None:
                    file.close()
        shutil.rmtree(self.directory)
