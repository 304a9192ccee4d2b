"""The hook scripts themselves, with a stand-in for the interpreter that writes down how it was called."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pbsdock.admin.setup import first_process
from pbsdock.directive.parse import DirectiveError, late_line, late_sentence
from pbsdock.hook import client
from pbsdock.protocol import wire
from tests.support.torque import parse_script

REPOSITORY = Path(__file__).resolve().parents[2]
HOOKS = ("prologue", "epilogue", "run", "prologue.parallel", "epilogue.parallel", "node-check", "ask")
MOM_ENV = {"PATH": "/bin:/usr/bin", "LANG": "C.UTF-8"}
PROLOGUE = ("7.vm", "alice", "users", "job", "nodes=1", "batch", "none")
EPILOGUE = ("7.vm", "alice", "users", "job", "123", "nodes=1", "cput=0", "batch", "none", "0", "/none.SC")
_STUB = """#!/bin/sh
{{ env | sort; echo "--"; shift 4; printf '%s\\n' "$@"; }} >{calls}.new
mv {calls}.new {calls}
exit {code}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Renderer hooks with a mom_priv and a run directory of their own."""

    base: Path

    @property
    def mom_priv(self) -> Path:
        """Where the jobs' scripts and the site's own hooks are."""
        return self.base / "mom_priv"

    @property
    def run_dir(self) -> Path:
        """Where the markers and the health flag are."""
        return self.base / "run"

    @property
    def calls(self) -> Path:
        """What the interpreter's stand-in wrote down."""
        return self.base / "calls"

    def python(self, code: int = 0) -> None:
        """Write the interpreter's stand-in, which will exit with *code*."""
        stub = self.base / "python3"
        stub.write_text(_STUB.format(calls=self.calls, code=code))
        stub.chmod(0o755)

    def mark(self, job: str = "7.vm") -> None:
        """Make *job* one of ours."""
        (self.run_dir / "jobs" / job).touch()

    def script(self, text: str, name: str = "7.vm.SC") -> str:
        """Write a job script as mom does; returns its path."""
        path = self.mom_priv / "jobs" / name
        path.write_text(text)
        return str(path)

    @contextmanager
    def agent(self) -> Iterator[None]:
        """What an agent that is alive leaves to be seen: its socket and its process id."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.run_dir / "agent.sock"))
            (self.run_dir / "agent.pid").write_text(f"{os.getpid()}\n")
            yield

    def site_hook(self, hook: str, name: str, text: str) -> None:
        """Write one of the site's own hooks."""
        directory = self.mom_priv / f"site-{hook}.d"
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)

    def call(
        self, hook: str, argv: Sequence[str] = (), env: Mapping[str, str] = MOM_ENV
    ) -> subprocess.CompletedProcess[str]:
        """Run one hook as mom would."""
        return subprocess.run(
            [str(self.base / "hooks" / hook), *argv],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.mom_priv,
            timeout=30,
            check=False,
        )

    def asked(self, wait_s: float = 0.0) -> list[str] | None:
        """What the client was called with, options of the instance first; None if it was not."""
        deadline = time.monotonic() + wait_s
        while not self.calls.exists():
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.01)
        return self.calls.read_text().split("--\n", 1)[1].splitlines()

    def environment(self) -> dict[str, str]:
        """The environment the client was called with."""
        head = self.calls.read_text().split("--\n", 1)[0]
        return dict(line.split("=", 1) for line in head.splitlines())

    def client(self, *arguments: str) -> list[str]:
        """The client's full command line for *arguments*."""
        hook = ["--hook", f"{self.base}/hooks/run"] if arguments[0] == "run" else []
        return ["--paths", f"{self.base}/paths.json", "--run-dir", str(self.run_dir), *hook, *arguments]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site nobody has used yet."""
    made = Site(base=tmp_path)
    for directory in (made.mom_priv / "jobs", made.run_dir / "jobs", tmp_path / "state" / "jobs", tmp_path / "hooks"):
        directory.mkdir(parents=True)
    marks = {
        "@PYTHON@": f"{tmp_path}/python3",
        "@LIB@": f"{tmp_path}/lib",
        "@RUN_DIR@": str(made.run_dir),
        "@STATE_DIR@": f"{tmp_path}/state",
        "@MOM_PRIV@": str(made.mom_priv),
        "@PATHS@": f"{tmp_path}/paths.json",
        "@PREFIX@": str(tmp_path),
        "@HOME@": str(tmp_path),
    }
    for name in HOOKS:
        text = (REPOSITORY / "hooks" / name).read_text()
        for mark, value in marks.items():
            text = text.replace(mark, value)
        (tmp_path / "hooks" / name).write_text(text)
        (tmp_path / "hooks" / name).chmod(0o755)
    made.python()
    return made


# -- prologue ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["#!/bin/sh\necho hello\n", "", "#!/bin/sh\n #DOCKER image\n", "echo '#DOCKER image'\n", "\0\0\n"]
)
def test_prologue_of_a_plain_job_starts_no_interpreter(site: Site, text: str) -> None:
    """A script without a directive passes the prologue without a word and without the client."""
    with site.agent():
        done = site.call("prologue", [*PROLOGUE, site.script(text)])

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked() is None


def test_prologue_of_a_plain_job_sees_to_an_agent(site: Site) -> None:
    """Its qsub -v PBSDOCK=… shows only in the run hook, which cannot start one. Nobody waits for it."""
    done = site.call("prologue", [*PROLOGUE, site.script("true\n")])

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked(5.0) == site.client("ensure-agent")


def test_prologue_of_a_plain_job_takes_an_unreaped_agent_for_dead(site: Site) -> None:
    """A killed agent nobody has waited for still has an entry in /proc, and its socket is there."""
    with site.agent(), subprocess.Popen([sys.executable, "-c", ""]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        (site.run_dir / "agent.pid").write_text(f"{dead.pid}\n")
        site.call("prologue", [*PROLOGUE, site.script("true\n")])

    assert site.asked(5.0) == site.client("ensure-agent")


def test_prologue_of_a_plain_job_leaves_an_agent_that_cannot_start_to_the_node_check(site: Site) -> None:
    """A node with a wrong configuration must not try it with every job."""
    (site.run_dir / "unhealthy").write_text("wrong\n")
    site.call("prologue", [*PROLOGUE, site.script("true\n")])

    assert site.asked(0.3) is None


@pytest.mark.parametrize(
    "line", ["#DOCKER busybox", "#docker busybox", "#DOCKER busybox\r", "#DOCKER", "\ufeff#DOCKER busybox"]
)
def test_prologue_hands_a_directive_to_the_client(site: Site, line: str) -> None:
    """Any spelling of the directive reaches the client, with mom's argument vector as it is."""
    script = site.script(f"#!/bin/sh\n\0\n{line}\n")

    done = site.call("prologue", [*PROLOGUE, script])

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked() == site.client("prologue", *PROLOGUE, script)


