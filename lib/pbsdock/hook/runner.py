"""The run hook: start the job's container through the agent and end exactly as it ended. Runs as the user."""

from __future__ import annotations

import os
import select

from pbsdock.hook.agent_link import REFUSED, REQUEUE, AgentLink, say
from pbsdock.hook.signals import Signals
from pbsdock.protocol import init, wire
from pbsdock.protocol.link import AgentGone, BadAnswer

TYPE_CHECKING = False  # importing `typing` would cost a hook seven milliseconds
if TYPE_CHECKING:
    from pbsdock.hook.terminal import Terminal


class Runner:
    """A run hook, from its request to the job's end."""

    def __init__(
        self, socket_path: str, job_id: str, hook: str = "", *, is_slurm: bool = False, is_step: bool = False
    ) -> None:
        """*is_step*: of a task of a step of Slurm's, instead of a batch script."""
        _open_standard_descriptors()
        self.job_id = job_id
        self.hook = hook
        self.is_slurm = is_slurm and not is_step
        self.tty = os.isatty(0) and os.isatty(1)
        self.poller = select.poll()
        self.signals = Signals()
        self.agent = AgentLink(socket_path, self.poller, self.signals)

    def run(self, argv: list[str], directive: str) -> int:
        """Run the job's command; returns an exit code or ends the process by a signal."""
        request = self._request(argv, directive)
        try:
            answer, fds = self.agent.ask_for_start(request, meanwhile=_import_direct)
        except BadAnswer as error:
            told = f"the agent's answer cannot be taken ({error})"
            say(f"the job was not started: {told}; give the job fewer or shorter variables")
            return REFUSED
        except AgentGone:
            cure = "and is queued again" if self.is_slurm else "please submit it again"
            comma = "" if self.is_slurm else ","
            say(f"the pbsdock agent on this node did not answer; the job was not started{comma} {cure}")
            return self._fault
        if answer.op == "bare":
            if self.is_slurm:
                from pbsdock.hook.slurm_script import restore

                restore(argv[0])
            return _become(argv)
        if answer.op != "started" or not fds:
            say(answer.text("sentence", "the agent gave no answer that can be understood"))
            return self._fault if answer.op == "fault" else REFUSED
        if answer.raw("argv"):
            return self._run_directly(request, answer, fds[0])
        return self._end(self._relay(request, answer, fds))

    @property
    def _fault(self) -> int:
        """The exit status of a job that was not started by no fault of its own."""
        return REQUEUE if self.is_slurm else REFUSED

    def _request(self, argv: list[str], directive: str) -> wire.Message:
        rows, columns = 0, 0
        if self.tty:
            from pbsdock.hook.terminal import window

            rows, columns = window()
        return wire.Message(
            "start",
            job=self.job_id,
            argv=[os.fsencode(argument) for argument in argv],
            env=[key + b"=" + value for key, value in os.environb.items()],
            cwd=os.fsencode(os.getcwd()),
            umask=_umask(),
            tty=int(self.tty),
            rows=rows,
            columns=columns,
            tasknum=os.environ.get("PBS_TASKNUM", ""),
            directive=directive.encode("utf-8", "surrogateescape"),
        )

    def _run_directly(self, request: wire.Message, answer: wire.Message, directory: int) -> int:
        from pbsdock.hook.direct import Direct

        direct = Direct(request, answer, directory, self.hook, self.poller, self.agent, self.signals)
        terminal = self._raw_terminal()
        try:
            told = direct.run()
        except (init.InitError, init.RequestError) as error:
            say(f"the job was not started: {error}")
            return self._fault
        finally:
            if terminal is not None:
                terminal.restore()
        for sentence in told.raw("sentence"):
            say(sentence.decode("utf-8", "replace"))
        code = told.number("code", REFUSED)
        if self.signals.fatal:
            self.signals.die(self.signals.fatal)
        if direct.end is not None and direct.end.kind == init.ENDED:
            if direct.end.signal and code == direct.end.code:
                self.signals.die(direct.end.signal)
        return code & 0xFF

    def _raw_terminal(self) -> Terminal | None:
        if not self.tty:
            return None
        from pbsdock.hook.terminal import Terminal

        return Terminal()

    def _relay(self, request: wire.Message, answer: wire.Message, fds: list[int]) -> wire.Message:
        """Relay until the container is over; returns the agent's message of that."""
        from pbsdock.hook.relay import Relay

        relay = Relay(request, answer, self.hook, self.poller, self.agent, self.signals)
        terminal = self._raw_terminal()
        try:
            return relay.run(fds)
        finally:
            if terminal is not None:
                terminal.restore()

    def _end(self, ended: wire.Message) -> int:
        for sentence in ended.raw("sentence"):
            say(sentence.decode("utf-8", "replace"))
        code = ended.number("code", REFUSED)
        if self.signals.fatal:
            self.signals.die(self.signals.fatal)
        if self.signals.last and code == 128 + self.signals.last:
            self.signals.die(self.signals.last)
        return code & 0xFF


def _import_direct() -> None:
    import pbsdock.hook.direct  # noqa: F401 - while the agent is at work, instead of before


def _become(argv: list[str]) -> int:
    """Run the command of a job without a container in this process's place, as mom would have without us."""
    import _signal  # type: ignore[import-not-found]  # typeshed has no stub; `signal` would import enum

    _signal.set_wakeup_fd(-1)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        say(f"{argv[0]}: {error.strerror}")
        return 127


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _open_standard_descriptors() -> None:
    """What a job was started without is /dev/null, and no descriptor of ours comes in its place."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
