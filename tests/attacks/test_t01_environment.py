"""T1: variables of qsub -v, and of whoever starts a hook, load nothing into a process of root's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import HOST_IMAGE, IMAGE, USERS, Instance, wait_until
from tests.support.attack import works

pytestmark = pytest.mark.engine
_HOOKS = ("prologue", "epilogue", "prologue.parallel", "epilogue.parallel")


class Trap:
    """Programs, modules and start-up files in a user's hands; whoever loads one leaves a line with its uid."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.canary = root / "canary"
        root.mkdir(mode=0o777)
        root.chmod(0o777)
        self.canary.touch()
        self.canary.chmod(0o666)
        shell = f"id -u >>{self.canary}\n"
        python = (
            f"import os; os.write(os.open({str(self.canary)!r}, os.O_WRONLY | os.O_APPEND), b'%d\\n' % os.getuid())\n"
        )
        perl = f"open my $f, '>>', '{self.canary}'; print $f \"$<\\n\"; 1;\n"
        for name in ("grep", "perl", "python3", "setsid", "sh", "bash", "docker", "pbs_track", "id", "cat", "env"):
            self._write(f"bin/{name}", f'#!/bin/sh\n/usr/bin/{shell}exec /usr/bin/{name} "$@"\n', 0o755)
        for name in ("socket", "json", "sitecustomize", "usercustomize", "pbsdock", "os", "wire"):
            self._write(f"lib/{name}.py", python, 0o644)
        for name in ("Socket", "strict", "Evil", "perl5db"):
            self._write(f"lib/{name}.pm", perl, 0o644)
        self._write("rc", shell, 0o644)

    def _write(self, name: str, text: str, mode: int) -> None:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        path.parent.chmod(0o755)

    def variables(self) -> dict[str, str]:
        """Everything that makes some interpreter read something."""
        library, rc = str(self.root / "lib"), str(self.root / "rc")
        return {
            "PYTHONPATH": library,
            "PYTHONSTARTUP": rc,
            "PYTHONUSERBASE": library,
            "PYTHONINSPECT": "1",
            "PYTHONWARNINGS": "error::Warning:evil",
            "PYTHONBREAKPOINT": "evil.x",
            "PYTHONPLATLIBDIR": library,
            "PERL5LIB": library,
            "PERL5OPT": "-MEvil",
            "PERLLIB": library,
            "PERL5DB": f"BEGIN {{ require '{library}/perl5db.pm' }}",
            "BASH_ENV": rc,
            "ENV": rc,
            "PROMPT_COMMAND": f". {rc}",
            "PS4": f"$(. {rc})",
            "SHELLOPTS": "xtrace",
            "BASH_FUNC_grep%%": f"() {{ . {rc}; }}",
            "BASH_FUNC_unset%%": f"() {{ . {rc}; }}",
            "IFS": "/",
            "PATH": f"{self.root}/bin:/usr/bin:/bin",
            "DOCKER_HOST": f"unix://{rc}",
            "DOCKER_CONFIG": library,
            "XDG_CONFIG_HOME": library,
            "HOME": library,
            "TMPDIR": library,
            "CDPATH": library,
            "GCONV_PATH": library,
            "LOCPATH": library,
            "PBSDOCK": "x",
            "PBSDOCK_PATHS": rc,
            "PBSDOCK_CONFIG": rc,
        }

    def seen(self) -> set[str]:
        """The uids that fell into it."""
        return set(self.canary.read_text().split())


@pytest.fixture
def trap(scratch: Path) -> Trap:
    path = scratch / f"trap{len(list(scratch.iterdir()))}"
    return Trap(path)


def _agents_environment(instance: Instance) -> dict[str, str]:
    text = Path(f"/proc/{instance.agent_pids()[-1]}/environ").read_bytes().decode()
    return dict(one.split("=", 1) for one in text.split("\0") if one)


def test_a_jobs_variables_reach_no_root_process(instance: Instance, trap: Trap) -> None:
    """qsub -v with all of them: the user falls into their own traps, root into none."""
    instance.kill_agent()  # so that a hook of this very job starts it
    preloaded = {"LD_PRELOAD": str(trap.root / "lib/evil.so"), "LD_AUDIT": str(trap.root / "lib/evil.so")}
    variables = {name: value for name, value in trap.variables().items() if name not in ("HOME", "PBSDOCK", "IFS")}
    contained = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nid -u\n", variables={**variables, **preloaded})
    bare = instance.run("#!/bin/bash\nid -u\n", variables=variables)

    mine = subprocess.run(["id", "-u", USERS[0]], capture_output=True, text=True, check=True).stdout
    assert (contained.exit_status, contained.stdout.decode()) == (0, mine), contained.stderr
    assert bare.stdout.decode() == mine
    assert trap.seen() == {mine.strip()}  # the traps work: the bare job's own shell fell into one