def test_prologue_returns_the_clients_exit_code(site: Site) -> None:
    """What the client says of the node decides whether mom requeues the job."""
    site.python(code=2)

    assert site.call("prologue", [*PROLOGUE, site.script("#DOCKER busybox\n")]).returncode == 2


def test_prologue_with_a_marker_lets_the_client_sweep(site: Site) -> None:
    """An older incarnation of the same job id is swept even if the new script has no directive."""
    site.mark()

    site.call("prologue", [*PROLOGUE, script := site.script("#!/bin/sh\n")])

    assert site.asked() == site.client("prologue", *PROLOGUE, script)


def test_prologue_of_an_interactive_job_passes(site: Site) -> None:
    """An interactive job's argument 8 names a file that does not exist: an agent is seen to, without waiting for it."""
    done = site.call("prologue", [*PROLOGUE, str(site.mom_priv / "jobs/7.vm.SC")])

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked(5.0) == site.client("ensure-agent")


@pytest.mark.parametrize(("job", "name"), [("7.vm", "7.vm.SC"), ("16[0].vm", "16-0.vm.SC")])
def test_prologue_of_an_older_mom_finds_the_script_itself(site: Site, job: str, name: str) -> None:
    """With seven arguments the script's name follows from the job id."""
    script = site.script("#DOCKER busybox\n", name)

    site.call("prologue", [job, *PROLOGUE[1:]])

    assert site.asked() == site.client("prologue", job, *PROLOGUE[1:], script)


def test_prologue_drops_what_would_load_code(site: Site) -> None:
    """Neither the loader's variables nor a strange PATH reach the interpreter; the node file does."""
    hostile = {
        **MOM_ENV,
        "PATH": f"{site.base}:/bin",
        "LD_AUDIT": "",
        "LD_LIBRARY_PATH": str(site.base),
        "GLIBC_TUNABLES": "glibc.malloc.check=0",
        "PBS_NODEFILE": "/nodes",
    }

    site.call("prologue", [*PROLOGUE, site.script("#DOCKER busybox\n")], hostile)

    seen = site.environment()
    assert seen["PATH"] == "/usr/sbin:/usr/bin:/sbin:/bin"
    assert seen["PBS_NODEFILE"] == "/nodes"
    assert not [name for name in seen if name.startswith(("LD_", "GLIBC_"))]


