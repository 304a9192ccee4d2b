"""Slurm's hook scripts themselves, with a stand-in for the interpreter that writes down how it was called."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pbsdock.hook.slurm_script import line_for
from pbsdock.rm.slurm import prolog_file
from tests.conftest import ROOT

HOOKS = ("prolog", "epilog", "task-prolog")
ENV = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_UID": "5",
    "SLURM_JOB_USER": "alice",
    "SLURM_JOB_PARTITION": "batch",
    "SLURMD_NODENAME": "n1",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_JOB_CPUS_PER_NODE": "2(x2)",
    "SLURM_JOB_GPUS": "0,1",
    "SLURM_JOB_WORK_DIR": "/home/a\nuid=0\\nuser=root",
}
_STUB = """#!/bin/sh
shift 4
printf '%s\\n' "$@" >{calls}.new
mv {calls}.new {calls}
exit {code}
"""


@dataclass(frozen=True)
class Site:
    """Hooks with directories of their own."""

    base: Path

    @property
    def run_dir(self) -> Path:
        return self.base / "run"

    @property
    def script(self) -> Path:
        """The batch script of job 7."""
        return self.base / "spool/job00007/slurm_script"

    def python(self, code: int = 0) -> None:
        """Write the interpreter's stand-in."""
        stub = self.base / "python3"
        stub.write_text(_STUB.format(calls=self.base / "calls", code=code))
        stub.chmod(0o755)

    @contextmanager
    def agent(self) -> Iterator[None]:
        """What an agent that is alive leaves to be seen."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.run_dir / "agent.sock"))
            (self.run_dir / "agent.pid").write_text(f"{os.getpid()}\n")
            yield

    def call(self, hook: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run one as slurmd would, which gives it no PATH."""
        return subprocess.run(
            [str(self.base / "hooks/slurm" / hook)],
            env={**ENV, **changes},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.base,
            timeout=30,
            check=False,
        )

    def asked(self, wait_s: float = 0.0) -> list[str] | None:
        """What the client was called with behind the instance's own options; None if it was not."""
        deadline = time.monotonic() + wait_s
        while not (self.base / "calls").exists():
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.01)
        return (self.base / "calls").read_text().splitlines()[4:]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site nobody has used yet."""
    made = Site(tmp_path)
    for directory in (made.run_dir / "jobs", made.script.parent, tmp_path / "hooks/slurm"):
        directory.mkdir(parents=True)
    marks = {
        "@PYTHON@": f"{tmp_path}/python3",
        "@LIB@": f"{tmp_path}/lib",
        "@RUN_DIR@": str(made.run_dir),
        "@MOM_PRIV@": f"{tmp_path}/spool",
        "@PATHS@": f"{tmp_path}/paths.json",
        "@PREFIX@": str(tmp_path),
        "@HOME@": str(tmp_path),
    }
    for name in HOOKS:
        text = (ROOT / "hooks/slurm" / name).read_text()
        for mark, value in marks.items():
            text = text.replace(mark, value)
        (tmp_path / "hooks/slurm" / name).write_text(text)
        (tmp_path / "hooks/slurm" / name).chmod(0o755)
    made.python()
    return made


def _silent(done: subprocess.CompletedProcess[str]) -> bool:
    return (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_prolog_writes_down_what_it_is_told(site: Site) -> None:
    """For root alone, as the agent reads it; and starts no interpreter where an agent runs."""
    with site.agent():
        assert _silent(site.call("prolog"))
    told = prolog_file.read(site.run_dir / "slurm", "7", owner=os.getuid())
    assert told == prolog_file.PrologFile(
        job_id="7",
        uid=5,
        user="alice",
        partition="batch",
        node="n1",
        nodes="n[1-2]",
        cpus="2(x2)",
        gpus="0,1",
        work_dir="/home/a\nuid=0\\nuser=root",
    )
    assert (site.run_dir / "slurm").stat().st_mode & 0o777 == 0o700
    assert (site.run_dir / "slurm/7").stat().st_mode & 0o777 == 0o600
    assert site.asked() is None


@pytest.mark.parametrize("job", ["", "../7", "7 8", "x"])
def test_a_job_without_a_number_is_none(site: Site, job: str) -> None:
    """Nothing is written anywhere, and the node is not drained."""
    for hook in HOOKS:
        assert _silent(site.call(hook, SLURM_JOB_ID=job))
    assert not (site.run_dir / "slurm").exists()
    assert site.asked() is None


def test_the_prolog_starts_an_agent_and_does_not_wait_for_it(site: Site) -> None:
    """In a session of its own by the time the Prolog is over: slurmd then kills the Prolog's process group."""
    session = site.base / "session"
    (site.base / "python3").write_text(
        f"#!/bin/sh\nread -r _ _ _ _ _ session _ </proc/$$/stat\necho $session $$ >{session}.new\n"
        f'mv {session}.new {session}\nsleep 1\necho "$@" >{site.base}/late\n'
    )
    began = time.monotonic()
    assert _silent(site.call("prolog"))
    assert time.monotonic() - began < 0.9
    while not (site.base / "late").exists():
        assert time.monotonic() - began < 10
        time.sleep(0.05)
    number, process = session.read_text().split()
    assert number == process
    assert (site.base / "late").read_text().endswith("ensure-agent or-flag\n")


