"""What the hooks run: a standard-library client of the agent. Nothing heavier may be imported here.

Usage, by the hook scripts only: ``main(argv)`` with ``--paths FILE --run-dir DIR VERB ARGUMENTS…``.
"""

from __future__ import annotations

import os
import sys
import time

from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone, Link, connect, pings

ABORT, REQUEUE = 1, 2
_HOOK_ENV = (
    "PBS_NODEFILE",
    "TMPDIR",
    "PBS_O_WORKDIR",
    "PBS_NUM_PPN",
    "PBS_NUM_NODES",
    "PBS_NP",
    "PBS_NODENUM",
    "PBS_MSHOST",
    "PBS_RESOURCE_NODES",
)
_START_WAIT_S = 30.0
_AGAIN_S = 3.0  # an agent that does not answer by then may have ended; shorter than an agent waits for its lock
_REFUSALS = ("bad-configuration", "untrusted-files")  # as the agent marks them in the health flag


def main(argv: list[str] | None = None) -> int:
    """Run one hook; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    options: dict[str, str] = {}
    while len(arguments) >= 2 and arguments[0].startswith("--"):
        options[arguments[0]] = arguments[1]
        arguments = arguments[2:]
    verb, *rest = arguments
    run_dir, paths = options["--run-dir"], options.get("--paths", "")
    if verb == "slurm-script":
        from pbsdock.hook.slurm_script import main as prepend

        return prepend(rest)
    if verb == "slurm-run":
        from pbsdock.hook.runner import Runner

        if os.environ.get("SHLVL") == "0":  # bash, which has executed this, makes one
            del os.environ["SHLVL"]
        runner = Runner(f"{run_dir}/agent.sock", os.environ.get("SLURM_JOB_ID", ""), is_slurm=True)
        return runner.run(rest, os.environ.get("PBSDOCK", ""))
    if verb == "slurm-step":
        from pbsdock.hook.runner import Runner

        # What the SPANK plugin has put down: the job, and what the task was to run (init/run.c passes that on).
        job = os.environ.pop("PBSDOCK_STEP", "").partition(" ")[0]
        runner = Runner(f"{run_dir}/agent.sock", job, is_slurm=True, is_step=True)
        return runner.run(rest, os.environ.get("PBSDOCK", ""))
    if verb == "run":
        from pbsdock.hook.runner import Runner

        # Whatever mom or a parent left ignored (SIGPIPE, observed) must not reach the job's own children.
        runner = Runner(f"{run_dir}/agent.sock", os.environ.get("PBS_JOBID", ""), options.get("--hook", ""))
        return runner.run(rest, os.environ.get("PBSDOCK", ""))
    if verb == "prologue":
        return prologue(run_dir, paths, rest)
    if verb == "epilogue":
        return epilogue(run_dir, paths, rest)
    if verb in ("announce", "sweep"):
        return tell(run_dir, paths, verb, rest)
    if verb == "ensure-agent":
        if ensure_agent(run_dir, paths):
            return 0
        if rest == ["or-flag"] and not os.path.exists(f"{run_dir}/unhealthy"):
            _flag(run_dir, "the pbsdock agent of this node does not start")
        return 1
    sys.stderr.write(f"pbsdock: {verb!r} is not a hook; use prologue, run, epilogue, announce, sweep or ensure-agent\n")
    return 64


def _request(op: str, argv: list[str]) -> wire.Message:
    env = [f"{name}={os.environ[name]}".encode("utf-8", "surrogateescape") for name in _HOOK_ENV if name in os.environ]
    return wire.Message(op, argv=[os.fsencode(argument) for argument in argv], env=env)


def _converse(run_dir: str, paths: str, request: wire.Message, timeout_s: float) -> wire.Message:
    """Send a root hook's request, starting the agent if need be; one more try if it dies on us.

    *timeout_s* is how long it may be silent.
    """
    last: AgentGone | None = None
    for _attempt in (1, 2):
        try:
            link = _open(run_dir, paths, timeout_s)
            link.send(request)
            while True:
                message, fds = link.recv()
                for fd in fds:
                    os.close(fd)
                if message.op != "notice":
                    link.close()
                    return message
                if sentence := message.text("sentence"):  # without one it says that the agent is at work
                    _say(sentence)
        except AgentGone as error:
            last = error
    raise last or AgentGone("no answer")


def _open(run_dir: str, paths: str, timeout_s: float) -> Link:
    try:
        return Link(f"{run_dir}/agent.sock", timeout_s)
    except AgentGone:
        if not ensure_agent(run_dir, paths):
            raise
        return connect(f"{run_dir}/agent.sock", wait_s=5.0, timeout_s=timeout_s)


def _say(text: str) -> None:
    try:
        os.write(2, f"pbsdock: {text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def prologue(run_dir: str, paths: str, argv: list[str]) -> int:
    """Prepare the job. 0: go on (a refusal is told by the run hook); 1: there is no such job; 2: requeue."""
    try:
        answer = _converse(run_dir, paths, _request("prepare", argv), 300.0)
    except AgentGone as error:
        try:
            if not pings(f"{run_dir}/agent.sock", 5.0):
                raise
            # It answers others, so it is this job that it does not answer about: no reason to take the node down.
            answer = _converse(run_dir, paths, _request("failed", argv), 30.0)
        except AgentGone:
            if sentence := _refusal(run_dir)[0]:
                sentence = f"the pbsdock agent of this node does not start, the job is queued again: {sentence}"
            else:
                sentence = f"the pbsdock agent does not answer on this node ({error}); the job is queued again"
                _flag(run_dir, sentence)
            _say(sentence)
            return REQUEUE
    if answer.op in ("fault", "aborted"):
        _say(answer.text("sentence"))
        return REQUEUE if answer.op == "fault" else ABORT
    return 0


def epilogue(run_dir: str, paths: str, argv: list[str]) -> int:
    """Release the job. Always 0: what could not be released is an event, a health flag and the reaper's work."""
    try:
        _converse(run_dir, paths, _request("release", argv), 120.0)
    except AgentGone as error:
        if not _refusal(run_dir)[0] and not pings(f"{run_dir}/agent.sock", 5.0):
            _flag(run_dir, f"the pbsdock agent does not answer in the epilogue ({error})")
    return 0


