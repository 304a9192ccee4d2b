"""The stand-in's own decisions: what it refuses, what it makes of qsub's words. Nothing is started."""

from __future__ import annotations

import argparse
import os
import pwd
from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.rm.torque import parse_jb, parse_prologue_argv
from pbsdock.trial import BadRequest, Outcome, Request, Trial, add_arguments, main
from pbsdock.trial import environment as environments
from pbsdock.trial.command import merged, pbs_lines, variables
from pbsdock.trial.hooks import NOT_RUN, TIMED_OUT, alarm
from pbsdock.trial.mom import exit_status
from pbsdock.trial.request import Job, mom_config, packed, resolve, resource_text, rlimits
from pbsdock.trial.spool import job_file

USER = next((one.pw_name for one in pwd.getpwall() if one.pw_uid), "nobody")


def _request(tmp_path: Path, **options: object) -> Request:
    mom_priv = tmp_path / "mom_priv"
    mom_priv.mkdir(exist_ok=True)
    chosen: dict[str, object] = {"mom_priv": mom_priv, "user": USER, "script": b"true\n", "job_id": "17.vm", **options}
    return Request(**chosen)  # type: ignore[arg-type]


def _job(tmp_path: Path, **options: object) -> Job:
    return replace(resolve(_request(tmp_path, **options), {}), host="vm")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"user": "no-such-user"}, "user 'no-such-user' does not exist on this host"),
        ({"user": "root"}, "jobs of root are not run; name an ordinary user with --user"),
        ({"resources": "wallime=1"}, "-l wallime=1: 'wallime' is no resource; did you mean walltime?"),
        ({"resources": "zzz"}, "-l zzz: 'zzz' is no resource; Torque knows for example nodes, mem, vmem and walltime"),
        ({"resources": "mem"}, "-l mem: a value is missing; write mem=VALUE"),
        (
            {"resources": "mem=12xb"},
            "-l mem=12xb: '12xb' is not a size; write a whole number and b, kb, mb, gb, tb or w, kw, mw, gw, tw",
        ),
        ({"resources": "walltime=x"}, "-l walltime=x: 'x' is not a time; write seconds or [[DD:]HH:]MM:SS"),
        (
            {"resources": "nodes=2:ppn=2"},
            "-l nodes=2:ppn=2: only jobs of one node can be tried here; ask for nodes=1:ppn=N, or have the other"
            " nodes emulated with --nodes 2:ppn=2",
        ),
        (
            {"resources": "nodes=1+1"},
            "-l nodes=1+1: only jobs of one node can be tried here; ask for nodes=1:ppn=N, or have the other"
            " nodes emulated with --nodes 1+1",
        ),
        ({"array_index": -1}, "-t -1: the index of an array element is 0 or more"),
        ({"variables": {"A=B": "x"}}, "-v: 'A=B' cannot be a variable; write NAME=VALUE, without NUL bytes"),
        (
            {"job_id": "../7"},
            "'../7' is not a job id; one looks like 12.server, 12[3].server or 12-3.server",
        ),
    ],
)
def test_what_cannot_be_tried(tmp_path: Path, options: dict[str, object], sentence: str) -> None:
    """A wrong request is refused with one sentence before anything is touched."""
    request = _request(tmp_path, **options)
    with pytest.raises(BadRequest) as caught:
        Trial(request)

    assert str(caught.value) == sentence
    assert list((tmp_path / "mom_priv").iterdir()) == []


def test_resource_list_of_a_hook() -> None:
    """Nodes are added where absent, times written out, neednodes comes last."""
    assert resource_text("mem=200mb,cput=100,walltime=5:00") == (
        "nodes=1:ppn=1,mem=200mb,cput=00:01:40,walltime=00:05:00,neednodes=1:ppn=1"
    )


