"""A faithful stand-in for pbs_mom: run one job on this host through the installed hooks, as Torque would.

What it claims of mom was measured on Torque 6.1: order of hooks, argument vectors, environment, identities, umask,
descriptors, the pipe with the script's path on the job's stdin, sessions, signals and exit statuses. It needs root.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import pty
import pwd
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from pbsdock.torque import BadValue, Resources, parse_job_id, parse_resource_list

_MOM_ENV = {"PATH": "/bin:/usr/bin", "LANG": "C.UTF-8"}
_ABORT, _REQUEUE = -2, -14  # exit_status Torque records when a prologue fails (observed)
_SIGNAL = 256
_DOWN = "ERROR"


class BadRequest(ValueError):
    """What was asked for cannot be tried; ``str()`` says why."""


@dataclass(slots=True, kw_only=True)
class Request:
    """One job as qsub would describe it. ``script`` None: an interactive job."""

    mom_priv: Path
    user: str
    script: bytes | None
    resources: str = "nodes=1:ppn=1,walltime=01:00:00"
    variables: Mapping[str, str] = field(default_factory=dict)
    name: str = "STDIN"
    queue: str = "batch"
    shell: str | None = None
    job_id: str | None = None
    array_index: int | None = None
    work_dir: str | None = None
    tmpdir: str | None = None
    bare: bool = False  # neither hooks nor job starter: what a job is without pbsdock
    prologue_alarm_s: float = 290.0
    kill_delay_s: float = 2.0
    window: tuple[int, int] = (24, 80)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How it ended: ``exit_status`` as Torque records it, hook times in seconds."""

    job_id: str
    exit_status: int
    stdout: bytes
    stderr: bytes
    prologue_status: int | None
    epilogue_status: int | None
    seconds: dict[str, float]
    node_down: str | None = None

    @property
    def shell_status(self) -> int:
        """The same as a shell's ``$?``."""
        if self.exit_status < 0:
            return 1
        return 128 + self.exit_status - _SIGNAL if self.exit_status >= _SIGNAL else self.exit_status


def _resource_list(resources: str) -> str:
    spec = resources if "nodes=" in resources else f"nodes=1:ppn=1,{resources}".rstrip(",")
    nodes = re.search(r"nodes=([^,]+)", spec)
    return f"{spec},neednodes={nodes.group(1)}" if nodes else spec