@pytest.mark.parametrize("job", ["../../etc/passwd", ".", "..", "", "a/b"])
@pytest.mark.parametrize("hook", ["prologue", "epilogue", "prologue.parallel", "epilogue.parallel"])
def test_a_job_id_that_is_a_path_is_never_looked_up(site: Site, hook: str, job: str) -> None:
    """A job id with a slash or only dots names no marker."""
    argv = (job, *(PROLOGUE if hook.startswith("prologue") else EPILOGUE)[1:])

    assert site.call(hook, argv).returncode == 0
    assert site.asked(wait_s=0.1) is None


# -- the site's own hooks -----------------------------------------------------------------------------------------


def test_site_prologues_come_first_in_order_and_unchanged(site: Site) -> None:
    """They get mom's argument vector and environment and run in sorted order; what cannot be run is skipped."""
    site.site_hook("prologue", "60-second", 'echo "second $#"')
    site.site_hook("prologue", "50-site", 'echo "first $PATH $8"')
    (site.mom_priv / "site-prologue.d" / "70-readme").write_text("not executable\n")
    (site.mom_priv / "site-prologue.d" / "80-directory").mkdir()
    script = site.script("#!/bin/sh\n")

    done = site.call("prologue", [*PROLOGUE, script])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"first /bin:/usr/bin {script}\nsecond 8\n"


def test_the_first_site_prologue_that_fails_ends_it(site: Site) -> None:
    """Its exit code is the prologue's, and neither later hooks nor the client run."""
    site.site_hook("prologue", "50-site", "exit 3")
    site.site_hook("prologue", "60-later", "echo later")

    done = site.call("prologue", [*PROLOGUE, site.script("#DOCKER busybox\n")])

    assert (done.returncode, done.stdout) == (3, "")
    assert site.asked() is None


def test_site_epilogues_come_last_and_all(site: Site) -> None:
    """They run after the release, one failing does not stop the next, the last failure is the exit code."""
    site.mark()
    site.site_hook("epilogue", "50-site", f"test -e {site.calls} && echo after; exit 4")
    site.site_hook("epilogue", "60-more", 'echo "more $#"')

    done = site.call("epilogue", EPILOGUE)

    assert (done.returncode, done.stdout, done.stderr) == (4, "after\nmore 11\n", "")


@pytest.mark.parametrize("hook", ["prologue.parallel", "epilogue.parallel"])
def test_site_hooks_of_a_sister_keep_their_say(site: Site, hook: str) -> None:
    """A sister's own hook that fails still does what it did before."""
    site.site_hook(hook, "50-site", "exit 5")

    assert site.call(hook, PROLOGUE).returncode == 5


# -- epilogue and sisters -----------------------------------------------------------------------------------------


def test_epilogue_of_a_plain_job_starts_no_interpreter(site: Site) -> None:
    """Without a marker there is nothing to release."""
    done = site.call("epilogue", EPILOGUE)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked() is None


def test_epilogue_hands_over_all_arguments(site: Site) -> None:
    """The client gets mom's eleven arguments."""
    site.mark()

    assert site.call("epilogue", EPILOGUE).returncode == 0
    assert site.asked() == site.client("epilogue", *EPILOGUE)


@pytest.mark.parametrize(
    ("hook", "asks"), [("prologue.parallel", ["announce", *PROLOGUE]), ("epilogue.parallel", ["epilogue", *EPILOGUE])]
)
def test_a_sisters_hook_asks_in_the_background(site: Site, hook: str, asks: list[str]) -> None:
    """With a marker the client is started, the hook does not wait for it, and the answer is 0 whatever it does."""
    site.mark()
    stub = (site.base / "python3").read_text()
    (site.base / "python3").write_text(stub.replace("#!/bin/sh\n", "#!/bin/sh\nsleep 1\n").replace("exit 0", "exit 9"))

    began = time.monotonic()
    done = site.call(hook, PROLOGUE if hook.startswith("prologue") else EPILOGUE)
    took = time.monotonic() - began

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert took < 0.8
    assert site.asked(wait_s=10.0) == site.client(*asks)