def test_resources_that_mom_is_not_told() -> None:
    """The server keeps them: a trial must not obey what no hook would see."""
    assert resource_text("nodes=1,naccesspolicy=singlejob,software=x,gres=a,other=b") == (
        "nodes=1,gres=a,other=b,neednodes=1"
    )


def test_long_resource_list() -> None:
    """An item that does not fit into mom's 2,048 bytes is left out; a later one that fits is not."""
    assert packed([("a", "1"), ("other", "x" * 2040), ("mem", "1gb")]) == "a=1,mem=1gb"


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([("mem", "1gb")], {"DATA": 1 << 30, "RSS": 1 << 30}),
        ([("mem", "2gb"), ("pmem", "1gb")], {"DATA": 1 << 30, "RSS": 1 << 30}),
        ([("vmem", "3gb"), ("pvmem", "2gb")], {"AS": 2 << 30}),
        ([("cput", "50"), ("pcput", "40")], {"CPU": 40}),
        ([("file", "1gb")], {"FSIZE": 1 << 30}),
        ([], {}),
    ],
)
def test_limits(items: list[tuple[str, str]], expected: dict[str, int]) -> None:
    """Limits are those a real mom set for the same request."""
    assert rlimits(tuple(items)) == expected


def test_address_space_is_not_below_memory() -> None:
    """A vmem smaller than mem is raised to it, as mom does."""
    assert rlimits((("vmem", "10mb"), ("mem", "1gb")))["AS"] >= 1 << 30


def test_mom_config(tmp_path: Path) -> None:
    """mom's own lines are read, comments and other lines are not."""
    (tmp_path / "config").write_text("# $job_starter /no\n$job_starter /x/run  \n$prologalarm 20\nsize[fs=/]\n")

    assert mom_config(tmp_path) == {"job_starter": "/x/run", "prologalarm": "20"}
    assert mom_config(tmp_path / "absent") == {}


@pytest.mark.parametrize(("given", "fires"), [(300.0, 290.0), (11.0, 1.0), (10.0, 10.0), (0.5, 0.5)])
def test_alarm(given: float, fires: float) -> None:
    """An alarm of more than ten seconds fires ten seconds early."""
    assert alarm(given) == fires


@pytest.mark.parametrize(
    ("status", "batch", "interactive"),
    [
        (None, None, None),
        (0, None, None),
        (1, -2, -2),
        (2, -14, -2),
        (99, -14, -2),
        (-9, None, None),
        (TIMED_OUT, -14, -2),
        (NOT_RUN, -14, -2),
    ],
)
def test_what_a_prologue_decides(status: int | None, batch: int | None, interactive: int | None) -> None:
    """1 aborts, any other failure requeues, an interactive job is aborted; death by signal counts as success."""
    assert exit_status(status, interactive=False) == batch
    assert exit_status(status, interactive=True) == interactive


def test_users_variables_do_not_win_over_moms(tmp_path: Path) -> None:
    """-v may set PATH and anything new, but not what mom sets after it."""
    asked = {"HOME": "/evil", "PBS_JOBID": "1.x", "PATH": "/mine", "LD_PRELOAD": "/x.so", "TMPDIR": "/t"}
    job = _job(tmp_path, variables=asked, tmpdir="/x")
    env = environments.for_job(job)

    assert {name: env[name] for name in asked} == {
        "HOME": job.entry.pw_dir,
        "PBS_JOBID": "17.vm",
        "PATH": "/mine",
        "LD_PRELOAD": "/x.so",
        "TMPDIR": "/t",
    }
    assert not set(asked) & set(environments.for_hooks(_job(tmp_path, variables=asked))) - {"PATH"}


