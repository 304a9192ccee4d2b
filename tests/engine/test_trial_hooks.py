"""The stand-in for pbs_mom against hooks that write down what they got: every row of what a real mom was seen to do.

Root and ordinary users are real; no container is involved.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pbsdock.rm.torque import parse_epilogue_argv, parse_jb, parse_prologue_argv
from pbsdock.trial import Request, Trial, run_job, start
from pbsdock.trial.hooks import NOT_RUN, TIMED_OUT
from pbsdock.trial.launcher import in_session
from tests.conftest import USERS, wait_until

pytestmark = pytest.mark.engine

# What a hook writes down of itself, before anything else can change it.
RECORDER = r"""#!/usr/bin/python3 -IS
import json, os, resource, sys, time
name = os.path.basename(sys.argv[0])
umask = os.umask(0)
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
fds = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        fds[fd] = os.readlink("/proc/self/fd/" + fd)
    except OSError:
        pass
jobs = {one: oct(os.stat("jobs/" + one).st_mode & 0o7777) for one in os.listdir("jobs")} if os.path.isdir("jobs") else {}
jb = [open("jobs/" + one).read() for one in jobs if one.endswith(".JB")]
limits = {one: resource.getrlimit(getattr(resource, "RLIMIT_" + one)) for one in ("AS", "RSS", "DATA", "CPU", "FSIZE")}
seen = dict(
    argv=sys.argv, env=dict(os.environ), umask=umask, uid=os.getresuid(), gid=os.getresgid(), groups=sorted(os.getgroups()),
    cwd=os.getcwd(), fds=fds, sid=os.getsid(0), pid=os.getpid(), ppid=os.getppid(), jobs=jobs, jb=jb, limits=limits,
    ignored=int(status["SigIgn"], 16) & ~(3 << 31), blocked=int(status["SigBlk"], 16), caps=status["CapEff"], at=time.monotonic(),
)
path = os.path.join("RECORDS", "%s.%d.json" % (name, time.monotonic_ns()))
with open(path, "x") as file:
    json.dump(seen, file)
"""
HOOK = RECORDER + "print('out of', name, flush=True); print('err of', name, file=sys.stderr, flush=True)\n"
STARTER = RECORDER + "os.umask(umask); os.execvp(sys.argv[1], sys.argv[1:])\n"
# Python ignores SIGPIPE and SIGXFSZ of its own accord.
SIGPIPE, SIGXFSZ = 1 << (signal.SIGPIPE - 1), 1 << (signal.SIGXFSZ - 1)


@dataclass
class Mom:
    """A mom_priv with hooks of the tests' own."""

    top: Path

    @property
    def priv(self) -> Path:
        return self.top / "mom_priv"

    def hook(self, name: str, text: str = HOOK) -> Path:
        path = self.priv / name
        path.write_text(text.replace("RECORDS", str(self.top / "records")))
        path.chmod(0o755)
        return path

    def starter(self, text: str = STARTER) -> None:
        path = self.hook("run", text)
        (self.priv / "config").write_text(f"$job_starter {path}\n")

    def request(self, script: str | None = "#!/bin/sh\ntrue\n", **options: Any) -> Request:
        data = None if script is None else script.encode()
        chosen: dict[str, Any] = {
            "mom_priv": self.priv,
            "user": USERS[0],
            "script": data,
            "shell": "/bin/sh",
            **options,
        }
        return Request(**chosen)

    def seen(self, name: str) -> list[dict[str, Any]]:
        """What the hooks of this name wrote down, in the order of their start."""
        found = sorted((self.top / "records").glob(f"{name}.*.json"), key=lambda one: int(one.name.split(".")[-2]))
        return [json.loads(one.read_text()) for one in found]

    def left(self) -> list[Path]:
        return [one for name in ("mom_priv/jobs", "spool", "aux") for one in (self.top / name).iterdir()]


@pytest.fixture
def mom(users: tuple[str, ...]) -> Iterator[Mom]:
    """A scratch mom_priv that users can reach."""
    top = Path(tempfile.mkdtemp(prefix="pbsdock-mom.", dir="/var/tmp"))
    top.chmod(0o755)
    (top / "mom_priv").mkdir(mode=0o755)
    (top / "records").mkdir()
    (top / "records").chmod(0o1777)
    yield Mom(top)
    shutil.rmtree(top)