@pytest.mark.parametrize("asks", [True, False])
def test_a_sisters_prologue_marks_what_is_being_asked_about(site: Site, asks: bool) -> None:
    """Before it returns, so that no task is faster; not where the agent asks nobody."""
    marker = site.run_dir / "jobs/7.vm"
    if asks:
        (site.run_dir / "asks-nodes").touch()

    assert site.call("prologue.parallel", PROLOGUE).returncode == 0
    assert marker.exists() is asks


@pytest.mark.parametrize("hook", ["prologue.parallel", "epilogue.parallel"])
def test_a_sisters_hook_opens_its_closed_descriptors(site: Site, hook: str) -> None:
    """Mom closes stdout and stderr there; what the hook starts finds /dev/null on them, not some file of its own."""
    site.site_hook(hook, "50-site", f"readlink /proc/$PPID/fd/0 /proc/$PPID/fd/1 /proc/$PPID/fd/2 >{site.base}/fds")

    subprocess.run(
        ["/bin/sh", "-c", '"$0" "$@" <&- >&- 2>&-', str(site.base / "hooks" / hook), *PROLOGUE], check=True, timeout=30
    )

    assert (site.base / "fds").read_text().splitlines() == ["/dev/null", "/dev/null", "/dev/null"]


# -- run ----------------------------------------------------------------------------------------------------------


def _job_env(**more: str) -> dict[str, str]:
    return {**MOM_ENV, "PBS_JOBID": "7.vm", "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_NODENUM": "0", "HOME": "/", **more}


def test_run_of_itself_does_nothing(site: Site) -> None:
    """The task that only takes up a place in mom's task file."""
    site.mark()
    done = site.call("run", [f"{site.base}/hooks/run"], {**MOM_ENV, "PBS_JOBID": "7.vm"})

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked() is None


def test_run_without_a_record_becomes_the_command(site: Site) -> None:
    """Same process, same arguments, same exit code, not a byte added."""
    site.script("#!/bin/sh\n")

    done = site.call("run", ["/bin/sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", "a b", "", "*"], _job_env())

    assert (done.returncode, done.stdout, done.stderr) == (7, "a b||*|", "")
    assert site.asked() is None


def test_run_keeps_variables_no_shell_can_name(site: Site) -> None:
    """Functions exported by bash, such as ``module``, reach the job as they would without us."""
    given = _job_env(**{"BASH_FUNC_module%%": "() {  echo loaded\n}", "a-b.c": "1", "BASH_ENV": "/nonexistent"})

    done = site.call("run", ["/bin/bash", "-c", "module; /usr/bin/env"], given)

    lines = done.stdout.splitlines()
    assert lines[0] == "loaded"
    assert "a-b.c=1" in lines
    assert "BASH_ENV=/nonexistent" in lines


def test_run_adds_only_what_a_shell_adds(site: Site) -> None:
    """PWD and SHLVL, which the job's own shell sets anyway, are the whole difference in the environment."""
    given = _job_env(LD_BIND_NOW="1", EMPTY="", LINES="5", TERM="dumb")

    done = site.call("run", ["/usr/bin/env"], given)

    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert seen == {**given, "PWD": str(site.mom_priv), "SHLVL": "0"}


@pytest.mark.parametrize("more", [{}, {"PBS_NODENUM": "1", "PBS_TASKNUM": "3"}, {"PBSDOCK": "busybox"}])
def test_run_with_a_record_asks_the_client(site: Site, more: dict[str, str]) -> None:
    """The marker alone decides, for the job and for its TM tasks."""
    site.mark()

    site.call("run", ["/bin/sh", "-c", "a b"], _job_env(**more))

    assert site.asked() == site.client("run", "/bin/sh", "-c", "a b")


def _put_program(site: Site) -> Path:
    program = site.base / "lib/pbsdock" / first_process.RUN.name
    program.parent.mkdir(parents=True)
    return program


def test_run_executes_the_program_where_it_is_there(site: Site) -> None:
    """With the words of the interpreter, their number, and the job's behind them; what cannot be executed is not there."""
    site.mark()
    program = _put_program(site)
    program.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    site.call("run", ["/bin/true"], _job_env())
    assert site.asked() == site.client("run", "/bin/true")
    program.chmod(0o755)
    done = site.call("run", ["/bin/sh", "", "12", "a b"], _job_env())

    words = done.stdout.split("\0")[:-1]
    assert words[:4] == [str(site.run_dir / "agent.sock"), f"{site.base}/hooks/run", "12", f"{site.base}/python3"]
    interpreter, command = words[3:15], words[15:]
    assert (interpreter[-1], command) == ("run", ["/bin/sh", "", "12", "a b"])
    site.calls.unlink()
    subprocess.run([*interpreter, *command], check=True)
    assert site.asked() == site.client("run", "/bin/sh", "", "12", "a b")