def test_the_prolog_sweeps_what_an_earlier_run_has_left(site: Site) -> None:
    """Before the job begins."""
    (site.run_dir / "jobs/7").touch()
    site.python(1)
    with site.agent():
        assert _silent(site.call("prolog"))
    assert site.asked() == ["sweep", "7"]


@pytest.mark.parametrize(
    ("node", "nodes", "marked"),
    [
        ("n1", "n1", False),
        ("n1", "n[1-2]", False),
        ("n2", "n[1-2]", True),
        ("n01", "n[01,03-04]", False),
        ("n03", "n[01,03-04]", True),
        ("a-1", "a-1,b", False),
        ("b", "a-1,b", True),
        ("vm-2", "vm,vm-[2-3]", True),
    ],
)
def test_the_prolog_marks_a_job_whose_first_node_is_another_hosts(
    site: Site, node: str, nodes: str, marked: bool
) -> None:
    """While the agent can ask that one what the job is."""
    with site.agent():
        assert _silent(site.call("prolog", SLURMD_NODENAME=node, SLURM_NODELIST=nodes))
        assert not (site.run_dir / "jobs/7").exists()
        (site.run_dir / "asks-nodes").touch()
        assert _silent(site.call("prolog", SLURMD_NODENAME=node, SLURM_NODELIST=nodes))
        assert (site.run_dir / "jobs/7").exists() is marked
    assert site.asked() is None


def test_the_prolog_marks_no_job_whose_first_node_is_of_this_host(site: Site) -> None:
    """With several slurmds."""
    (site.run_dir / "asks-nodes").touch()
    with site.agent():
        for node in ("n1", "n2"):
            assert _silent(site.call("prolog", SLURMD_NODENAME=node))
    assert not (site.run_dir / "jobs/7").exists()


def test_of_several_slurmds_the_last_epilog_ends_the_job(site: Site) -> None:
    """And no Prolog sweeps what another node's has begun; what this node itself has left is swept."""
    with site.agent():
        for node in ("n1", "n2"):
            assert _silent(site.call("prolog", SLURMD_NODENAME=node))
            (site.run_dir / "jobs/7").touch()
        assert site.asked() is None
        assert sorted(path.name for path in (site.run_dir / "slurm").iterdir()) == ["7", "7.n1", "7.n2"]
        assert _silent(site.call("epilog", SLURMD_NODENAME="n1"))
        assert site.asked() is None
        assert prolog_file.read(site.run_dir / "slurm", "7", owner=os.getuid()) is not None
        assert site.call("epilog", SLURMD_NODENAME="n2").returncode == 0
        assert site.asked() is not None
        assert list((site.run_dir / "slurm").iterdir()) == []


def test_a_prolog_that_cannot_write_drains_no_node(site: Site) -> None:
    """The job's run hook tells it, where it needs what was to be written."""
    (site.run_dir / "slurm").write_text("in the way")
    assert _silent(site.call("prolog"))