def test_environment_names(tmp_path: Path) -> None:
    """The names are those a real mom gave; tasks lack four of them."""
    env = environments.for_job(_job(tmp_path, variables={"FOO": "1"}, tmpdir="/x"))
    task = environments.for_task(_job(tmp_path), 3, {"PATH": "/evil", "NEW": "1", "PBS_VNODENUM": "9"})

    assert sorted(env) == sorted(
        "ENVIRONMENT FOO HOME HOSTNAME LANG LOGNAME PATH PBS_ENVIRONMENT PBS_GPUFILE PBS_JOBCOOKIE PBS_JOBID"
        " PBS_JOBNAME PBS_MICFILE PBS_MOMPORT PBS_NODEFILE PBS_NODENUM PBS_NP PBS_NUM_NODES PBS_NUM_PPN PBS_O_HOME"
        " PBS_O_HOST PBS_O_LANG PBS_O_LOGNAME PBS_O_MAIL PBS_O_PATH PBS_O_QUEUE PBS_O_SERVER PBS_O_SHELL"
        " PBS_O_WORKDIR PBS_QUEUE PBS_TASKNUM PBS_VERSION PBS_VNODENUM PBS_WALLTIME SHELL TMPDIR USER".split()
    )
    assert set(env) - {"FOO", "TMPDIR"} - set(task) == {"USER", "LOGNAME", "SHELL", "PBS_NP"}
    assert (task["PBS_TASKNUM"], task["PATH"], task["NEW"], task["PBS_VNODENUM"]) == ("3", "/bin:/usr/bin", "1", "0")


def test_interactive_environment(tmp_path: Path) -> None:
    """An interactive job has its own PBS_ENVIRONMENT and the user's TERM."""
    env = environments.for_job(_job(tmp_path, script=None, term="vt100"))

    assert (env["PBS_ENVIRONMENT"], env["TERM"], "ENVIRONMENT" in env) == ("PBS_INTERACTIVE", "vt100", False)


def test_node_asked_for_by_name(tmp_path: Path) -> None:
    """A named node counts as none, and its ppn as one, in the variables alone (as mom counts)."""
    env = environments.for_job(_job(tmp_path, resources="nodes=vm:ppn=3"))

    assert (env["PBS_NUM_NODES"], env["PBS_NUM_PPN"], env["PBS_NP"]) == ("0", "1", "3")


def test_job_file_reads_back(tmp_path: Path) -> None:
    """The .JB is one that the package's own reader of mom's files understands."""
    job = _job(
        tmp_path,
        resources="nodes=1:ppn=3,mem=1gb",
        variables={"A": "x,y <&>", "B": "2"},
        array_index=4,
        job_id="16[4].vm",
        name="n",
    )
    read = parse_jb(job_file(job, 99, 0, 1234).encode())

    assert (read.job_id.text, read.user, read.uid, read.gid) == (
        "16[4].vm",
        job.entry.pw_name,
        job.entry.pw_uid,
        job.entry.pw_gid,
    )
    assert (read.name, read.queue, read.exec_host, read.session_id, read.start_time) == (
        "n-4",
        "batch",
        "vm/0-2",
        99,
        1234,
    )
    assert (read.resources.mem, read.interactive) == (1 << 30, False)
    assert dict(read.variables)["A"] == "x,y <&>"
    assert dict(read.variables)["PBS_ARRAYID"] == "4"


def test_job_file_of_an_aborted_job(tmp_path: Path) -> None:
    """Without a session there is no session id; a control character empties the variables (observed)."""
    job = _job(tmp_path, script=None, variables={"A": "x\ny"})
    read = parse_jb(job_file(job, None, -2, 1).encode())

    assert (read.session_id, read.variables, read.interactive, read.exec_host) == (None, (), True, "vm/0")


def test_prologue_arguments_read_back(tmp_path: Path) -> None:
    """The argument vector is one that the package's own parser understands."""
    trial = Trial(_request(tmp_path, array_index=0, job_id="16[0].vm", resources="nodes=1:ppn=2,mem=200mb"))
    arguments = [
        *trial._arguments(),
        trial.job.resource_text,
        trial.job.queue,
        "",
        str(trial.script_path),
    ]

    assert parse_prologue_argv(arguments).resources.mem == 200 << 20
    assert trial.script_path == tmp_path / "mom_priv/jobs/16-0.vm.SC"
    assert trial.nodefile == tmp_path / "aux/16[0].vm"