def test_the_environment_reaches_the_agent_as_it_is(site: Site) -> None:
    """By bash and the program: names that are none, names of the script's own, bytes that are no text."""
    site.mark()
    first_process.compile_to(_put_program(site), REPOSITORY / "init", first_process.RUN)
    given = _job_env(
        **{
            "BASH_FUNC_module%%": "() {  echo loaded\n}",
            "a-b.c": "1",
            "python": "mine",
            "script": "mine",
            "LD_BIND_NOW": "1",
            "EMPTY": "",
            "RAW": "\udcff\n\udcfe",
            "BASH_ENV": "/nonexistent",
            "LINES": "5",
        }
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(site.run_dir / "agent.sock"))
        listener.listen()
        listener.settimeout(20)
        told: list[wire.Message] = []

        def answer() -> None:
            peer, _ = listener.accept()
            size = int.from_bytes(peer.recv(4, socket.MSG_WAITALL), "big")
            told.append(wire.decode(peer.recv(size, socket.MSG_WAITALL)))
            peer.sendall(wire.encode(wire.Message("refused", sentence="seen")))
            peer.close()

        thread = threading.Thread(target=answer)
        thread.start()
        done = site.call("run", ["/bin/sh", "a\udcffb", ""], given)
        thread.join(20)

    assert (done.returncode, done.stderr) == (125, "pbsdock: seen\n")
    shell = {b"PWD=" + os.fsencode(site.mom_priv), b"SHLVL=0"}
    assert set(told[0].raw("env")) == {os.fsencode(f"{name}={value}") for name, value in given.items()} | shell
    assert told[0].raw("argv") == [b"/bin/sh", b"a\xffb", b""]
    assert told[0].raw("cwd") == [os.fsencode(site.mom_priv)]


def test_run_with_a_ticket_asks_the_client(site: Site) -> None:
    """A sister's first task, of whose job nobody has heard there; not without a job."""
    brought = _job_env(PBS_NODENUM="1", PBS_TASKNUM="3", PBSDOCK_TICKET="k1.x.y")

    site.call("run", ["/bin/true"], brought)

    assert site.asked() == site.client("run", "/bin/true")


@pytest.mark.parametrize("more", [{"PBS_JOBID": ""}, {"PBS_NODENUM": "0"}])
def test_run_with_a_ticket_that_is_not_for_it(site: Site, more: dict[str, str]) -> None:
    """No job; or the first node of one that was submitted within another job, by qsub -V."""
    site.script("#!/bin/sh\n")
    brought = _job_env(**{"PBS_NODENUM": "1", "PBS_TASKNUM": "3", "PBSDOCK_TICKET": "k1.x.y", **more})

    assert site.call("run", ["/bin/echo", "bare"], brought).stdout == "bare\n"
    assert site.asked() is None


@pytest.mark.parametrize("kind", ["PBS_INTERACTIVE", "PBS_BATCH"])
def test_run_of_a_job_with_an_image_asks_the_client(site: Site, kind: str) -> None:
    """``qsub -v PBSDOCK=…`` has no marker yet, nor an interactive job a script."""
    site.call("run", ["/bin/bash"], _job_env(PBS_ENVIRONMENT=kind, PBSDOCK="busybox"))

    assert site.asked() == site.client("run", "/bin/bash")


@pytest.mark.parametrize(("job", "name"), [("7.vm", "7.vm.SC"), ("16[0].vm", "16-0.vm.SC")])
@pytest.mark.parametrize("line", ["#DOCKER busybox", "#DOCKER\tbusybox", "#DOCKER", "#DOCKER\r"])
def test_run_refuses_when_the_prologue_was_bypassed(site: Site, job: str, name: str, line: str) -> None:
    """A directive without a record means that somebody went round the prologue: nothing is started."""
    site.script(f"#!/bin/sh\n{line}\n", name)

    done = site.call("run", ["/bin/echo", "started"], _job_env(PBS_JOBID=job))

    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        "pbsdock: the script has a #DOCKER line but the prologue did not prepare its container; nothing was started\n"
    )