@pytest.fixture
def full(mom: Mom) -> Mom:
    """All three hooks record."""
    mom.hook("prologue")
    mom.hook("epilogue")
    mom.starter()
    return mom


@pytest.fixture
def entry(users: tuple[str, ...]) -> pwd.struct_passwd:
    return pwd.getpwnam(users[0])


def _files(fds: dict[str, str]) -> dict[int, str]:
    """Descriptors by number; a pipe is just a pipe."""
    return {
        int(fd): "pipe" if what.startswith("pipe:") else what
        for fd, what in fds.items()
        if not what.startswith("/proc/")
    }


def test_order(full: Mom) -> None:
    """Prologue, job, epilogue; all three can print to the user's output, which holds it in that order."""
    done = run_job(full.request("#!/bin/sh\necho job; echo job >&2; exit 3\n"))

    assert done.stdout == b"out of prologue\njob\nout of epilogue\n"
    assert done.stderr == b"err of prologue\njob\nerr of epilogue\n"
    assert (done.exit_status, done.shell_status, done.prologue_status, done.epilogue_status) == (3, 3, 0, 0)
    assert set(done.seconds) == {"prologue", "run", "epilogue"}
    assert all(0 < one < 10 for one in done.seconds.values())
    assert (done.started, done.held) == (1, ())
    assert full.left() == []


def test_prologue_sees(full: Mom, entry: pwd.struct_passwd) -> None:
    """The prologue's row of the table."""
    done = run_job(full.request(resources="nodes=1:ppn=2,mem=200mb", name="jobname", queue="long", work_dir="/tmp"))
    (seen,) = full.seen("prologue")
    spool = full.top / "spool"

    assert (seen["uid"], seen["gid"]) == ([0, 0, 0], [0, 0, 0])
    assert seen["groups"] == sorted(os.getgrouplist(entry.pw_name, entry.pw_gid))
    assert (seen["cwd"], seen["umask"], seen["sid"] == seen["pid"]) == (str(full.priv), 0o077, True)
    assert _files(seen["fds"]) == {
        0: "/dev/null",
        1: f"{spool}/{done.job_id}.OU",
        2: f"{spool}/{done.job_id}.ER",
        9: "pipe",
        10: "pipe",
        11: "pipe",
        12: f"{spool}/{done.job_id}.OU",
        13: f"{spool}/{done.job_id}.ER",
        14: "pipe",
    }
    assert seen["argv"][1:] == [
        done.job_id,
        entry.pw_name,
        entry.pw_name,
        "jobname",
        "nodes=1:ppn=2,mem=200mb,neednodes=1:ppn=2",
        "long",
        "",
        f"{full.priv}/jobs/{done.job_id}.SC",
    ]
    assert parse_prologue_argv(seen["argv"][1:]).job_id.text == done.job_id
    host = os.uname().nodename
    seen["env"].pop("LC_CTYPE", None)  # Python's own
    assert seen["env"] == {
        "PATH": "/bin:/usr/bin",
        "LANG": "C.UTF-8",
        "PBS_MSHOST": host,
        "PBS_NODENUM": "0",
        "PBS_NP": "2",
        "PBS_NODEFILE": f"{full.top}/aux//{done.job_id}",
        "PBS_NUM_NODES": "1",
        "PBS_NUM_PPN": "2",
        "PBS_O_WORKDIR": "/tmp",
        "PBS_RESOURCE_NODES": "1:ppn=2",
    }
    assert seen["jobs"] == {f"{done.job_id}.SC": "0o700"}
    assert (seen["ignored"] & ~SIGXFSZ, seen["blocked"]) == (SIGPIPE, 0)
    assert set(map(tuple, seen["limits"].values())) == {(-1, -1)}