def test_job_ids_only_grow(tmp_path: Path) -> None:
    """Two jobs of one mom never share an id, and an array element has its index in it."""
    first, second = (Trial(_request(tmp_path, job_id=None, array_index=index)).job_id for index in (None, 5))

    assert first.split(".")[0] == "1"
    assert second.split(".")[0] == "2[5]"


@pytest.mark.parametrize(("recorded", "shell"), [(0, 0), (7, 7), (271, 143), (265, 137), (-2, 1), (-14, 1), (137, 137)])
def test_exit_code_for_a_shell(recorded: int, shell: int) -> None:
    """What Torque records becomes what a shell would have said."""
    done = Outcome(
        job_id="1.x", exit_status=recorded, stdout=b"", stderr=b"", prologue_status=0, epilogue_status=0, seconds={}
    )
    assert done.shell_status == shell


def test_pbs_lines() -> None:
    """Options are read with or without a blank, until the first command."""
    script = (
        b"#!/bin/sh\n#PBS -N name -l mem=1gb\n#PBS -lwalltime=5\n#PBSX -q no\n\n# text\n#PBS -t 3\ntrue\n#PBS -q late\n"
    )

    assert pbs_lines(script) == {"-N": ["name"], "-l": ["mem=1gb", "walltime=5"], "-t": ["3"]}


def test_pbs_line_that_cannot_be_read() -> None:
    """An open quote is told with file and line."""
    with pytest.raises(BadRequest) as caught:
        pbs_lines(b"#!/bin/sh\n#PBS -v A='x\n", "job.sh")

    assert str(caught.value) == "job.sh:2: the #PBS line cannot be read: No closing quotation"


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comma separates where a name follows; quotes are taken off; a bare name has its value from here."""
    monkeypatch.setenv("HERE", "h")

    assert variables("A=1,2,B='x,y',HERE,C=") == {"A": "1,2", "B": "x,y", "HERE": "h", "C": ""}
    assert variables("") == {}
    with pytest.raises(BadRequest) as caught:
        variables("1A=x")
    assert str(caught.value) == "-v '1A=x' cannot be read; write NAME=VALUE, and a comma between two of them"


def test_resources_are_merged() -> None:
    """The command line wins over the script, resource by resource; a node and an hour are the default."""
    assert merged(["mem=1gb"], ["nodes=1:ppn=2,mem=2gb"]) == "mem=1gb,nodes=1:ppn=2,walltime=01:00:00"


@pytest.mark.skipif(os.geteuid() != 0, reason="the stand-in needs root")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["/no/such/script"], "/no/such/script cannot be read: No such file or directory"),
        ([], "name a script, or -I for an interactive job"),
        (["-I", "x.sh"], "an interactive job runs no script; leave out either -I or x.sh"),
        (["-t", "1-3", "SCRIPT"], "-t 1-3: one element is tried at a time; give its index, a whole number"),
        (["--user", "root", "SCRIPT"], "jobs of root are not run; name an ordinary user with --user"),
        (["--user", "nobody-here", "SCRIPT"], "user 'nobody-here' does not exist on this host"),
        (["--user", USER, "-l", "meem=1gb", "SCRIPT"], "-l meem=1gb: 'meem' is no resource; did you mean mem?"),
    ],
)
def test_bad_usage(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    """The command says what is wrong in one sentence and exits 2."""
    monkeypatch.setattr("pbsdock.core.paths.load", lambda _: argparse.Namespace(mom_priv=tmp_path))
    script = tmp_path / "job.sh"
    script.write_text("true\n")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parsed = parser.parse_args([one.replace("SCRIPT", str(script)) for one in arguments])
    parsed.paths = None

    assert main(parsed) == 2
    assert capsys.readouterr().err == f"pbsdock try: {sentence}\n"