@pytest.mark.parametrize("length", [65535, 65536, 200_000])
def test_run_looks_through_long_scripts_too(site: Site, length: int) -> None:
    """Where the directive stands in a script, and how long the script is, makes no difference."""
    text = "#" * 99 + "\n"
    site.script(text * (length // len(text)) + "#DOCKER busybox\n" + "\n" * (length % len(text)))

    assert site.call("run", ["/bin/echo", "started"], _job_env()).returncode == 125


def test_run_passes_long_plain_scripts(site: Site) -> None:
    """A long script without a directive is started."""
    site.script("#" * 200_000 + "\necho #DOCKER\n")

    assert site.call("run", ["/bin/echo", "started"], _job_env()).stdout == "started\n"


@pytest.mark.parametrize("text", ["#DOCKERFILE is beside it\n", "#docker busybox\n", " #DOCKER busybox\n"])
def test_run_does_not_take_other_comments_for_a_directive(site: Site, text: str) -> None:
    """What the agent does not count as a directive must not stop a plain job."""
    site.script(text)

    assert site.call("run", ["/bin/echo", "started"], _job_env()).stdout == "started\n"


LATE = "true\ncat >next.sh <<END\n#DOCKER --privileged x\nEND\n"


@pytest.mark.parametrize("padding", ["", "# padding\n" * 10_000])
def test_run_tells_of_a_line_after_the_first_command(site: Site, padding: str) -> None:
    """The job is a plain one: it runs bare, with its environment untouched, and one line says so."""
    site.script(padding + LATE)
    line = padding.count("\n") + 3
    names = {"LC_ALL": "C.UTF-8", "script": "s", "line": "l", "late": "x", "mark": "m", "plain": "p", "text": "t"}

    done = site.call("run", ["/usr/bin/env"], _job_env(**names))

    assert done.stderr == f"pbsdock: {late_sentence(line)}\n"
    assert done.returncode == 0
    assert {f"{name}={value}" for name, value in names.items()} <= set(done.stdout.splitlines())


def test_run_tells_of_it_once_a_job(site: Site) -> None:
    """A TM task of the same job comes with the same script."""
    site.script(LATE)

    assert site.call("run", ["/bin/true"], _job_env(PBS_TASKNUM="2")).stderr == ""


HEADS = (
    "#!/bin/sh\n\n \t\r\n   # comment\n#DOCKER x\ntrue\n",
    "#\n\v\f#\n#DOCKER\vx",
    "#DOCKER\u00a0x\ntrue\n",
    "\ufeff#DOCKER x\n",
    "\ufeff#!/bin/sh\n#DOCKER x\n",
    "\ufeff\n#DOCKER x\n",
    "true\n#DOCKER x\n",
    "  true\n#DOCKER x\n",
    "\ufefftrue\n#DOCKER x\n",
    "true\n\ufeff#DOCKER x\n",
    "true\n#DOCKER\u00b5x\n",
    "#DOCKER\u00b5x\n",
    "\\\n#DOCKER x\n",
    "#DOCKERS\n#docker-x\n",
)


@pytest.mark.parametrize("text", HEADS)
def test_run_and_the_parser_agree_on_what_a_directive_is(site: Site, text: str) -> None:
    """What the parser takes for one, or for a mistake in one, never runs bare; what it does not is never stopped."""
    site.script(text)
    try:
        is_directive = parse_script(text.encode()) is not None
    except DirectiveError:
        is_directive = True

    done = site.call("run", ["/bin/echo", "started"], _job_env())

    assert (done.returncode, done.stdout) == ((125, "") if is_directive else (0, "started\n"))
    late = late_line(text.encode())
    assert is_directive or done.stderr == (f"pbsdock: {late_sentence(late)}\n" if late else "")


def test_run_on_a_sister_becomes_the_command(site: Site) -> None:
    """A sister has no script to look into; a file of that name there says nothing."""
    site.script("#DOCKER busybox\n")

    assert site.call("run", ["/bin/echo", "started"], _job_env(PBS_NODENUM="1")).stdout == "started\n"


# -- node check ---------------------------------------------------------------------------------------------------


def test_node_check_is_silent_on_a_healthy_node(site: Site) -> None:
    """No flag, no jobs: no word and no interpreter."""
    done = site.call("node-check")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked(wait_s=0.1) is None


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("the engine does not answer\nengine-unreachable\n12\n", "ERROR pbsdock: the engine does not answer\n"),
        ("no newline", "ERROR pbsdock: no newline\n"),
    ],
)
def test_node_check_reports_the_flags_first_line(site: Site, flag: str, line: str) -> None:
    """One line, whatever else the flag holds; and an agent is started, for nobody else would lower the flag."""
    (site.run_dir / "unhealthy").write_text(flag)

    done = site.call("node-check")

    assert (done.returncode, done.stdout, done.stderr) == (0, line, "")
    assert site.asked(wait_s=10.0) == site.client("ensure-agent")