class Trial:
    """One job under way. ``finish`` must be called; the other methods may be called from other threads."""

    def __init__(self, request: Request) -> None:
        self.request = request
        try:
            self.entry = pwd.getpwnam(request.user)
        except KeyError:
            raise BadRequest(f"user {request.user!r} does not exist on this host") from None
        if self.entry.pw_uid == 0:
            raise BadRequest("jobs of root are not run; name an ordinary user with --user")
        self.groups = os.getgrouplist(request.user, self.entry.pw_gid)
        self.host = socket.gethostname()
        self.job_id = request.job_id or self._next_id()
        self.safe = parse_job_id(self.job_id).safe
        self.resource_text = _resource_list(request.resources)
        try:
            self.resources: Resources = parse_resource_list(self.resource_text)
        except BadValue as error:
            raise BadRequest(f"-l {request.resources}: {error}") from None
        top = request.mom_priv.parent
        self.script_path = request.mom_priv / "jobs" / f"{self.safe}.SC"
        self.job_file = request.mom_priv / "jobs" / f"{self.safe}.JB"
        self.out_path = top / "spool" / f"{self.safe}.OU"
        self.err_path = top / "spool" / f"{self.safe}.ER"
        self.nodefile = top / "aux" / self.job_id
        self.tmp = Path(request.tmpdir) / self.job_id if request.tmpdir else None
        self.ppn = sum(one.ppn for one in self.resources.nodes[:1]) or 1
        self.leader: subprocess.Popen[bytes] | None = None
        self.terminal: int | None = None
        self.screen = bytearray()
        self.seconds: dict[str, float] = {}
        self.prologue_status: int | None = None
        self.tasks = 1
        self.killed_by_walltime = False

    def _next_id(self) -> str:
        counter = self.request.mom_priv.parent / "trial.seq"
        fd = os.open(counter, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "r+") as file:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX)
            number = int(file.read().strip() or "0") + 1
            file.seek(0)
            file.write(f"{number}\n")
        index = "" if self.request.array_index is None else f"[{self.request.array_index}]"
        return f"{number}{index}.{self.host}"

    # -- environment --------------------------------------------------------------------------------------------

    def _hook_env(self) -> dict[str, str]:
        env = {
            **_MOM_ENV, "PBS_MSHOST": self.host, "PBS_NODEFILE": str(self.nodefile), "PBS_NODENUM": "0",
            "PBS_NP": str(self.ppn), "PBS_NUM_NODES": "1", "PBS_NUM_PPN": str(self.ppn),
            "PBS_O_WORKDIR": self._work_dir(), "PBS_RESOURCE_NODES": f"1:ppn={self.ppn}",
        }  # fmt: skip
        return {**env, "TMPDIR": str(self.tmp)} if self.tmp else env

    def _work_dir(self) -> str:
        return self.request.work_dir or self.entry.pw_dir

    def job_env(self) -> dict[str, str]:
        """The environment of the job's shell: mom's, then whatever -v set, unfiltered."""
        entry, request = self.entry, self.request
        env = {
            **_MOM_ENV, "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name,
            "SHELL": entry.pw_shell, "PBS_O_HOME": entry.pw_dir, "PBS_O_LOGNAME": entry.pw_name,
            "PBS_O_SHELL": entry.pw_shell, "PBS_O_HOST": self.host, "PBS_O_QUEUE": request.queue,
            "PBS_O_SERVER": self.host, "PBS_O_PATH": _MOM_ENV["PATH"], "PBS_O_WORKDIR": self._work_dir(),
            "PBS_JOBID": self.job_id, "PBS_JOBNAME": self._name(), "PBS_QUEUE": request.queue,
            "PBS_ENVIRONMENT": "PBS_BATCH" if request.script is not None else "PBS_INTERACTIVE",
            "PBS_JOBCOOKIE": "F" * 32, "PBS_TASKNUM": "1", "PBS_VNODENUM": "0", "PBS_NODENUM": "0",
            "PBS_MOMPORT": "15003", "PBS_NODEFILE": str(self.nodefile), "PBS_NP": str(self.ppn),
            "PBS_NUM_NODES": "1", "PBS_NUM_PPN": str(self.ppn), "PBS_WALLTIME": str(self.resources.walltime or 0),
            "PBS_VERSION": "TORQUE-6.1", "ENVIRONMENT": "BATCH",
        }  # fmt: skip
        if self.request.array_index is not None:
            env["PBS_ARRAYID"] = str(self.request.array_index)
        if self.tmp:
            env["TMPDIR"] = str(self.tmp)
        return {**env, **request.variables}

    def _name(self) -> str:
        index = self.request.array_index
        return self.request.name if index is None else f"{self.request.name}-{index}"

    # -- files mom makes ----------------------------------------------------------------------------------------

    def prepare_files(self) -> None:
        """Make the spool files, the script's copy and the node file, owned and with the modes mom gives them."""
        for directory, mode in ((self.request.mom_priv / "jobs", 0o751), (self.out_path.parent, 0o1777),
                                (self.nodefile.parent, 0o755)):  # fmt: skip
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
        self.nodefile.write_text(f"{self.host}\n" * self.ppn)
        for path in (self.out_path, self.err_path):
            path.touch(mode=0o600)
            os.chown(path, self.entry.pw_uid, self.entry.pw_gid)
        if self.request.script is not None:
            fd = os.open(self.script_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700)
            with os.fdopen(fd, "wb") as file:
                file.write(self.request.script)
            self.script_path.chmod(0o700)
            os.chown(self.script_path, self.entry.pw_uid, self.entry.pw_gid)
        if self.tmp:
            self.tmp.mkdir(mode=0o755, parents=True)
            os.chown(self.tmp, self.entry.pw_uid, self.entry.pw_gid)

    def _write_job_file(self, session: int) -> None:
        variables = ",".join(f"{key}={value}".replace(",", "\\,") for key, value in self.request.variables.items())
        resources = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in self.resources.raw)
        self.job_file.write_text(
            f"<job><jobid>{escape(self.job_id)}</jobid><attributes><Job_Name>{escape(self._name())}</Job_Name>"
            f"<queue>{escape(self.request.queue)}</queue><euser>{self.entry.pw_name}</euser>"
            f"<exec_host>{self.host}/0-{self.ppn - 1}</exec_host><session_id>{session}</session_id>"
            f"<start_time>{int(time.time())}</start_time><Resource_List>{resources}</Resource_List>"
            f"<Variable_List>{escape(f'PBS_O_WORKDIR={self._work_dir()},' + variables)}</Variable_List></attributes>"
            f"<execution_uid>{self.entry.pw_uid}</execution_uid><execution_gid>{self.entry.pw_gid}</execution_gid>"
            "</job>\n"
        )

    # -- hooks --------------------------------------------------------------------------------------------------

    def _hook(self, name: str, arguments: Sequence[str], umask: int, alarm_s: float) -> int | None:
        path = self.request.mom_priv / name
        if self.request.bare or not path.exists():
            return None
        began = time.monotonic()
        with open(self.out_path, "ab") as out, open(self.err_path, "ab") as err:
            leaked = [os.dup(out.fileno()) for _ in range(6 if name == "prologue" else 2)]
            process = subprocess.Popen(
                [str(path), *arguments], cwd=self.request.mom_priv, env=self._hook_env(), stdin=subprocess.DEVNULL,
                stdout=self._hook_output(out.fileno()), stderr=self._hook_output(err.fileno()), umask=umask,
                start_new_session=True, user=0, group=0, extra_groups=self.groups, pass_fds=leaked,
                restore_signals=False,
            )
            for fd in leaked:
                os.close(fd)
            if not _ended(process, alarm_s):
                _kill_session(process.pid, signal.SIGKILL)
            status = process.wait()
        self.seconds[name] = time.monotonic() - began
        return status

    def _hook_output(self, spool: int) -> int:
        return spool if self.slave is None else self.slave

    slave: int | None = None

    def prologue(self) -> int | None:
        """Run the prologue; past its alarm it is killed and tried once more."""
        arguments = [
            self.job_id, self.entry.pw_name, _group_name(self.entry.pw_gid), self._name(), self.resource_text,
            self.request.queue, "", str(self.script_path),
        ]  # fmt: skip
        self.prologue_status = self._hook("prologue", arguments, 0o077, self.request.prologue_alarm_s)
        if self.prologue_status is not None and self.prologue_status < 0:
            self.prologue_status = self._hook("prologue", arguments, 0o077, self.request.prologue_alarm_s)
        return self.prologue_status

    def epilogue(self, exit_status: int) -> int | None:
        """Run the epilogue."""
        session = self.leader.pid if self.leader else 0
        arguments = [
            self.job_id, self.entry.pw_name, _group_name(self.entry.pw_gid), self._name(), str(session),
            self.resource_text, "cput=00:00:00,mem=0kb,vmem=0kb,walltime=00:00:00", self.request.queue, "",
            str(exit_status), str(self.script_path),
        ]  # fmt: skip
        return self._hook("epilogue", arguments, 0o022, 120.0)

    # -- the job ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the job's shell as the user, through the job starter if mom's config names one."""
        shell = self.request.shell or self.entry.pw_shell or "/bin/sh"
        argv = [*self._limits(), *self._starter(), shell]
        if self.request.script is None:
            self._open_terminal()
            argv = ["/usr/bin/setsid", "--ctty", *argv]
        began = time.monotonic()
        with open(self.out_path, "ab") as out, open(self.err_path, "ab") as err:
            leaked = [os.dup(out.fileno()) for _ in range(6)]
            self.leader = subprocess.Popen(
                argv, cwd=self.entry.pw_dir, env=self.job_env(),
                stdin=subprocess.PIPE if self.slave is None else self.slave,
                stdout=self._hook_output(out.fileno()), stderr=self._hook_output(err.fileno()), umask=0o077,
                start_new_session=self.slave is None, user=self.entry.pw_uid, group=self.entry.pw_gid,
                extra_groups=self.groups, pass_fds=leaked, restore_signals=False,
            )
            for fd in leaked:
                os.close(fd)
        self.seconds["start"] = began
        self._write_job_file(self.leader.pid)
        if self.leader.stdin is not None:
            try:
                self.leader.stdin.write(f"{self.script_path}\n".encode())
                self.leader.stdin.close()
            except BrokenPipeError:
                pass

    def _starter(self) -> list[str]:
        if self.request.bare:
            return []
        try:
            text = (self.request.mom_priv / "config").read_text()
        except FileNotFoundError:
            return []
        found = re.search(r"^\s*\$job_starter\s+(\S+)", text, re.MULTILINE)
        return [found.group(1)] if found else []

    def _limits(self) -> list[str]:
        res = self.resources
        chosen = {
            "as": res.pvmem or res.vmem, "rss": res.pmem or res.mem, "data": res.pmem or res.mem, "cpu": res.cput,
        }
        return ["/usr/bin/prlimit", *(f"--{key}={value}" for key, value in chosen.items() if value), "--"]

    def _open_terminal(self) -> None:
        import fcntl
        import struct
        import termios

        self.terminal, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", *self.request.window, 0, 0))
        os.fchown(self.slave, self.entry.pw_uid, self.entry.pw_gid)

    def task(self, argv: Sequence[str], stdout: int) -> subprocess.Popen[bytes]:
        """Start a TM task (as pbsdsh does on this node): own session, stdin empty, mom's short environment."""
        self.tasks += 1
        env = self.job_env() | {"PBS_TASKNUM": str(self.tasks)}
        for name in ("USER", "LOGNAME", "SHELL", "PBS_NP"):
            env.pop(name)
        return subprocess.Popen(
            [*self._limits(), *self._starter(), *argv], cwd=self.entry.pw_dir, env=env, stdin=subprocess.DEVNULL,
            stdout=stdout, stderr=stdout, umask=0o077, start_new_session=True, user=self.entry.pw_uid,
            group=self.entry.pw_gid, extra_groups=self.groups, restore_signals=False,
        )

    def signal(self, number: int) -> None:
        """Signal every process of the job's session, twice, as mom's walks do (observed: two to four times)."""
        assert self.leader is not None
        for _ in range(2):
            _kill_session(self.leader.pid, number)

    def qdel(self) -> None:
        """TERM to the session; KILL to the rest as soon as the leader is gone, or after the kill delay."""
        assert self.leader is not None
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + self.request.kill_delay_s
        while self.leader.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        _kill_session(self.leader.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the leader; returns the exit status as Torque records it. Walltime is enforced."""
        assert self.leader is not None
        limit = self.resources.walltime
        if not _ended(self.leader, limit):
            message = f"=>> PBS: job killed: walltime {limit} exceeded limit {limit}\n"
            with open(self.err_path, "a") as err:
                err.write(message)
            self.qdel()
        code = self.leader.wait()
        self.seconds["run"] = time.monotonic() - self.seconds.pop("start")
        _kill_session(self.leader.pid, signal.SIGKILL)
        return code if code >= 0 else _SIGNAL - code

    def finish(self, exit_status: int, node_down: str | None = None) -> Outcome:
        """Run the epilogue and only then hand out the output and remove mom's files."""
        epilogue_status = self.epilogue(exit_status)
        stdout, stderr = self.out_path.read_bytes(), self.err_path.read_bytes()
        for path in (self.out_path, self.err_path, self.script_path, self.job_file, self.nodefile):
            path.unlink(missing_ok=True)
        if self.tmp:
            shutil.rmtree(self.tmp, ignore_errors=True)
        for fd in (self.slave, self.terminal):
            if fd is not None:
                os.close(fd)
        self.slave = self.terminal = None
        return Outcome(
            job_id=self.job_id, exit_status=exit_status, stdout=bytes(self.screen) or stdout, stderr=stderr,
            prologue_status=self.prologue_status, epilogue_status=epilogue_status, seconds=self.seconds,
            node_down=node_down,
        )

    def begin(self) -> Outcome | None:
        """Prologue and start; an Outcome if the prologue ended the job."""
        self.prepare_files()
        status = self.prologue()
        if status not in (None, 0):
            exit_status = _ABORT if status == 1 or self.request.script is None else _REQUEUE
            return self.finish(exit_status, self._node_check())
        self.start()
        return None

    def _node_check(self) -> str | None:
        try:
            text = (self.request.mom_priv / "config").read_text()
        except FileNotFoundError:
            return None
        found = re.search(r"^\s*\$node_check_script\s+(\S+)", text, re.MULTILINE)
        if not found:
            return None
        said = subprocess.run([found.group(1)], capture_output=True, text=True, check=False).stdout
        return said.strip() if said.startswith(_DOWN) else None


def run_job(request: Request) -> Outcome:
    """Run one job from prologue to epilogue."""
    trial = Trial(request)
    early = trial.begin()
    return early if early is not None else trial.finish(trial.wait())


def _ended(process: subprocess.Popen[bytes], seconds: float | None) -> bool:
    """Wait for a child on a pidfd: Popen's own wait with a time-out polls, and is up to 50 ms late."""
    if process.poll() is not None:
        return True
    fd = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(seconds * 1000 if seconds else None))
    finally:
        os.close(fd)


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _kill_session(session: int, number: int) -> None:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == session and fields[0] != b"Z":
                    os.kill(int(entry), number)
            except (OSError, IndexError):
                continue