def test_hooks_started_with_a_hostile_environment(instance: Instance, trap: Trap) -> None:
    """Mom passes none of it to root's hooks; if anything ever does, interpreter, library and programs stay the fixed
    ones. (What ``/bin/sh`` itself reads, LD_PRELOAD, only the kernel's setuid mode or mom can keep from it.)"""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n"))
    trial.prepare_files()
    arguments = [trial.job_id, USERS[0], trial.job.group, "x", "nodes=1:ppn=1", "batch", "", str(trial.script_path)]
    ends = [
        trial.job_id,
        USERS[0],
        trial.job.group,
        "x",
        "1",
        "nodes=1:ppn=1",
        "",
        "batch",
        "",
        "0",
        str(trial.script_path),
    ]
    instance.kill_agent()
    codes = []
    for hook in _HOOKS:
        codes.append(
            subprocess.run(
                [str(instance.mom_priv / hook), *(ends if hook == "epilogue" else arguments)],
                env=trap.variables(),
                cwd=trap.root / "lib",
                capture_output=True,
                check=False,
                timeout=60,
            ).returncode
        )
    instance.kill_agent()
    (instance.run_dir / "jobs" / "1.absent").touch()
    checked = subprocess.run(
        [str(instance.root / "opt/pbsdock/hooks/node-check")],
        env=trap.variables(),
        cwd=trap.root / "lib",
        capture_output=True,
        check=False,
        timeout=60,
    )
    wait_until("the node check has started an agent", lambda: bool(instance.agent_pids()))
    (instance.run_dir / "jobs" / "1.absent").unlink(missing_ok=True)
    trial.spool.remove()

    assert codes == [0, 0, 0, 0]
    assert checked.stdout == b""
    assert trap.seen() == set()
    assert works(instance)
    assert set(_agents_environment(instance)) <= {"PATH", "LANG", "HOME"}
    assert _agents_environment(instance)["PATH"] == "/usr/sbin:/usr/bin:/sbin:/bin"


def test_the_loaders_variables_end_with_the_hooks_shell(instance: Instance, trap: Trap) -> None:
    """LD_DEBUG_OUTPUT makes every program that sees it leave a file: the hook's shell does, nothing it starts."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n"))
    trial.prepare_files()
    output = trap.root / "ld"
    process = subprocess.Popen(
        [
            str(instance.mom_priv / "prologue"),
            trial.job_id,
            USERS[0],
            trial.job.group,
            "x",
            "nodes=1:ppn=1",
            "batch",
            "",
            str(trial.script_path),
        ],
        env={"PATH": "/usr/bin:/bin", "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(output)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.wait(60) == 0
    trial.spool.record(None)
    trial.finish(0)

    left = {one.name.rpartition(".")[2] for one in trap.root.glob("ld.*")}
    # /bin/grep, which looks for the directive before anything else is done, is the shell's own first child.
    assert str(process.pid) in left
    programs = {(trap.root / f"ld.{one}").read_text().partition("calling init: ")[0].count("libpython") for one in left}
    assert programs == {0}
    assert len(left) <= 2


def test_the_container_gets_none_of_the_hosts(instance: Instance) -> None:
    """Loader, interpreter and engine variables of the job's environment stay outside; harmless ones go in."""
    done = instance.run(
        f"#!/bin/bash\n#DOCKER {HOST_IMAGE}\nenv\n",
        variables={
            "LD_AUDIT": "/a.so",
            "LD_PRELOAD": "/b.so",
            "DOCKER_HOST": "tcp://x",
            "BASH_ENV": "/c",
            "ENV": "/d",
            "PYTHONPATH": "/e",
            "PYTHONHOME": "/f",
            "PERL5LIB": "/g",
            "HARMLESS": "1",
        },
    )
    names = {line.split("=", 1)[0] for line in done.stdout.decode().splitlines()}

    assert "HARMLESS" in names
    assert (
        not {"LD_AUDIT", "LD_PRELOAD", "DOCKER_HOST", "BASH_ENV", "ENV", "PYTHONPATH", "PYTHONHOME", "PERL5LIB"} & names
    )
    assert os.environ["PATH"] not in done.stdout.decode()