def test_epilogue_sees(full: Mom, entry: pwd.struct_passwd) -> None:
    """The epilogue's row of the table: the exit status, the session, and the job's files still there."""
    done = run_job(full.request("#!/bin/sh\nexit 7\n"))
    (seen,) = full.seen("epilogue")
    (leader,) = full.seen("run")
    spool = full.top / "spool"

    assert (seen["uid"], seen["gid"]) == ([0, 0, 0], [0, 0, 0])
    assert seen["groups"] == sorted(os.getgrouplist(entry.pw_name, entry.pw_gid))
    assert (seen["cwd"], seen["umask"], seen["sid"] == seen["pid"]) == (str(full.priv), 0o022, True)
    assert _files(seen["fds"]) == {
        0: "/dev/null",
        1: f"{spool}/{done.job_id}.OU",
        2: f"{spool}/{done.job_id}.ER",
        10: f"{spool}/{done.job_id}.OU",
        11: f"{spool}/{done.job_id}.ER",
    }
    assert len(seen["argv"]) == 12
    arguments = parse_epilogue_argv(seen["argv"][1:])
    assert (arguments.exit_status, arguments.session_id) == (7, leader["sid"])
    assert arguments.resources_used.startswith("cput=00:00:00,vmem=")
    assert seen["jobs"] == {f"{done.job_id}.SC": "0o700", f"{done.job_id}.JB": "0o644", f"{done.job_id}.TK": "0o600"}
    assert parse_jb(seen["jb"][0].encode()).session_id == leader["sid"]
    assert "PBS_JOBID" not in seen["env"]


def test_run_sees(full: Mom, entry: pwd.struct_passwd) -> None:
    """The job starter's row of the table."""
    done = run_job(
        full.request(
            resources="nodes=1:ppn=1,mem=1gb,vmem=2gb,pcput=50,file=1gb,walltime=100",
            variables={"FOO": "a b", "LD_PRELOAD_X": "1"},
        )
    )
    (seen,) = full.seen("run")
    spool = full.top / "spool"

    assert (seen["uid"], seen["gid"]) == ([entry.pw_uid] * 3, [entry.pw_gid] * 3)
    assert seen["groups"] == sorted(os.getgrouplist(entry.pw_name, entry.pw_gid))
    assert seen["caps"] == "0000000000000000"
    assert (seen["cwd"], seen["umask"]) == (entry.pw_dir, 0o077)
    assert seen["sid"] == seen["pid"] == done.session_id
    assert seen["argv"][1:] == ["/bin/sh"]
    assert _files(seen["fds"]) == {
        0: "pipe",
        1: f"{spool}/{done.job_id}.OU",
        2: f"{spool}/{done.job_id}.ER",
        9: "pipe",
        10: "pipe",
        11: "pipe",
        12: f"{spool}/{done.job_id}.OU",
        13: f"{spool}/{done.job_id}.ER",
        14: "pipe",
    }
    assert seen["fds"]["0"] == seen["fds"]["9"]
    assert seen["limits"] == {
        "AS": [2 << 30] * 2,
        "DATA": [1 << 30] * 2,
        "RSS": [1 << 30] * 2,
        "CPU": [50, 50],
        "FSIZE": [1 << 30] * 2,
    }
    assert (seen["ignored"] & ~SIGXFSZ, seen["blocked"]) == (SIGPIPE, 0)
    wanted = {
        "PBS_JOBID": done.job_id,
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_TASKNUM": "1",
        "PBS_VNODENUM": "0",
        "PBS_WALLTIME": "100",
        "HOME": entry.pw_dir,
        "USER": entry.pw_name,
        "SHELL": "/bin/sh",
        "FOO": "a b",
        "LD_PRELOAD_X": "1",
    }
    assert {name: seen["env"].get(name) for name in wanted} == wanted
    assert len(seen["env"]["PBS_JOBCOOKIE"]) == 32