def test_node_check_reports_an_empty_flag(site: Site) -> None:
    """A flag without a reason still takes the node out of service."""
    (site.run_dir / "unhealthy").touch()

    done = site.call("node-check")

    assert done.stdout == f"ERROR pbsdock: the health flag {site.run_dir}/unhealthy is set without a reason\n"


@pytest.mark.parametrize("what", ["run/jobs/7.vm", "state/jobs/7.vm.1.json"])
def test_node_check_starts_an_agent_for_what_waits_for_one(site: Site, what: str) -> None:
    """Jobs here, or records of an earlier boot, need an agent; the node check brings it back without waiting."""
    (site.base / what).touch()
    (site.run_dir / "agent.pid").write_text("2147483646\n")

    done = site.call("node-check")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked(wait_s=10.0) == site.client("ensure-agent")


def test_node_check_takes_an_unreaped_agent_for_dead(site: Site) -> None:
    """A killed agent nobody has waited for still has an entry in /proc."""
    site.mark()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(site.run_dir / "agent.sock"))
    with listener, subprocess.Popen([sys.executable, "-c", ""]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        (site.run_dir / "agent.pid").write_text(f"{dead.pid}\n")
        site.call("node-check")

    assert site.asked(wait_s=10.0) == site.client("ensure-agent")


@pytest.mark.parametrize(
    ("command", "asked"), [(["-m", "pbsdock.agent.daemon"], None), (["some-other.py"], ["ensure-agent"])]
)
def test_node_check_leaves_a_living_agent_alone(site: Site, command: list[str], asked: list[str] | None) -> None:
    """With an agent alive the check starts no interpreter, however many jobs there are; another program that got the
    number of a dead agent is none."""
    site.mark()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(site.run_dir / "agent.sock"))
    (site.base / "python3.11").symlink_to("/bin/sh")
    program = [str(site.base / "python3.11"), "-c", "echo; read _; :", *command]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as alive:
        assert alive.stdout is not None
        alive.stdout.readline()
        (site.run_dir / "agent.pid").write_text(f"{alive.pid}\n")
        done = site.call("node-check")
        listener.close()
        alive.kill()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked(wait_s=10.0 if asked else 0.2) == (site.client(*asked) if asked else None)


# -- cost ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["prologue", "epilogue", "run", "node-check"])
def test_a_plain_job_costs_little(site: Site, hook: str) -> None:
    """A hook of a job without a directive costs a few milliseconds at the very most, on a busy machine too."""
    script = site.script("#!/bin/sh\n" + "echo line\n" * 1000)
    argv = {"prologue": [*PROLOGUE, script], "epilogue": [*EPILOGUE], "run": ["/bin/true"], "node-check": []}[hook]
    program = str(site.base / "hooks" / hook)

    def cost(command: list[str]) -> float:
        began = time.perf_counter()
        os.waitpid(os.posix_spawn(command[0], command, _job_env()), 0)
        return time.perf_counter() - began

    with site.agent():
        bare, ours = (statistics.median(cost(one) for _ in range(40)) for one in (["/bin/true"], [program, *argv]))

    assert ours - bare < 0.010


# -- ask --------------------------------------------------------------------------------------------------------


