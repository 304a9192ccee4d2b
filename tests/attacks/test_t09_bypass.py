"""T9: a job that comes without its prologue starts nothing, whatever its directive looks like."""

from __future__ import annotations

import os
import subprocess

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, Instance, install
from tests.support.attack import as_user

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    "script",
    [
        f"#!/bin/sh\n#DOCKER {IMAGE}\necho started\n",
        f"#!/bin/sh\n#DOCKER\t{IMAGE}\necho started\n",
        f"#DOCKER {IMAGE}\necho started\n",
        f"#!/bin/sh\n#DOCKER {IMAGE}\r\necho started\n",
        f"#!/bin/sh\n{'# padding' * 9000}\n#DOCKER {IMAGE}\necho started\n",
        f"#!/bin/sh\n#PBS -l mem=1gb\n\n\n#DOCKER {IMAGE}",
        "#!/bin/sh\n#DOCKER\necho started\n",
        f"#!/bin/sh\n \t\r\n\v# x\n#DOCKER {IMAGE}\necho started\n#DOCKER late\n",
        f"\ufeff#!/bin/sh\n#DOCKER {IMAGE}\necho started\n",
        f"\ufeff#DOCKER {IMAGE}\necho started\n",
        f"#!/bin/sh\n#DOCKER\v{IMAGE}\necho started\n",
    ],
)
def test_no_prologue_no_start(instance: Instance, script: str) -> None:
    """qsub -T x runs prologue.x in the place of ours: the run hook finds a directive and no record, and refuses."""
    trial = Trial(instance.request(script))
    trial.prepare_files()
    trial.start()
    done = trial.finish(trial.wait())

    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr == (
        b"pbsdock: the script has a #DOCKER line but the prologue did not prepare its container; nothing was started\n"
    )
    assert instance.left() == []


def test_a_start_without_a_prologue(instance: Instance) -> None:
    """A client of the user's own gets no container for a batch job that has none, with or without a directive."""
    instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n")
    said = as_user(
        instance,
        """
        link = Link(sys.argv[1], 20.0)
        for directive in ("", "busybox"):
            link.send(wire.Message("start", job="99999.vm", argv=[b"/bin/sh"], directive=directive))
            answer, fds = link.recv()
            print(answer.op, answer.text("code"), len(fds))
    """,
    )

    assert said == ["refused no-such-job 0", "refused no-such-job 0"]


def test_policy_holds_on_demand(instance: Instance) -> None:
    """What PBSDOCK asks for is judged as a script's directive is, by the facts of mom's own .JB."""
    good = instance.config.read_text()
    instance.configure('[images]\nallow = ["docker.io/allowed/*"]\n')
    try:
        trial = Trial(instance.request(None))
        trial.prepare_files()
        assert trial.prologue() == 0
        trial.spool.record(os.getpid())
        instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n")  # its prologue waits for the agent, an interactive job's does not
        said = as_user(
            instance,
            """
            for directive in ("--privileged allowed/x", "evil/x", "-v /:/h allowed/x"):
                link = Link(sys.argv[1], 20.0)
                link.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/sh"], directive=directive))
                answer, fds = link.recv()
                print(answer.op, len(fds))
        """,
            trial.job_id,
            user=trial.entry.pw_name,
        )
        trial.finish(0)
    finally:
        instance.configure(good)

    assert said == ["refused 0"] * 3


def test_stray_prologues_are_told(instance: Instance) -> None:
    """The installer names what qsub -T could choose."""
    stray = instance.mom_priv / "prologue.x"
    stray.touch(mode=0o755)
    try:
        said = install(instance.root, "--dry-run").stdout
    finally:
        stray.unlink()
    assert f"warning: {stray} exists: qsub -T x runs it instead of pbsdock's prologue" in said


def test_a_missing_marker_is_no_way_in(instance: Instance) -> None:
    """The markers are root's: a user can neither make nor remove one."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 60\n")
    marker = instance.run_dir / "jobs" / trial.job_id
    for command in (["rm", "-f", str(marker)], ["touch", f"{marker}x"], ["ls", str(marker.parent)]):
        assert subprocess.run(command, user=trial.entry.pw_uid, capture_output=True, check=False).returncode != 0
    trial.qdel()
    trial.finish(trial.wait())