def test_signals_are_as_mom_leaves_them(mom: Mom) -> None:
    """Only SIGPIPE is ignored and nothing is blocked, whatever the calling program has done to itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        done = run_job(mom.request("#!/bin/sh\ngrep -E 'Sig(Ign|Blk)' /proc/$PPID/status\n"))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    names = done.stdout.split()[::2]
    blocked, ignored = (int(one, 16) for one in done.stdout.split()[1::2])
    # Signals 32 and 33 are libc's own: whoever started the tests may have left them ignored and nobody can undo it.
    assert (names, blocked, ignored & ~(3 << 31)) == ([b"SigBlk:", b"SigIgn:"], 0, 1 << 12)


def test_script_path_on_stdin(mom: Mom) -> None:
    """The shell's stdin is a pipe with the script's path and a newline, then its end."""
    mom.starter("#!/bin/sh\nstat -Lc %F /proc/self/fd/0\ncat\n")
    done = run_job(mom.request())

    assert done.stdout.decode() == f"fifo\n{mom.priv}/jobs/{done.job_id}.SC\n"


def test_script_file(mom: Mom) -> None:
    """The script is the user's, rwx for them alone, and the job file is there while it runs."""
    done = run_job(mom.request(f'#!/bin/sh\nstat -c "%U %G %a" "$0"\nstat -c "%U %a" {mom.priv}/jobs/$PBS_JOBID.JB\n'))

    assert done.stdout.decode().splitlines() == [f"{USERS[0]} {USERS[0]} 700", "root 644"]


def test_job_file_is_there_before_the_job(mom: Mom) -> None:
    """Whatever the job's first process is, it finds the .JB, with the session id in it."""
    mom.starter(f"#!/bin/sh\ncat {mom.priv}/jobs/$PBS_JOBID.JB; echo $$ >&2\n")
    done = run_job(mom.request())

    assert parse_jb(done.stdout).session_id == int(done.stderr) == done.session_id


def test_array_element(full: Mom) -> None:
    """An element's id has brackets, its files have not; name and environment have the index."""
    done = run_job(full.request(name="arr", array_index=0))
    (seen,) = full.seen("prologue")
    number = done.job_id.split("[")[0]

    assert seen["argv"][1] == done.job_id == f"{number}[0].{os.uname().nodename}"
    assert seen["argv"][4] == "arr-0"
    assert Path(seen["argv"][8]).name == f"{number}-0.{os.uname().nodename}.SC"
    assert full.seen("run")[0]["env"]["PBS_ARRAYID"] == "0"
    assert full.left() == []


def test_tmpdir(full: Mom, entry: pwd.struct_passwd) -> None:
    """TMPDIR is the user's, 0755, named after the job and gone afterwards; mom's config can ask for it."""
    with (full.priv / "config").open("a") as config:
        config.write(f"$tmpdir {full.top}/tmp\n")
    done = run_job(full.request('#!/bin/sh\nstat -c "%n %u %a" "$TMPDIR"; touch "$TMPDIR/x"\n'))

    path = full.top / "tmp" / done.job_id
    assert done.stdout.decode().splitlines()[1] == f"{path} {entry.pw_uid} 755"
    assert full.seen("prologue")[0]["env"]["TMPDIR"] == str(path)
    assert not path.exists()


def test_bare(full: Mom) -> None:
    """A bare job meets neither hooks nor job starter, and is otherwise the same."""
    done = run_job(full.request("#!/bin/sh\ntr '\\0' ' ' </proc/$PPID/cmdline; exit 5\n", bare=True))

    assert (done.stdout, done.exit_status, done.prologue_status, done.epilogue_status) == (b"/bin/sh ", 5, None, None)
    assert [full.seen(name) for name in ("prologue", "run", "epilogue")] == [[], [], []]


def test_login_shell(mom: Mom) -> None:
    """Without a job starter a real mom runs a login shell; that can be asked for."""
    done = run_job(mom.request("#!/bin/sh\ntr '\\0' ' ' </proc/$PPID/cmdline\n", login=True))

    assert done.stdout == b"-sh "


@pytest.mark.parametrize(("code", "recorded"), [(1, -2), (2, -14), (3, -14), (99, -14)])
def test_prologue_fails(full: Mom, code: int, recorded: int) -> None:
    """1 aborts, any other code requeues; the job never starts, the epilogue runs and is told."""
    full.hook("prologue", f"{HOOK}sys.exit({code})\n")
    done = run_job(full.request())
    (seen,) = full.seen("epilogue")

    assert (done.exit_status, done.prologue_status, done.shell_status, done.started) == (recorded, code, 1, 1)
    assert (seen["argv"][5], seen["argv"][7], seen["argv"][10]) == ("0", "", str(recorded))
    assert parse_jb(seen["jb"][0].encode()).session_id is None
    assert full.seen("run") == []
    assert full.left() == []