def test_a_prolog_that_cannot_mark_drains_no_node(site: Site) -> None:
    """Where a first node of another host is to be asked."""
    (site.run_dir / "asks-nodes").touch()
    (site.run_dir / "jobs/7").mkdir()
    (site.run_dir / "slurm").mkdir(exist_ok=True)
    (site.run_dir / "slurm/7.n3").touch()  # of another slurmd of this host, so that what is there is not swept
    with site.agent():
        assert _silent(site.call("prolog", SLURMD_NODENAME="n2", SLURM_NODELIST="n1,n2"))


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        ("#!/bin/sh\n#DOCKER image\n", True),
        ("#!/bin/sh\n#docker image\n", True),
        ("#!/bin/sh\r\n\ufeff#DOCKER image\n", True),
        ("#!/bin/sh\ntrue # DOCKER\n", False),
        ("#!/bin/sh\n", False),
    ],
)
def test_the_task_prolog_looks_for_the_word(site: Site, text: str, is_ours: bool) -> None:
    """A script without it starts no interpreter; one with it is given a first line."""
    site.script.write_text(text)
    assert _silent(site.call("task-prolog"))
    wanted = ["slurm-script", f"{site.base}/hooks/slurm/run", str(site.script)]
    assert site.asked() == (wanted if is_ours else None)


def test_a_variable_is_as_good(site: Site) -> None:
    """As is asked for with sbatch --export."""
    site.script.write_text("#!/bin/sh\n")
    assert _silent(site.call("task-prolog", PBSDOCK="image"))
    assert site.asked() is not None


def test_steps_and_jobs_without_a_script_are_let_be(site: Site) -> None:
    """srun's tasks have a step's number; salloc has no script."""
    assert _silent(site.call("task-prolog", PBSDOCK="image"))
    site.script.write_text("#!/bin/sh\n#DOCKER image\n")
    assert _silent(site.call("task-prolog", SLURM_STEP_ID="0"))
    assert site.asked() is None


def test_a_script_that_cannot_be_written_is_not_run_bare(site: Site) -> None:
    """Slurm fails the job then, and shows the line."""
    site.script.write_text("#!/bin/sh\n#DOCKER image\n")
    site.python(1)
    done = site.call("task-prolog")
    assert done.returncode == 125
    assert done.stdout.startswith("print pbsdock: the batch script could not be given to its container")


@pytest.mark.parametrize("code", [0, 1])
def test_the_epilog_never_fails(site: Site, code: int) -> None:
    """slurmd would drain the node. What was told of the job is removed."""
    site.python(code)
    with site.agent():
        site.call("prolog")
    (site.run_dir / "jobs/7").touch()
    assert site.call("epilog", SLURM_JOB_EXIT_CODE2="7:0").returncode == 0
    assert site.asked() == ["epilogue", "7", "7:0"]
    assert not (site.run_dir / "slurm/7").exists()


def test_the_epilog_of_a_bare_job_starts_no_interpreter(site: Site) -> None:
    """It has no marker."""
    with site.agent():
        site.call("prolog")
    assert _silent(site.call("epilog"))
    assert site.asked() is None
    assert not (site.run_dir / "slurm/7").exists()


def test_the_line_is_one_that_the_kernel_takes() -> None:
    """At most 255 bytes of it are looked at (execve(2)); below a usual prefix there is room."""
    assert line_for("/opt/pbsdock/hooks/slurm/run") == b"#!/opt/pbsdock/hooks/slurm/run\n"


def _path_told(site: Site, **variables: str) -> list[str]:
    """What the TaskProlog of a bare job says with *variables*."""
    site.script.write_text("#!/bin/sh\n")
    done = site.call("task-prolog", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_docker_of_jobs_is_on_path(site: Site) -> None:
    """By a line for slurmd, where the site has it; a PATH that is not there stays so, as does one that no line can hold."""
    assert _path_told(site, PATH="/usr/bin:/bin") == []
    (site.base / "shim").mkdir()
    assert _path_told(site, PATH="/usr/bin:/b\\n '$x") == [f"export PATH={site.base}/shim:/usr/bin:/b\\n '$x"]
    assert _path_told(site) == []
    assert _path_told(site, PATH="/usr/bin:\n/bin") == []
    assert _path_told(site, PATH="/usr/bin", SLURM_STEP_ID="0") == []
    assert site.asked() is None
