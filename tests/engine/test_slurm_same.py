"""The same scripts through a real ``sbatch``, bare and contained: exit, state and every byte of every file are compared.

All are submitted at once and run beside each other. The image has the host's own programs, so that these say the same.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import HOST_IMAGE, USERS, wait_until
from tests.support.slurm import NODE, SlurmSite, needs_slurm

pytestmark = needs_slurm
DIRECTIVE = f"#DOCKER -v /usr:/usr:ro {HOST_IMAGE}\n"
PLAIN = "# no directive, so that lines count the same\n"
# What differs in any two runs of a script, and PATH, which is the image's.
VARYING = "SLURM_JOB_ID SLURM_JOBID SLURM_TASK_PID SLURM_JOB_START_TIME SLURM_JOB_END_TIME PATH".split()
SHOW = f"env -0 | sort -z | tr '\\0\\n' '\\n~' | grep -vE '^({'|'.join(VARYING)}|_)='"
LOOP = "echo begun\nfor i in $(seq 600); do sleep 0.1; done\necho never"


@dataclass(frozen=True)
class Case:
    """A script behind its first line; ``signal`` are scancel's words once it says that it has begun, ``waits``: sbatch -W
    tells how it has ended."""

    body: str
    options: tuple[str, ...] = ()
    first: str = "#!/bin/sh\n"
    arguments: tuple[str, ...] = ()
    signal: tuple[str, ...] | None = None
    waits: bool = False
    wrap: bool = False
    variables: tuple[tuple[str, str], ...] = ()


BASH = "#!/bin/bash\n"
CASES = {
    "exit 0": Case("true", waits=True),
    "exit 1": Case("false", waits=True),
    "exit 139": Case("sh -c 'kill -SEGV $$'; exit $?", waits=True),
    "exit 255": Case("exit 255", waits=True),
    "killed by SEGV": Case("kill -SEGV $$", waits=True),
    "killed by TERM": Case("kill $$", waits=True),
    "command not found": Case("no-such-command-at-all 2>/dev/null", waits=True),
    "syntax error": Case("echo before\nif then", waits=True),
    "arguments": Case(
        'echo $#; for word; do printf "<%s>\\n" "$word"; done',
        arguments=("", "a b", "--", "-x", "'\"$HOME`id`\\", "ž\ny", "*", "#x", "a=b"),
    ),
    "environment": Case(SHOW, ("-J", "named")),
    "no environment": Case(SHOW, ("--export=NONE", "-J", "named")),
    "chosen environment": Case(
        SHOW, ("--export=ODD,OTHER=x y,HOME", "-J", "named"), variables=(("ODD", "a b\t'\"$x\\ \nline"),)
    ),
    "odd variables": Case(
        "python3 -c 'import os; print(sorted(os.environb.items()))' | tr , '\\n' | grep -A1 -e ODD -e EMPTY -e LONG | cut -c -300",
        variables=(("ODD", "a\nSLURM_JOB_ID=1\n"), ("EMPTY", ""), ("ODD.dot", "1"), ("LONG", "x" * 90000)),
    ),
    "exported functions": Case("greet there", first=BASH, variables=(("BASH_FUNC_greet%%", "() { echo hello $1; }"),)),
    "limits": Case("ulimit -a; ulimit -H -a", first=BASH),
    "limits set by the user": Case("ulimit -n; ulimit -s; ulimit -c", ("--propagate=ALL",)),
    "umask": Case("umask; touch made; mkdir dir; sh -c umask"),
    "ids": Case("id; id -G"),
    "directory": Case("pwd; pwd -P; echo $PWD $SLURM_SUBMIT_DIR"),
    "scratch": Case("pwd; echo x >here; ls", ("--chdir=SCRATCH",)),
    "here document": Case("cat <<END\n$HOME\nEND\ncat <<'END'\n$HOME \\\nEND"),
    "standard input": Case("cat; echo end; stat -Lc %F /proc/self/fd/0; read line; echo $?"),
    "background": Case("(sleep 0.2; echo later) & wait; echo $?\nsleep 300 &\nexit 4"),
    "daemon": Case("setsid sleep 300 </dev/null >/dev/null 2>&1 &\necho left", first=BASH),
    "array": Case(
        "echo $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT; exit $SLURM_ARRAY_TASK_ID", ("--array=3", "-o", "%a-%x")
    ),
    "two files": Case("echo out; echo err >&2", ("-o", "o-%x-%u-%N", "-e", "e-%x-%s-%t", "-J", "na me")),
    "one file twice": Case("echo out; echo err >&2; echo out", ("-o", "both", "-e", "both")),
    "append": Case("echo more", ("-o", "kept", "--open-mode=append")),
    "truncate": Case("echo more", ("-o", "kept", "--open-mode=truncate")),
    "input file": Case("cat; cat", ("-i", "kept")),
    "no output": Case("echo out", ("-o", "/dev/null")),
    "python": Case(
        "import sys, os\nprint(sys.argv, sys.flags.no_site, os.getcwd())\nsys.exit(7)\n",
        first="#!/usr/bin/python3 -S\n",
        arguments=("x",),
    ),
    "perl": Case(
        '$x = 1;\nprint "$ARGV[0] $0\\n" =~ s/job[0-9]+/job/r;\nexit 8;\n',
        first="#!/usr/bin/perl -w\n",
        arguments=("x",),
    ),
    "env": Case("echo ${BASH_VERSION:+bash} $-", first="#!/usr/bin/env bash\n"),
    "env -S": Case("echo $-; echo $ODD", first="#!/usr/bin/env -S ODD=1 bash -eu\n"),
    "bash -e": Case("echo $-; false; echo never", first="#!/bin/bash -e\n"),
    "blanks in the first line": Case("echo $-", first="#! /bin/bash   -x  \n"),
    "crlf": Case("echo a\r\necho b\r\nexit 0\r"),
    "crlf in the first line": Case("echo a", first="#!/bin/sh\r\n"),
    "no line end": Case("echo last; exit 6"),
    "long script": Case(f": {'x' * 70000}\necho far\n: {'y' * 70000}\nexit 5"),
    "bytes in the script": Case("printf '\\000\\377\\n'; echo žluť \u2028"),
    "signal to the script": Case(f"trap 'echo usr1; exit 9' USR1\n{LOOP}", signal=("--batch", "-s", "USR1")),
    "signal to all": Case(
        "trap 'echo usr2' USR2\necho begun\n(trap 'echo child; exit 3' USR2; for i in $(seq 50); do sleep 0.1; done) & wait; wait; exit 2",
        signal=("--full", "-s", "USR2"),
    ),
    "untrapped signal": Case(LOOP, signal=("--batch", "-s", "HUP")),
    "trapped scancel": Case(f"trap 'echo term; exit 77' TERM\n{LOOP}", signal=()),
    "scancel": Case(LOOP, signal=()),
    "scancel of one that ignores it": Case(f"trap '' TERM\n{LOOP}", signal=()),
    "trap on exit": Case(f"trap 'echo bye' EXIT\ntrap 'exit 5' TERM\n{LOOP}", signal=(), first=BASH),
    "signal before the end": Case(f"trap 'echo told; exit 11' USR1\n{LOOP}", ("-t", "1", "--signal=B:USR1@10")),
    # Of the ignored without the C library's own, 32 and 33: nobody can set them back where slurmd's parent has left them so.
    "signals of bash": Case(
        "trap; while read -r name mask; do case $name in SigBlk:) echo $mask ;;"
        " SigIgn:) echo $((0x$mask & ~(3 << 31))) ;; esac; done </proc/self/status; kill -l 11",
        first=BASH,
    ),
    "exec": Case("exec sh -c 'echo replaced; exit 3'"),
    "exec of a killed one": Case("exec sh -c 'kill -9 $$'", waits=True),
    "much output": Case("seq 500000 700000; seq 900000 901000 >&2"),
    "closed output": Case("exec >&-; echo x 2>/dev/null; exit 3"),
    "locale": Case(
        "locale 2>/dev/null | head -1; python3 -c 'import locale, sys; print(locale.setlocale(locale.LC_ALL, \"\"), sys.stdout.encoding)'; echo $LANG",
        variables=(("LANG", "C.UTF-8"),),
    ),
    "wrap": Case("echo wrapped $0 | sed 's/job[0-9]*/job/'; exit 12", wrap=True),
    "own text": Case("cat $0; wc -l <$0; head -1 $0; stat -c '%a %U' $0"),
    "processes": Case("nproc"),
    "terminal": Case("tty; test -t 1; echo $?; ls -l /proc/self/fd | wc -l"),
    "session": Case("ps -o sid= -p $$ | grep -c . ; kill -0 -$$ 2>/dev/null; echo $?"),
    "time": Case("sleep 0.01; times | wc -l; date +%Z"),
    "no such directory": Case("pwd", ("--chdir=/no/such/directory",)),
    "commands of Slurm's in comments": Case("echo $SLURM_JOB_NAME", first="#!/bin/sh\n#SBATCH -J from-the-script\n"),
}


@dataclass(frozen=True)
class Ran:
    """How a case has ended: state and exit of scontrol's (sbatch itself refuses a script with CRLF), what sbatch -W has ended with, every file."""

    state: str
    exit: str
    waited: int | None
    files: dict[str, tuple[int, bytes]]