def test_prologue_of_interactive_job_fails(full: Mom) -> None:
    """An interactive job is aborted whatever the code."""
    full.hook("prologue", f"{HOOK}sys.exit(3)\n")
    done = run_job(full.request(None))

    assert done.exit_status == -2
    assert done.stdout == b"out of prologue\r\nerr of prologue\r\n"


def test_prologue_dies_of_a_signal(full: Mom) -> None:
    """A prologue killed by a signal counts as one that succeeded (seen on a real mom)."""
    full.hook("prologue", f"{HOOK}os.kill(os.getpid(), 9)\n")
    done = run_job(full.request())

    assert (done.prologue_status, done.exit_status, len(full.seen("run"))) == (-9, 0, 1)


def test_prologue_past_its_alarm(full: Mom) -> None:
    """Its whole session is killed and the job requeued; a process in a session of its own goes on."""
    pids = full.top / "pids"
    full.hook("prologue", f"#!/bin/sh\nsleep 50 & echo $! >{pids}\nsetsid sleep 51 & echo $! >>{pids}\nsleep 52\n")
    done = run_job(full.request(prologue_alarm_s=0.5))
    inside, outside = (int(one) for one in pids.read_text().split())

    try:
        assert (done.prologue_status, done.exit_status) == (TIMED_OUT, -14)
        assert 0.4 < done.seconds["prologue"] < 3
        assert not _alive(inside)
        assert _alive(outside)
        assert done.held == ("prologue",)
    finally:
        os.kill(outside, signal.SIGKILL)


def test_alarm_from_moms_config(full: Mom) -> None:
    """$prologalarm is honoured where the request names no alarm."""
    (full.priv / "config").write_text("$prologalarm 1\n")
    full.hook("prologue", "#!/bin/sh\nsleep 20\n")

    assert run_job(full.request()).prologue_status == TIMED_OUT


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o644])
def test_hook_mom_does_not_trust(full: Mom, mode: int) -> None:
    """A hook that others can write to, or that cannot be run, is not run, and the job is requeued."""
    (full.priv / "prologue").chmod(mode)
    done = run_job(full.request())

    assert (done.prologue_status, done.exit_status, full.seen("prologue")) == (NOT_RUN, -14, [])


def test_hook_that_cannot_be_executed(full: Mom) -> None:
    """mom's own sentence is in the job's stderr and the job is requeued."""
    path = full.hook("prologue", "#!/no/such/interpreter\n")
    done = run_job(full.request())

    assert (done.prologue_status, done.exit_status) == (255, -14)
    assert done.stderr.decode().startswith(f"execv of {path} failed: No such file or directory\n")


def test_requeue_loop_has_its_limit(full: Mom) -> None:
    """A prologue that requeues is run again, with its epilogue each time, as often as the request says."""
    full.hook("prologue", f"{HOOK}sys.exit(2)\n")
    done = run_job(full.request(requeue_limit=4))

    assert (done.started, len(full.seen("prologue")), len(full.seen("epilogue"))) == (4, 4, 4)
    assert done.node_down is None


def test_requeued_job_can_run_in_the_end(full: Mom) -> None:
    """The second start of a requeued job is like a first one, and only its output is handed out."""
    flag = full.top / "flag"
    full.hook(
        "prologue", f"{HOOK}import pathlib; p = pathlib.Path('{flag}')\nif not p.exists(): p.touch(); sys.exit(2)\n"
    )
    done = run_job(full.request("#!/bin/sh\necho ran\n", requeue_limit=5))

    assert (done.started, done.exit_status) == (2, 0)
    assert done.stdout == b"out of prologue\nran\nout of epilogue\n"


