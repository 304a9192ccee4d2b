"""The run hook: start the job's container through the agent and end exactly as it ended. Runs as the user.

Standard output and error are taken from the engine's own attach stream, whose descriptor the agent hands over, so no
byte of output passes the agent. The stream's frames are Docker's: one byte stream number, three zero bytes, four
bytes length, data (Engine API, "Attach to a container").
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed has no stub; `signal` would import enum
import _socket
import os
import select
import time

from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone, Link, connect

TYPE_CHECKING = False  # importing `typing` would cost a hook seven milliseconds
if TYPE_CHECKING:
    from typing import Any

REFUSED = 125
_FRAME = 8
_CHUNK = 1 << 18
_ADOPT_AFTER_S = 0.5
_REPEAT = 65536
_AGENT_PATIENCE_S = 600.0
_ATTEMPTS = 3
_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGTSTP", "SIGXCPU")
# A bare job's leader dies of these whatever its script does, so the run hook ends by them too (torque-facts: 271).
_FATAL = frozenset(getattr(_signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"))


def say(text: str) -> None:
    """Write one line to the job's stderr; a closed stderr is not an error."""
    try:
        os.write(2, f"pbsdock: {text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def write_all(fd: int, data: memoryview) -> None:
    """Write everything, waiting when *fd* is non-blocking and full."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()
        except InterruptedError:
            continue


class Demux:
    """Splits Docker's multiplexed stream into stdout and stderr, frame boundaries anywhere."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._fd = 1
        self._open = {1: True, 2: True}

    def feed(self, data: memoryview) -> None:
        """Write out what *data* holds and remember a frame that is not complete."""
        while data:
            if self._left:
                piece = data[: self._left]
                self._write(piece)
                self._left -= len(piece)
                data = data[len(piece) :]
                continue
            need = _FRAME - len(self._head)
            self._head += bytes(data[:need])
            data = data[need:]
            if len(self._head) == _FRAME:
                self._fd = 2 if self._head[0] == 2 else 1
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""

    def _write(self, piece: memoryview) -> None:
        if not self._open[self._fd]:
            return
        try:
            write_all(self._fd, piece)
        except OSError:
            # Nobody reads any more (or the disk is full): a bare job's writes would fail the same way; the container
            # cannot be told through the engine's pipe, so the rest is drained to let it end.
            self._open[self._fd] = False


class Terminal:
    """The interactive job's terminal in raw mode, put back at the end."""

    def __init__(self) -> None:
        import termios

        self._termios: Any = termios
        self._saved = termios.tcgetattr(0)
        raw = termios.tcgetattr(0)
        raw[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        raw[1] &= ~termios.OPOST
        raw[2] = (raw[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN] = 1
        raw[6][termios.VTIME] = 0
        termios.tcsetattr(0, termios.TCSADRAIN, raw)

    def restore(self) -> None:
        """Give the terminal back as it was."""
        try:
            self._termios.tcsetattr(0, self._termios.TCSADRAIN, self._saved)
        except (OSError, self._termios.error):
            pass


def window() -> tuple[int, int]:
    """Return (rows, columns) of the terminal on stdin; (0, 0) if unknown."""
    try:
        size = os.get_terminal_size(0)
    except OSError:
        return 0, 0
    return size.lines, size.columns


class Runner:
    """One run hook's conversation with the agent and relay of the job's streams."""

    def __init__(self, socket_path: str, job_id: str, hook: str = "") -> None:
        self.socket_path = socket_path
        self.job_id = job_id
        self.tty = os.isatty(0) and os.isatty(1)
        self.link: Link | None = None
        self.attach: Any = None
        self.task = ""
        self.adoption: int | None = None  # pid of a pbsdsh or pbs_track under way
        self.adopted = False
        self.to_run: list[list[str]] = []  # what adoption still takes, in order
        self.hook = hook
        self.parent = os.getppid()
        self.fatal = 0
        self.last_signal = 0
        self.signals: list[int] = []
        self.demux = Demux()
        self.terminal: Terminal | None = None
        self.ended: wire.Message | None = None
        self.stdin_open = True
        self.sent: bytes | None = None if self.tty else b""  # of standard input, as long as it is little; nothing typed
        self.unsent = b""
        self.request = wire.Message("start")
        self.restored = False  # whether the streams are an engine's that was away
        self.again = False  # whether a second start was asked for and is under way
        self.agent_lost: float | None = None
        self.waiting = False

    def run(self, argv: list[str], directive: str) -> int:
        """Run the job's command; returns an exit code or ends the process by a signal."""
        self._catch_signals()
        rows, columns = window() if self.tty else (0, 0)
        request = wire.Message(
            "start",
            job=self.job_id,
            argv=[os.fsencode(one) for one in argv],
            env=[key + b"=" + value for key, value in os.environb.items()],
            cwd=os.fsencode(os.getcwd()),
            umask=_umask(),
            tty=int(self.tty),
            rows=rows,
            columns=columns,
            tasknum=os.environ.get("PBS_TASKNUM", ""),
            directive=directive.encode("utf-8", "surrogateescape"),
        )
        self.request = request
        try:
            answer, fds = self._ask_for_start(request)
        except AgentGone:
            say("the pbsdock agent on this node did not answer; the job was not started, please submit it again")
            return REFUSED
        if answer.op != "started" or not fds:
            say(answer.text("sentence", "the agent gave no answer that can be understood"))
            return REFUSED
        assert self.link is not None
        self.link.sock.settimeout(60.0)
        self.task = answer.text("task")
        self._take_attach(fds)
        if self.tty:
            self.terminal = Terminal()
        try:
            self._adopt(answer)
            self._relay()
        finally:
            if self.terminal:
                self.terminal.restore()
        return self._end()

    def _ask_for_start(self, request: wire.Message) -> tuple[wire.Message, list[int]]:
        """Ask; an agent that is lost meanwhile is asked again once it is back, and lets nothing run twice."""
        for attempt in range(_ATTEMPTS):
            self.link = connect(self.socket_path, wait_s=60.0, timeout_s=900.0)
            self.waiting = False
            try:
                self.link.send(request)
                return self._answer()
            except AgentGone:
                if attempt == _ATTEMPTS - 1:
                    raise
            request.fields["again"] = [b"1"]
        raise AssertionError("unreachable")

    def _answer(self) -> tuple[wire.Message, list[int]]:
        assert self.link is not None
        while True:
            if self.waiting and not self.link.pending:
                self._wait_for_agent()
            message, fds = self.link.recv()
            if message.op == "waiting":
                self.waiting = True  # for what may take long; there is no container yet to pass a signal on to
            elif message.op == "notice":
                say(message.text("sentence"))
            else:
                return message, fds

    def _wait_for_agent(self) -> None:
        """Wait for the agent's next message; a signal that ends a job ends this process, as it would a bare job's."""
        poller = select.poll()
        poller.register(self.link.fileno(), select.POLLIN)  # type: ignore[union-attr]  # there is a link here
        poller.register(self.wake, select.POLLIN)
        while True:
            ready = poller.poll()
            for number in self.signals:
                if number in _FATAL:
                    self._uncatch_signals()
                    os.kill(os.getpid(), number)
            if any(fd != self.wake for fd, _ in ready):
                return
            try:
                os.read(self.wake, 512)
            except BlockingIOError:
                pass

    def _take_attach(self, fds: list[int]) -> int:
        for extra in fds[1:]:
            os.close(extra)
        self.attach = _socket.socket(1, 1, 0, fds[0])
        self.attach.setblocking(True)
        return fds[0]

    # -- signals ------------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        self.wake = read_end
        _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for name in (*_FORWARDED, "SIGWINCH", "SIGCHLD"):
            _signal.signal(getattr(_signal, name), self._on_signal)

    def _uncatch_signals(self) -> None:
        _signal.set_wakeup_fd(-1)
        for name in (*_FORWARDED, "SIGWINCH", "SIGCHLD"):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)

    def _on_signal(self, number: int, _frame: object) -> None:
        self.signals.append(number)

    def _pass_signals(self) -> None:
        try:
            os.read(self.wake, 512)
        except BlockingIOError:
            pass
        pending, self.signals = self.signals, []
        for number in pending:
            if number == _signal.SIGCHLD:
                self._reap_adoption()
            elif number == _signal.SIGWINCH:
                if self.tty:
                    rows, columns = window()
                    self._tell(wire.Message("resize", job=self.job_id, task=self.task, rows=rows, columns=columns))
            else:
                self.last_signal = number
                if number in _FATAL:
                    self.fatal = number
                # An adopted session gets the signal from mom itself, unless mom was restarted since and forgot it.
                # Once its streams are over it may be staging out, which mom does not know of.
                if not self.adopted or self.attach is None or os.getppid() != self.parent:
                    self._tell(wire.Message("signal", job=self.job_id, task=self.task, signal=number))

    def _tell(self, message: wire.Message) -> None:
        if self.link:
            try:
                self.link.send(message)
            except AgentGone:
                self._lost_agent()

    # -- Torque's own accounting --------------------------------------------------------------------------------

    def _adopt(self, answer: wire.Message) -> None:
        """Note how Torque is to adopt the container's session, behind a task that takes a place in mom's task file.

        Mom files an adopted task under its number modulo 900000000, which is the number of the newest task it has
        started (task_save, adoptSession in its mom_comm.c). That of a job with one task is the job's own shell: a mom
        that is restarted would no longer know it, and the job would stay in state R for ever (observed).
        """
        tool, pid = answer.text("pbs_track"), answer.number("pid")
        if not tool or pid <= 0:
            return
        starter = tool[: tool.rfind("/") + 1] + "pbsdsh"
        if self.hook and not self.task and os.access(starter, os.X_OK):
            self.to_run.append([starter, "-n", "0", self.hook])
        self.to_run.append([tool, "-j", self.job_id, "-a", str(pid)])

    def _run_tool(self, argv: list[str]) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        environment = {key: value for key, value in os.environ.items() if key.startswith("PBS_") or key == "PATH"}
        try:
            self.adoption = os.posix_spawn(
                argv[0], argv, environment, file_actions=actions, setsigdef=range(1, 32), setsigmask=()
            )
        except OSError:
            self.to_run.clear()
            self._tell(wire.Message("adopted", job=self.job_id, task=self.task, status=127))
        finally:
            os.close(null)

    def _reap_adoption(self) -> None:
        if self.adoption is None:
            return
        pid, status = os.waitpid(self.adoption, os.WNOHANG)
        if pid:
            self.adoption = None
            if self.to_run:
                return  # the relay's loop goes on with the next one
            self.adopted = status == 0
            self._tell(
                wire.Message("adopted", job=self.job_id, task=self.task, status=os.waitstatus_to_exitcode(status))
            )

    # -- relay --------------------------------------------------------------------------------------------------

    def _relay(self) -> None:
        poller = select.poll()
        assert self.link is not None
        for fd in (self.wake, self.attach.fileno(), 0, self.link.fileno()):
            poller.register(fd, select.POLLIN)
        buffer = memoryview(bytearray(_CHUNK))
        # Mom takes a sample every 45 s: a job that ends before this pause has nothing to be counted, and its start
        # does not have to share the CPU with another program's.
        adopt_at = time.monotonic() + _ADOPT_AFTER_S
        while True:
            if self.link is None:
                self._rejoin(poller)
            timeout = 200 if self.link is None else None
            if self.attach is None and self.ended is not None:
                return
            if self.attach is not None and self.ended is not None:
                # Seen now and then: the engine keeps the stream open. A deleted job has mom's kill delay, 2 s, to end.
                timeout = 1000 if self.fatal else 5000
            if self.to_run and self.adoption is None:
                if time.monotonic() >= adopt_at:
                    self._run_tool(self.to_run.pop(0))
                elif timeout is None:
                    timeout = 100
            ready = poller.poll(timeout)
            if not ready and self.attach is not None and self.ended is not None:
                return  # the engine keeps a stream open although the container is over: nothing more will come
            if self.signals or any(fd == self.wake for fd, _ in ready):
                self._pass_signals()
            for fd, _events in ready:
                if self.attach is not None and fd == self.attach.fileno():
                    self._from_engine(poller, buffer)
                elif fd == 0 and self.stdin_open and self.attach is not None:
                    self._from_stdin(poller)
                elif self._is_link(fd):
                    self._from_agent(poller)

    def _is_link(self, fd: int) -> bool:
        return self.link is not None and fd == self.link.fileno()

    def _from_engine(self, poller: select.poll, buffer: memoryview) -> None:
        try:
            count = self.attach.recv_into(buffer)
        except OSError:
            count = 0
        if count == 0:
            poller.unregister(self.attach.fileno())
            self.attach.close()
            self.attach = None
            if self.stdin_open:
                poller.unregister(0)  # until there are streams again
            self._tell(wire.Message("eof", job=self.job_id, task=self.task))
        elif self.tty:
            try:
                write_all(1, buffer[:count])
            except OSError:
                pass
        else:
            self.demux.feed(buffer[:count])

    def _from_stdin(self, poller: select.poll) -> None:
        if self.unsent:  # the stream is about to be seen to be over
            return
        try:
            data = os.read(0, 65536)
        except OSError:
            data = b""
        if self.sent is not None:
            self.sent = self.sent + data if len(self.sent) + len(data) <= _REPEAT else None
        if not data:
            self.stdin_open = False
            poller.unregister(0)
        self._send(data)

    def _send(self, data: bytes) -> None:
        """Pass on what came by standard input, or its end; what a lost stream does not take waits for the next."""
        if self.restored and not self.stdin_open:
            data += self._last_words()
        try:
            if data:
                self.attach.sendall(data)
            if not self.stdin_open:
                self.attach.shutdown(_socket.SHUT_WR)
        except OSError:
            self.unsent = data

    def _last_words(self) -> bytes:
        """What ends a shell that has run its script as the end of its input would, with the script's status: an engine
        restarted with live-restore does not pass that end on (observed with Docker 20.10)."""
        argv = self.request.raw("argv")
        if self.tty or self.task or len(argv) != 1:
            return b""
        return b"exit $status\n" if argv[0].endswith((b"csh", b"fish")) else b"exit $?\n"

    def _take_again(self, fds: list[int], data: bytes, poller: select.poll) -> None:
        """Go on with new streams, and with *data* for them."""
        poller.register(self._take_attach(fds), select.POLLIN)
        self.unsent = b""
        if self.stdin_open:
            poller.register(0, select.POLLIN)
        self._send(data)

    def _start_again(self) -> None:
        """Ask for a new container: the shell in the old one never got what it is to run."""
        if self.sent is None:
            lost = "the Docker engine of this node was restarted while the job started; submit it again"
            self.ended = wire.Message("ended", code=REFUSED, sentence=lost)
            return
        self.again = True
        self.to_run.clear()
        self.request.fields["again"] = [b"1"]
        self._tell(self.request)

    def _from_agent(self, poller: select.poll) -> None:
        assert self.link is not None
        try:
            while True:
                message, fds = self.link.recv()
                self._understand(message, fds, poller)
                if not self.link.pending:
                    return
        except AgentGone:
            poller.unregister(self.link.fileno())
            self._lost_agent()

    def _understand(self, message: wire.Message, fds: list[int], poller: select.poll) -> None:
        if message.op == "ended":
            self.ended = message
        elif message.op == "notice":
            say(message.text("sentence"))
        elif (message.op == "refused" and message.text("code") == "no-such-job") or (
            self.again and message.op in ("refused", "fault")
        ):
            self.ended = wire.Message("ended", code=REFUSED, sentence=message.text("sentence"))
        elif message.op == "again" and self.attach is None and self.ended is None:
            self._start_again()
        elif self.again and message.op == "started" and fds and self.attach is None:
            self.again = self.restored = False
            self._adopt(message)
            self._take_again(fds, self.sent or b"", poller)
        elif message.op == "attached" and fds and self.attach is None and self.ended is None:
            if sentence := message.text("sentence"):
                say(sentence)
            self.restored = True
            self._take_again(fds, self.unsent, poller)
        else:
            for fd in fds:
                os.close(fd)

    def _lost_agent(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None
            self.agent_lost = time.monotonic()

    def _rejoin(self, poller: select.poll) -> None:
        if self.ended is not None:
            return
        try:
            self.link = Link(self.socket_path, 60.0)
            attached = int(self.attach is not None)
            rejoin = wire.Message("rejoin", job=self.job_id, task=self.task, attached=attached)
            self.link.send(self.request if self.again else rejoin)
        except AgentGone:
            self.link = None
            if self.agent_lost and time.monotonic() - self.agent_lost > _AGENT_PATIENCE_S:
                self.ended = wire.Message(
                    "ended", code=REFUSED, sentence="the pbsdock agent on this node is gone; the job's end is unknown"
                )
            return
        link: Any = self.link
        poller.register(link.fileno(), select.POLLIN)

    # -- the end ------------------------------------------------------------------------------------------------

    def _end(self) -> int:
        assert self.ended is not None
        for sentence in self.ended.raw("sentence"):
            say(sentence.decode("utf-8", "replace"))
        if self.adoption is not None:
            os.kill(self.adoption, _signal.SIGKILL)  # there is nothing to count any more
            os.waitpid(self.adoption, 0)
        code = self.ended.number("code", REFUSED)
        if not self.fatal and self.last_signal and code == 128 + self.last_signal:
            self.fatal = self.last_signal
        if self.fatal:
            self._uncatch_signals()
            os.kill(os.getpid(), self.fatal)
        return code & 0xFF


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