class Run:
    """One case, bare or contained, in a directory of its own."""

    def __init__(self, site: SlurmSite, top: Path, name: str, kind: str) -> None:
        self.case, self.site, self.kind = CASES[name], site, kind
        self.place = top / kind / re.sub(r"\W", "-", name)
        self.place.mkdir(parents=True)
        (self.place / "kept").write_text("kept\n")
        (self.place / "scratch").mkdir()
        for path in (self.place, self.place / "kept", self.place / "scratch", top / kind):
            shutil.chown(path, USERS[0], pwd.getpwnam(USERS[0]).pw_gid)
        self.waited: int | None = None
        self.job = self._submit()

    def _submit(self) -> str:
        case, place, cluster = self.case, self.place, self.site.cluster
        entry = pwd.getpwnam(USERS[0])
        head = {"bare": PLAIN, "contained": DIRECTIVE}[self.kind]
        options = [option.replace("SCRATCH", str(place / "scratch")) for option in case.options]
        words = ["sbatch", "--parsable", "-o", "out", *(["-W"] if case.waits else []), *options]
        if case.wrap:
            image = DIRECTIVE.removeprefix("#DOCKER ").strip()
            variables = {"PBSDOCK": image} if self.kind == "contained" else {}
            words += ["--wrap", case.body]
        else:
            variables = {}
            words += ["-J", "same"] if "-J" not in options and "-J" not in case.first else []
            path = place.with_name(f".{place.name}")
            path.write_bytes(f"{case.first}{head}{case.body}{'' if 'last;' in case.body else chr(10)}".encode())
            words += [str(path), *case.arguments]
        done = subprocess.run(
            words,
            env={**cluster.environment, "HOME": entry.pw_dir, "USER": USERS[0], **dict(case.variables), **variables},
            cwd=place,
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=os.getgrouplist(USERS[0], entry.pw_gid),
            umask=0o027,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        self.waited = done.returncode if case.waits else None
        self.refused = done.stderr if not done.stdout.strip() else ""
        return done.stdout.strip()

    def signal(self) -> None:
        """Once it has begun."""
        if self.case.signal is not None and not self.refused:
            out = self.place / "out"
            with suppress(AssertionError):  # then what it has said instead is compared
                wait_until("it has begun", lambda: out.exists() and b"begun" in out.read_bytes(), 20)
            self.site.cluster.call("scancel", *self.case.signal, self.job, check=False)

    def ended(self) -> Ran:
        """Wait for its end."""
        if self.refused:
            return Ran("refused", self.refused, None, {})
        cluster = self.site.cluster
        number = cluster.show(f"{self.job}_3" if "--array=3" in self.case.options else self.job)["JobId"]
        self.site.cluster.jobs.append(number)
        done = cluster.wait(number, seconds=110)
        files = {}
        for path in sorted(self.place.rglob("*")):
            data = path.read_bytes() if path.is_file() else b""
            for text, plain in ((str(self.place), "PLACE"), (f"job{int(number):05d}", "job"), (DIRECTIVE, PLAIN)):
                data = data.replace(text.encode(), plain.encode())
            data = re.sub(rb"(?<![0-9])%b(?![0-9])" % number.encode(), b"JOB", data)
            data = re.sub(rb"[0-9-]{10}T[0-9:]{8}", b"TIME", data)
            files[str(path.relative_to(self.place))] = path.stat().st_mode, data
        return Ran(done.state, done.exit, self.waited, files)


@pytest.fixture(scope="module")
def runs(slurm_installed: SlurmSite) -> Iterator[dict[tuple[str, str], Ran]]:
    """All cases, both ways."""
    entry = pwd.getpwnam(USERS[0])
    top = Path(entry.pw_dir) / f"same-{NODE}"
    top.mkdir()
    os.chown(top, entry.pw_uid, entry.pw_gid)
    good = slurm_installed.instance.config.read_text()
    slurm_installed.instance.configure('[mounts]\nallow = ["/usr:ro"]\n')
    both = [(name, kind) for name in CASES for kind in ("bare", "contained")]
    try:
        with ThreadPoolExecutor(24) as pool:
            begun = list(pool.map(lambda pair: Run(slurm_installed, top, *pair), both))
            list(pool.map(Run.signal, begun))
            yield dict(zip(both, pool.map(Run.ended, begun), strict=True))
    finally:
        shutil.rmtree(top)
        slurm_installed.instance.configure(good)


@pytest.mark.parametrize("name", CASES)
def test_the_same(runs: dict[tuple[str, str], Ran], name: str) -> None:
    """Of a bare script and the same one in its container."""
    bare, contained = runs[name, "bare"], runs[name, "contained"]
    assert contained.files == bare.files
    assert contained == bare


def test_nothing_is_left(slurm: SlurmSite, runs: dict[tuple[str, str], Ran]) -> None:
    """Of any; the fixture looks."""
    assert len(runs) == 2 * len(CASES)