def tell(run_dir: str, paths: str, op: str, argv: list[str]) -> int:
    """Tell a sister's agent, and start that; nobody waits for the answer. "announce": the job has come; "sweep", which
    hooks of an earlier version ask for: only release its older incarnations."""
    try:
        _converse(run_dir, paths, _request(op, argv), 120.0)
    except AgentGone:
        pass
    return 0


def _refusal(run_dir: str) -> tuple[str, int]:
    """Why the agent last refused to start ("" if the flag says something else), and when the flag was written."""
    try:
        fd = os.open(f"{run_dir}/unhealthy", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return "", 0
    try:
        sentence, code, *_ = (*os.read(fd, 65536).decode("utf-8", "replace").split("\n"), "")
        return sentence if code in _REFUSALS else "", os.fstat(fd).st_mtime_ns
    except OSError:
        return "", 0
    finally:
        os.close(fd)


def _flag(run_dir: str, sentence: str) -> None:
    temporary = f"{run_dir}/unhealthy.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(fd, sentence.encode("utf-8", "replace") + b"\n")
        except OSError:
            pass  # on a full disk without its sentence: what counts is that the flag is there
        os.close(fd)
        os.rename(temporary, f"{run_dir}/unhealthy")
    except OSError:
        pass


def ensure_agent(run_dir: str, paths: str) -> bool:
    """Start the agent if nobody listens on its socket, one starter at a time; returns whether it answers.

    As long as nobody listens another is started every few seconds: the first may have been killed while it started.
    """
    import fcntl

    os.makedirs(run_dir, mode=0o755, exist_ok=True)
    lock = os.open(f"{run_dir}/start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = _refusal(run_dir)
        deadline = time.monotonic() + _START_WAIT_S
        spawn_at = 0.0
        while (now := time.monotonic()) < deadline:
            try:
                link = Link(f"{run_dir}/agent.sock", 5.0)
            except AgentGone:
                is_listening = False
                if now >= spawn_at:
                    _spawn_agent(paths)
                    spawn_at = now + _AGAIN_S
            else:
                is_listening = True
                if _lives(link, deadline - now):
                    return True
            found = _refusal(run_dir)
            if found[0] and (is_listening or found != before):
                return False
            time.sleep(0.02)
        return False
    finally:
        os.close(lock)


def _lives(link: Link, seconds: float) -> bool:
    """Whether who listens is there to stay. A killed agent's socket takes connections until its last thread has ended,
    and then closes them; who is only silent for so many *seconds* is slow to start, or busy."""
    import select

    try:
        link.send(wire.Message("ping"))
        poller = select.poll()
        poller.register(link.fileno(), select.POLLIN)
        return not poller.poll(seconds * 1000) or link.recv()[0].op == "pong"
    except AgentGone:
        return False
    finally:
        link.close()


def _spawn_agent(paths: str) -> None:
    library = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.insert(0, {library!r}); from pbsdock.agent.daemon import main; sys.exit(main())"
    null = os.open(os.devnull, os.O_RDWR)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", code, "--paths", paths],
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            file_actions=[(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)],
            setsigdef=range(1, 32),
            setsigmask=(),
            setsid=True,
        )
        os.waitpid(pid, 0)
    finally:
        os.close(null)


def hook() -> None:
    """Run one hook and end the process at once: an interpreter's tidying up would be waited for by every job."""
    os._exit(main())
