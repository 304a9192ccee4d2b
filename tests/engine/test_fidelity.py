"""The same scripts bare and in a container: everything a user can see is compared."""

from __future__ import annotations

import os
import select
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import HOST_IMAGE, IMAGE, USERS, Instance, wait_until

pytestmark = pytest.mark.engine

SCRIPTS = {
    "exit code": "exit 7",
    "exit 0 with output": "echo out; echo err >&2",
    "exit 255": "exit 255",
    "exit 137 by choice": "exit 137",
    "killed by SEGV": "kill -SEGV $$",
    "killed by KILL": "kill -KILL $$",
    "child killed": "sh -c 'kill -9 $$'; echo $?",
    "command not found": "no-such-command-at-all; exit $?",
    "syntax error": "if then",
    "no final newline": "printf abc; printf def >&2",
    "bytes": r"printf '\000\001\377\n\200'",
    "ids": "id",
    "groups by number": "id -G",
    "user variables": 'echo "$USER $LOGNAME $HOME $SHELL"',
    "directory": "pwd",
    "umask": "umask; touch u.$$; stat -c %a u.$$; rm u.$$",
    "limits": "ulimit -a | grep -v 'max user'",
    "hard limits": "ulimit -H -a",
    "script path": 'echo "${0##*.}"; stat -c "%U %F %a" "$0"',
    "script content": 'wc -l <"$0"',
    "arguments": "echo $#",
    "node file": 'cat "$PBS_NODEFILE"; stat -c %F "$PBS_NODEFILE"',
    "torque variables": "env | grep ^PBS_ | grep -v -e JOBID -e NODEFILE | sort",
    "stdin is at its end": "cat; echo end",
    "stdin kind": "stat -Lc %F /proc/self/fd/0",
    "home is writable": "echo x >f.$$; cat f.$$; rm f.$$",
    "TMPDIR": 'echo "${TMPDIR##*/}" | cut -d. -f2; echo y >"$TMPDIR/f"; cat "$TMPDIR/f"',
    "trap on exit": "trap 'echo bye' EXIT; exit 4",
    "background child": "(sleep 0.1; echo later) & wait; echo $?",
    "pipeline": "seq 1 1000 | tail -n 1",
    "here document": "cat <<END\n$HOME\nEND",
    "many lines": "seq 1 20000",
    "both streams in volume": "seq 1 5000; seq 1 5000 >&2",
    "long line": "head -c 300000 /dev/zero | tr '\\0' x",
    "exec": "exec echo replaced",
    "exec fails": "exec /no/such/program",
    "no trailing exit": "false",
    "set -e": "set -e; false; echo never",
    "odd variable": 'echo "$ODD"',
    "closed stdout": "exec >&-; echo x; exit 3",
    "unicode": "echo žluťoučký kůň",
    "crlf in data": r"printf 'a\r\nb\r\n'",
    "blocked signals": "grep -E 'SigBlk' /proc/self/status",
}
PREFIXES = {"sh": "#!/bin/sh\n", "bash": "#!/bin/bash\n", "none": ""}