@pytest.mark.parametrize(("down_on_error", "starts"), [("true", 1), ("false", 3)])
def test_node_check_breaks_the_loop(full: Mom, down_on_error: str, starts: int) -> None:
    """One ERROR line of the node check takes the node down, if mom's config lets it."""
    full.hook("prologue", f"{HOOK}sys.exit(2)\n")
    check = full.hook("check", "#!/bin/sh\necho note\necho ERROR the engine is gone\n")
    with (full.priv / "config").open("a") as config:
        config.write(f"$node_check_script {check}\n$down_on_error {down_on_error}\n")
    done = run_job(full.request(requeue_limit=3))

    assert done.started == starts
    assert done.node_down == ("ERROR the engine is gone" if starts == 1 else None)


def test_epilogue_code_changes_nothing(full: Mom) -> None:
    """The epilogue's exit code is noted and has no effect."""
    full.hook("epilogue", f"{HOOK}sys.exit(9)\n")
    done = run_job(full.request("#!/bin/sh\nexit 4\n"))

    assert (done.epilogue_status, done.exit_status) == (9, 4)


def test_user_hooks(full: Mom, entry: pwd.struct_passwd) -> None:
    """prologue.user and epilogue.user run as the user in their home, after the one and before the other."""
    full.hook("prologue.user")
    full.hook("epilogue.user")
    done = run_job(full.request())
    seen = {
        name: full.seen(name)[0]
        for name in ("prologue", "prologue.user", "run", "epilogue.user", "epilogue")
        if full.seen(name)
    }

    assert [one["at"] for one in seen.values()] == sorted(one["at"] for one in seen.values())
    assert seen["prologue.user"]["uid"] == seen["epilogue.user"]["uid"] == [entry.pw_uid] * 3
    assert seen["prologue.user"]["cwd"] == entry.pw_dir
    assert done.exit_status == 0


@pytest.mark.parametrize(
    ("body", "recorded"),
    [
        ("exit 0", 0),
        ("exit 137", 137),
        ("exit 255", 255),
        ("kill -SEGV $$", 139),
        ("kill -KILL $$", 137),
        ("kill -KILL $PPID; sleep 9", 265),
        ("kill -TERM $PPID; sleep 9", 271),
    ],
)
def test_exit_statuses(mom: Mom, body: str, recorded: int) -> None:
    """The script's death is 128 + n, for it is the leader's child; the leader's own is 256 + n."""
    assert run_job(mom.request(f"#!/bin/sh\n{body}\n")).exit_status == recorded


def test_shell_that_is_not_there(mom: Mom) -> None:
    """mom's own sentence is in the job's stderr."""
    done = run_job(mom.request(shell="/no/such/shell"))

    assert (done.exit_status, done.stderr) == (254, b"PBS: exec of shell '/no/such/shell' failed\n")


def test_home_that_is_not_there(mom: Mom) -> None:
    """A directory the job cannot enter ends it with -2 and mom's sentence."""
    done = run_job(mom.request(variables={"PBS_O_INITDIR": "/no/such/dir"}))

    assert done.exit_status == -2
    assert done.stderr == b"PBS: chdir to '/no/such/dir' failed: No such file or directory\n"


def test_output_is_delivered_after_the_epilogue(full: Mom) -> None:
    """What the epilogue appends to the spool files reaches the user."""
    full.hook("epilogue", '#!/bin/sh\nexec 9>&-\ncat "../spool/$1.OU" >&2\n')
    done = run_job(full.request("#!/bin/sh\necho job\n"))

    assert done.stderr.endswith(b"job\n")


def _begun(mom: Mom, body: str, **options: Any) -> Trial:
    trial = start(mom.request(f"#!/bin/sh\n{body}\n", **options))
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    return trial


def test_qdel(mom: Mom) -> None:
    """TERM reaches every process; the leader dies of it (271), and the rest is killed at once."""
    trial = _begun(mom, "trap '' TERM\nsh -c 'trap \"\" TERM; sleep 60' &\necho ready\nsleep 60")
    began = time.monotonic()
    trial.qdel()
    done = trial.result()

    assert done.exit_status == 271
    assert time.monotonic() - began < 2
    assert in_session(trial.leader_pid) == []