class Agent:
    """Answers one connection with what it is told to; what it was asked is in ``asked``."""

    def __init__(self, site: Site, *answers: bytes) -> None:
        self.asked: list[wire.Message] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(site.run_dir / "agent.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as file:
            size = wire.length(file.read(wire.HEADER), wire.CLIENT_LIMIT)
            self.asked.append(wire.decode(file.read(size)))
            for one in self._answers:
                connection.sendall(one)
                time.sleep(0.02)  # so that messages arrive in pieces

    def stop(self) -> None:
        """Wait for the conversation's end."""
        self._thread.join(5)
        self._listener.close()


def _pieces(message: wire.Message) -> list[bytes]:
    data = wire.encode(message)
    return [data[:3], data[3:9], data[9:]]


def test_prologue_asks_without_python(site: Site) -> None:
    """An agent that answers is asked without Python's interpreter, with mom's arguments and variables as they are."""
    agent = Agent(site, *_pieces(wire.Message("prepared", state="ready")))
    script = site.script("#DOCKER busybox\n")
    argv = ["7.vm", "alice", "users", "a name\nof two lines", "nodes=1", "batch", "", script]

    done = site.call("prologue", argv, {**MOM_ENV, "PBS_NUM_PPN": "4", "TMPDIR": "/tmp/é", "OTHER": "x"})
    agent.stop()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked() is None
    assert agent.asked[0].op == "prepare"
    assert agent.asked[0].raw("argv") == [os.fsencode(one) for one in argv]
    assert sorted(agent.asked[0].raw("env")) == [b"PBS_NUM_PPN=4", "TMPDIR=/tmp/é".encode()]


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        (
            [wire.Message("notice", sentence="waiting"), wire.Message("prepared", state="ready")],
            0,
            "pbsdock: waiting\n",
        ),
        ([wire.Message("fault", code="x", sentence="the node is sick")], 2, "pbsdock: the node is sick\n"),
        ([wire.Message("refused", code="x", sentence="no such image")], 0, ""),
        ([wire.Message("prepared", state="none")], 0, ""),
    ],
)
def test_prologue_understands_the_agent(site: Site, answers: list[wire.Message], code: int, said: str) -> None:
    """A notice is passed on, a fault queues the job again, a refusal is left for the run hook to tell."""
    agent = Agent(site, *(piece for one in answers for piece in _pieces(one)))

    done = site.call("prologue", [*PROLOGUE, site.script("#DOCKER busybox\n")])
    agent.stop()

    assert (done.returncode, done.stderr) == (code, said)
    assert site.asked() is None


@pytest.mark.parametrize("answer", [b"", b"\0\0", b"\0\0\0\x09prep", wire.encode(wire.Message("notice", sentence="x"))])
def test_agent_that_dies_is_left_to_python(site: Site, answer: bytes) -> None:
    """Whatever ends the conversation early, the full client asks again and its exit code counts."""
    site.python(2)
    agent = Agent(site, answer)
    script = site.script("#DOCKER busybox\n")

    done = site.call("prologue", [*PROLOGUE, script])
    agent.stop()

    assert done.returncode == 2
    assert site.asked() == site.client("prologue", *PROLOGUE, script)


@pytest.mark.parametrize("code", [1, 2, 9, 75, 127, 255])
def test_ask_that_cannot_run_is_left_to_python(site: Site, code: int) -> None:
    """Only two exit codes of Perl's are an answer: a broken one, or a script that is gone, neither fails nor passes a job."""
    (site.base / "hooks/ask").write_text(f"exit {code};\n")
    site.python(2)
    script = site.script("#DOCKER busybox\n")

    assert site.call("prologue", [*PROLOGUE, script]).returncode == 2
    assert site.asked() == site.client("prologue", *PROLOGUE, script)


def test_epilogue_asks_without_python(site: Site) -> None:
    """The epilogue's whole argument vector reaches the agent; the answer's kind does not matter to mom."""
    agent = Agent(site, *_pieces(wire.Message("released", clean=0)))
    site.mark()

    done = site.call("epilogue", EPILOGUE)
    agent.stop()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.asked() is None
    assert agent.asked[0].op == "release"
    assert agent.asked[0].raw("argv") == [one.encode() for one in EPILOGUE]


def test_ask_keeps_perl_from_the_environment(site: Site) -> None:
    """Nothing of the environment makes Perl load code, and the two clients pass on the same variables."""
    agent = Agent(site, *_pieces(wire.Message("prepared")))
    (site.base / "Evil.pm").write_text(f"open F, '>', '{site.base}/owned'; 1;\n")

    done = site.call(
        "prologue",
        [*PROLOGUE, site.script("#DOCKER busybox\n")],
        {
            **MOM_ENV,
            "PERL5OPT": f"-I{site.base} -MEvil",
            "PERL5LIB": str(site.base),
            **dict.fromkeys(client._HOOK_ENV, "1"),
        },
    )
    agent.stop()

    assert done.returncode == 0
    assert not (site.base / "owned").exists()
    assert sorted(agent.asked[0].raw("env")) == sorted(f"{one}=1".encode() for one in client._HOOK_ENV)