def _same(instance: Instance, body: str, first: str = "#!/bin/sh\n", **options: object) -> None:
    directive = f"#DOCKER {HOST_IMAGE}\n"
    plain = "# no directive, so that lines count the same\n"
    chosen: dict[str, object] = {
        "tmpdir": str(instance.root / "tmpdirs"),
        "resources": "nodes=1:ppn=1,mem=300mb,vmem=2gb,cput=00:10:00",
        "variables": {"ODD": "a b\t'\"$x\\ \nsecond, line"},
        **options,
    }
    bare = instance.run(first + plain + body + "\n", bare=True, **chosen)
    contained = instance.run(first + directive + body + "\n", **chosen)

    ours = {bare.job_id: "JOB", contained.job_id: "JOB"}

    def plainly(data: bytes) -> bytes:
        for identifier, word in ours.items():
            data = data.replace(identifier.encode(), word.encode())
        return data

    assert (bare.exit_status, plainly(bare.stdout), plainly(bare.stderr)) == (
        contained.exit_status,
        plainly(contained.stdout),
        plainly(contained.stderr),
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_same_as_bare(instance: Instance, name: str) -> None:
    """Exit status, stdout and stderr of a script are those of the bare job, byte for byte."""
    _same(instance, SCRIPTS[name])


@pytest.mark.parametrize("first", PREFIXES.values(), ids=PREFIXES)
def test_interpreter_line(instance: Instance, first: str) -> None:
    """The script's own first line chooses its interpreter; without one the job's shell runs it."""
    _same(instance, 'echo "${BASH_VERSION:+bash}"; exit 6', first)


def test_chosen_shell(instance: Instance) -> None:
    """qsub -S chooses the shell that reads the script."""
    _same(instance, 'echo "${BASH_VERSION:+bash}"', "", shell="/bin/bash")


def test_array_element(instance: Instance) -> None:
    """An element of an array has its bracketed id, its index and its own script file."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho $PBS_ARRAYID $PBS_JOBID $0\n", array_index=3)

    index, job_id, script = done.stdout.decode().split()
    assert (index, job_id) == ("3", done.job_id)
    assert "[3]." in job_id
    assert script.endswith(f"{job_id.replace('[', '-').replace(']', '')}.SC")


def test_fallback_for_login_shell(instance: Instance) -> None:
    """A login shell the image lacks is replaced by /bin/sh; one that was asked for is refused with a sentence."""
    subprocess.run(["usermod", "-s", "/bin/bash", USERS[1]], check=True)
    script = f"#DOCKER {IMAGE}\necho ran\n"

    assert instance.run(script, USERS[1]).stdout == b"ran\n"
    refused = instance.run("#PBS -S /bin/bash\n" + script, USERS[1], shell="/bin/bash")

    assert refused.exit_status == 125
    assert refused.stderr.decode() == (
        f"pbsdock: image 'docker.io/{IMAGE}' has no /bin/bash that can be run; choose a shell it has with qsub -S\n"
    )


def test_containers_that_end_at_once(instance: Instance) -> None:
    """One that is over while it is still being verified is told as what it is, however many there are at a time."""
    script = f"#!/bin/sh\n#PBS -S /bin/bash\n#DOCKER {IMAGE}\ntrue\n"
    with ThreadPoolExecutor(6) as pool:
        outcomes = pool.map(lambda _: instance.run(script, shell="/bin/bash"), range(60))

    assert {(one.exit_status, one.stderr.decode()) for one in outcomes} == {
        (
            125,
            f"pbsdock: image 'docker.io/{IMAGE}' has no /bin/bash that can be run; choose a shell it has with qsub -S\n",
        )
    }


def test_interactive_job(instance: Instance) -> None:
    """qsub -I -v PBSDOCK=… gives a shell in the image on a terminal of the right size."""
    trial = instance.begin(None, variables={"PBSDOCK": f"{IMAGE} --env MARK=here"}, shell="/bin/sh", window=(31, 97))
    assert trial.terminal is not None
    assert trial.leader is not None
    os.write(trial.terminal, b"stty size; echo mark=$MARK $FROM_IMAGE; tty; exit 9\r")
    seen = b""
    while trial.leader.poll() is None:
        ready, _, _ = select.select([trial.terminal], [], [], 0.1)
        if ready:
            seen += os.read(trial.terminal, 65536)
    while select.select([trial.terminal], [], [], 0.2)[0]:
        seen += os.read(trial.terminal, 65536)
    done = trial.finish(trial.wait())

    assert done.exit_status == 9
    assert b"31 97" in seen
    assert b"mark=here yes" in seen
    assert b"/dev/pts/" in seen or b"/dev/console" in seen


def test_interactive_job_is_the_first_on_the_node(instance: Instance) -> None:
    """Without an agent the prologue of an interactive job starts one, so that PBSDOCK works at once."""
    instance.kill_agent()
    trial = instance.begin(None, variables={"PBSDOCK": IMAGE}, shell="/bin/sh")
    assert trial.terminal is not None
    os.write(trial.terminal, b"exit 9\r")
    began = time.monotonic()
    done = trial.finish(trial.wait())

    assert done.exit_status == 9
    assert time.monotonic() - began < 30


def test_interactive_refusal(instance: Instance) -> None:
    """A wrong PBSDOCK is told on the terminal."""
    trial = instance.begin(None, variables={"PBSDOCK": "--privileged x"}, shell="/bin/sh")
    assert trial.terminal is not None
    status = trial.wait()
    seen = os.read(trial.terminal, 65536).decode()
    trial.finish(status)

    assert status == 125
    assert "pbsdock: PBSDOCK:1:1: --privileged is not available: a job never gets more rights" in seen


def test_task_runs_in_the_container(instance: Instance) -> None:
    """A TM task gets the job's container, its own exit code and mom's short environment."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 20\n")
    wait_until("the job runs", lambda: any(one["event"] == "job.started" for one in instance.events(trial.job_id)))
    read, write = os.pipe()
    argv = ["/bin/sh", "-c", "echo $FROM_IMAGE $PBS_TASKNUM $(id -un); cat /proc/1/comm; exit 6"]
    task = trial.task(argv, write)
    os.close(write)
    code = task.wait(20)
    said = os.read(read, 65536).decode()
    os.close(read)
    trial.qdel()
    trial.finish(trial.wait())

    assert code == 6
    assert said.splitlines()[:2] == [f"yes 2 {USERS[0]}", "pbsdock-init"]
    ended = next(one for one in instance.events(trial.job_id) if one["event"] == "task.ended")
    assert ended["code"] == 6


def test_volume_of_output(instance: Instance) -> None:
    """64 MiB of stdout arrive whole and in order."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {HOST_IMAGE}\nhead -c 67108864 /dev/zero | tee /dev/stderr | sha256sum\n")

    assert len(done.stderr) == 67108864
    assert (
        done.stdout.split()[0]
        == subprocess.run(
            "head -c 67108864 /dev/zero | sha256sum", shell=True, capture_output=True, check=True
        ).stdout.split()[0]
    )


def test_cpuset_when_policy_says_so(instance: Instance) -> None:
    """With cpu = "cpuset" a job of one slot sees one CPU, and two at once see different ones."""
    good = instance.config.read_text()
    instance.configure('[limits]\ncpu = "cpuset"\n')
    script = f"#!/bin/sh\n#DOCKER {HOST_IMAGE}\nnproc\ngrep Cpus_allowed_list /proc/self/status\nsleep 2\n"
    try:
        trials = [instance.begin(script) for _ in range(2)]
        said = [trial.finish(trial.wait()).stdout.decode().split() for trial in trials]
    finally:
        instance.configure(good)

    assert [one[0] for one in said] == ["1", "1"]
    assert len({one[2] for one in said}) == 2


def test_directory_that_is_not_in_the_container(instance: Instance) -> None:
    """qsub -d with a directory that policy does not mount: the job must not run in another place."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\npwd\n", variables={"PBS_O_INITDIR": "/usr"})

    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr.startswith(
        b"pbsdock: the job is to start in /usr, which is not in the container: /usr cannot be mounted: /usr is the system's;"
        b" nothing was started. Submit the job from"
    )