def test_qdel_of_a_leader_that_stays(mom: Mom) -> None:
    """A leader that ignores TERM is killed after the kill delay (265)."""
    mom.starter("#!/bin/sh\ntrap '' TERM\n\"$@\"\n")
    trial = _begun(mom, "trap '' TERM\necho ready\nwhile :; do sleep 0.1; done", kill_delay_s=0.5)
    began = time.monotonic()
    trial.qdel()
    done = trial.result()

    assert done.exit_status == 265
    assert 0.4 < time.monotonic() - began < 2


def test_signal_reaches_the_session_twice(mom: Mom) -> None:
    """A signal goes to every process of the session, more than once."""
    mom.starter("#!/bin/sh\ntrap '' USR1\n\"$@\"\n")
    count = mom.top / "records/count"
    mom.hook(
        "count.py",
        "#!/usr/bin/python3 -IS\nimport signal, sys, time\n"
        f"def got(*_):\n    open('{count}', 'a').write('x')\n"
        "signal.signal(signal.SIGUSR1, got)\nprint('ready', flush=True)\n"
        f"end = time.time() + 10\nwhile time.time() < end and len(open('{count}', 'a+').read() or '') < 2:\n"
        f"    time.sleep(0.05)\n    if len(open('{count}').read()) >= 2: break\n",
    )
    trial = _begun(mom, f"trap '' USR2\nexec {mom.priv}/count.py")
    trial.signal(signal.SIGUSR1)
    done = trial.result()

    assert done.exit_status == 0
    assert 1 <= len(count.read_text()) <= 2  # two deliveries may fall together, as with a real mom