# -- the command ------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``pbsdock try``: qsub's, as far as one host can honour them."""
    parser.add_argument("script", nargs="?", metavar="SCRIPT", help="job script; none with -I")
    parser.add_argument("--user", metavar="USER", help="run as this user (default: the owner of the script)")
    parser.add_argument("-l", dest="resources", metavar="RES", action="append", default=[], help="as for qsub")
    parser.add_argument("-v", dest="variables", metavar="VARS", default="", help="NAME=VALUE,… for the job")
    parser.add_argument("-N", dest="name", help="job name")
    parser.add_argument("-q", dest="queue", help="queue")
    parser.add_argument("-S", dest="shell", help="shell")
    parser.add_argument("-t", dest="array_index", type=int, metavar="INDEX", help="run as this element of an array")
    parser.add_argument("-I", dest="interactive", action="store_true", help="interactive, on this terminal")
    parser.add_argument("--bare", action="store_true", help="without pbsdock's hooks, for comparison")
    parser.add_argument("--json", action="store_true", help="say how it ended as one JSON object")


def _pbs_lines(script: bytes) -> dict[str, list[str]]:
    """qsub's options in the script's #PBS lines, as far as they are honoured here."""
    found: dict[str, list[str]] = {}
    for line in script.decode("utf-8", "replace").splitlines():
        if line.startswith("#PBS"):
            words = shlex.split(line[4:].strip(), comments=True)
            while words:
                word = words.pop(0)
                if word[:2] in ("-l", "-N", "-q", "-S", "-v"):
                    value = word[2:] or (words.pop(0) if words else "")
                    found.setdefault(word[:2], []).append(value)
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _variables(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in re.split(r",(?=[A-Za-z_][A-Za-z0-9_]*(?:=|,|$))", text) if text else []:
        name, equals, value = item.partition("=")
        if value[:1] in "'\"" and value[:1] == value[-1:] and len(value) > 1:
            value = value[1:-1]
        pairs[name] = value if equals else os.environ.get(name, "")
    return pairs


def _request(arguments: argparse.Namespace) -> Request:
    from pbsdock.paths import load

    if os.geteuid() != 0:
        raise BadRequest("pbsdock try stands in for pbs_mom and needs root; use sudo")
    script = None
    if not arguments.interactive:
        if arguments.script is None:
            raise BadRequest("name a script, or -I for an interactive job")
        try:
            script = Path(arguments.script).read_bytes()
        except OSError as error:
            raise BadRequest(f"{arguments.script} cannot be read: {error.strerror}") from None
    lines = _pbs_lines(script or b"")
    owner = arguments.user
    if owner is None and arguments.script is not None:
        owner = pwd.getpwuid(os.stat(arguments.script).st_uid).pw_name
    if owner in (None, "root"):
        owner = os.environ.get("SUDO_USER", "root")
    resources = ",".join([*arguments.resources] or lines.get("-l", [])) or "nodes=1:ppn=1"
    if "walltime=" not in resources:
        resources += ",walltime=01:00:00"
    return Request(
        mom_priv=load(arguments.paths).mom_priv, user=owner, script=script, resources=resources,
        variables={**_variables(",".join(lines.get("-v", []))), **_variables(arguments.variables)},
        name=(arguments.name or lines.get("-N", [Path(arguments.script or "STDIN").name])[-1])[:15],
        queue=arguments.queue or lines.get("-q", ["batch"])[-1], shell=arguments.shell or lines.get("-S", [None])[-1],
        array_index=arguments.array_index, bare=arguments.bare, work_dir=os.getcwd() if script else None,
        window=(os.get_terminal_size(0).lines, os.get_terminal_size(0).columns) if os.isatty(0) else (24, 80),
    )


def main(arguments: argparse.Namespace) -> int:
    """``pbsdock try``; the exit code is the job's as a shell would see it, 2 for a wrong request."""
    try:
        trial = Trial(_request(arguments))
    except BadRequest as error:
        print(f"pbsdock try: {error}", file=sys.stderr)
        return 2
    outcome = trial.begin()
    if outcome is None:
        for name in ("SIGINT", "SIGTERM"):
            signal.signal(getattr(signal, name), lambda *_: threading.Thread(target=trial.qdel).start())
        if trial.terminal is not None:
            converse(trial, 0, 1)
        outcome = trial.finish(trial.wait())
    if arguments.json:
        data = asdict(outcome) | {"stdout": outcome.stdout.decode("utf-8", "replace"),
                                  "stderr": outcome.stderr.decode("utf-8", "replace")}  # fmt: skip
        print(json.dumps(data | {"shell_status": outcome.shell_status}))
        return outcome.shell_status
    if trial.request.script is not None:
        sys.stdout.buffer.write(outcome.stdout)
        sys.stdout.flush()
        sys.stderr.buffer.write(outcome.stderr)
    if outcome.exit_status < 0:
        print(
            f"pbsdock try: the prologue ended the job (exit {outcome.prologue_status}; Torque records"
            f" {outcome.exit_status}); {outcome.node_down or 'see the event stream'}",
            file=sys.stderr,
        )
    return outcome.shell_status


def converse(trial: Trial, keyboard: int, screen: int) -> None:
    """Connect the job's terminal with ours until the job ends."""
    assert trial.terminal is not None
    assert trial.leader is not None
    if trial.slave is not None:
        os.close(trial.slave)  # so that the master reports the end
        trial.slave = None
    sources = [trial.terminal, keyboard]
    while True:
        ready, _, _ = select.select(sources, [], [], 0.2)
        if trial.terminal in ready:
            try:
                data = os.read(trial.terminal, 65536)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return
            if not data:
                return
            trial.screen += data
            os.write(screen, data)
        if keyboard in ready:
            typed = os.read(keyboard, 65536)
            if typed:
                os.write(trial.terminal, typed)
            else:
                sources.remove(keyboard)
        if trial.leader.poll() is not None and not ready:
            return