def test_leftovers_are_killed(mom: Mom) -> None:
    """A process left in the session does not outlive the job; one in a session of its own does, as under a real mom."""
    pids = mom.top / "records/pids"
    done = run_job(
        mom.request(f"#!/bin/sh\nsleep 50 & echo $! >{pids}\nsetsid sleep 51 & echo $! >>{pids}\nsleep 0.1\n")
    )
    inside, outside = (int(one) for one in pids.read_text().split())

    try:
        assert not _alive(inside)
        assert _alive(outside)
        assert done.held == ("run",)
    finally:
        os.kill(outside, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_walltime(mom: Mom) -> None:
    """Past its walltime a job is told so in its stderr and ended as by qdel; this can be turned off."""
    script = "#!/bin/sh\nsleep 1.5\n"
    done = run_job(mom.request(script, resources="walltime=1"))
    free = run_job(mom.request(script, resources="walltime=1", enforce_walltime=False))

    assert (done.exit_status, free.exit_status) == (271, 0)
    assert done.stderr == b"=>> PBS: job killed: walltime 1 exceeded limit 1\n"


def test_tm_task(full: Mom, entry: pwd.struct_passwd) -> None:
    """A task goes through the job starter, in its own session, with nothing on stdin and mom's task environment."""
    trial = _begun(full, "echo ready\nsleep 30")
    task = trial.tm_spawn(["/bin/sh", "-c", "echo task; exit 6"], {"MINE": "1", "PATH": "/evil"})
    assert task.wait(10) == 6
    assert trial.tm_spawn(["/bin/sh", "-c", "kill -9 $$"]).torque_status == 265
    trial.qdel()
    done = trial.result()
    seen = full.seen("run")[1]

    assert seen["argv"][1:] == ["/bin/sh", "-c", "echo task; exit 6"]
    assert (seen["uid"], seen["cwd"], seen["umask"]) == ([entry.pw_uid] * 3, entry.pw_dir, 0o077)
    assert seen["sid"] == seen["pid"] != trial.leader_pid
    assert seen["ppid"] == full.seen("run")[0]["ppid"]
    assert _files(seen["fds"]) == {
        0: "/dev/null",
        1: f"{full.top}/spool/{done.job_id}.OU",
        2: f"{full.top}/spool/{done.job_id}.ER",
    }
    assert not {"USER", "LOGNAME", "SHELL", "PBS_NP"} & set(seen["env"])
    assert (seen["env"]["PBS_TASKNUM"], seen["env"]["MINE"], seen["env"]["PATH"]) == ("2", "1", "/bin:/usr/bin")
    assert b"task\n" in done.stdout


def test_tasks_end_with_the_job(mom: Mom) -> None:
    """A task still running when the leader ends is killed."""
    trial = _begun(mom, "echo ready\nsleep 0.3")
    task = trial.tm_spawn(["/bin/sleep", "60"])
    trial.result()

    assert task.wait(5) == -9


def test_interactive(full: Mom) -> None:
    """An interactive job has a terminal of the right size as stdin, stdout, stderr and controlling terminal."""
    trial = start(full.request(None, window=(31, 97), term="vt100"))
    assert trial.terminal is not None
    os.write(trial.terminal, b"stty size; ps -o tty= -p $$; echo $TERM $PBS_ENVIRONMENT; exit 9\r")
    seen = b""
    while not trial.leader.ended(0) if trial.leader else False:
        if select.select([trial.terminal], [], [], 0.1)[0]:
            seen += os.read(trial.terminal, 65536)
    done = trial.result()
    text = (seen + done.stdout).decode()
    (prologue,), (run,), (epilogue,) = (full.seen(name) for name in ("prologue", "run", "epilogue"))

    assert done.exit_status == 9
    assert "31 97\r\n" in text
    assert "vt100 PBS_INTERACTIVE\r\n" in text
    assert "out of prologue\r\n" in text
    assert run["fds"]["0"].startswith("/dev/pts/")
    assert run["fds"]["0"] == run["fds"]["1"] == run["fds"]["2"] == prologue["fds"]["1"]
    assert prologue["fds"]["0"] == epilogue["fds"]["0"] == epilogue["fds"]["1"] == epilogue["fds"]["2"] == "/dev/null"
    assert f"\r\n{run['fds']['0'].removeprefix('/dev/')}" in text
    assert not Path(prologue["argv"][8]).exists()
    assert ".SC" not in "".join(prologue["jobs"])
    assert full.left() == []


def test_big_environment(mom: Mom) -> None:
    """Variables of 100 KiB and of odd bytes arrive as they are."""
    done = run_job(
        mom.request(
            '#!/bin/sh\necho ${#BIG}; printf %s "$ODD" | od -An -tx1\n',
            variables={"BIG": "x" * 100_000, "ODD": "é\udcff\n"},
        )
    )

    assert done.stdout == b"100000\n c3 a9 ff 0a\n"


def test_many_at_once(full: Mom) -> None:
    """Jobs started from many threads do not get in each other's way."""
    for name in ("prologue", "epilogue"):
        full.hook(name, f"#!/bin/sh\necho out of {name}\n")

    def one(number: int) -> tuple[int, bytes]:
        done = run_job(full.request(f"#!/bin/sh\necho {number}\nexit {number}\n", user=USERS[number % 2]))
        return done.exit_status, done.stdout

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(one, range(40)))

    assert results == [(number, f"out of prologue\n{number}\nout of epilogue\n".encode()) for number in range(40)]
    assert full.left() == []


def test_signal_from_another_thread(mom: Mom) -> None:
    """A job can be deleted while another thread waits for it."""
    trial = _begun(mom, "echo ready\nsleep 60")
    threading.Timer(0.2, trial.qdel).start()

    assert trial.result().exit_status == 271


def test_nothing_outlives_its_caller(mom: Mom) -> None:
    """A program that is killed in the middle of a job leaves neither the job's processes nor its .JB."""
    code = (
        "import sys; from pathlib import Path; from pbsdock.trial import Request, start\n"
        f"t = start(Request(mom_priv=Path({str(mom.priv)!r}), user={USERS[0]!r}, script=b'sleep 60\\n', shell='/bin/sh'))\n"
        "print(t.leader_pid, t.job_file, flush=True); sys.stdin.read()\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None
    pid, job_file = process.stdout.readline().decode().split()
    assert Path(job_file).exists()
    process.kill()
    process.communicate()

    wait_until("the job is gone", lambda: not in_session(int(pid)) and not Path(job_file).exists())
