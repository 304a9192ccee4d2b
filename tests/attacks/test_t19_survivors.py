"""T19, T22: nothing of a job outlives it, however it daemonises and whoever of us is killed in between."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, Instance, wait_until
from tests.support.attack import as_user, is_healthy, works

pytestmark = pytest.mark.engine
_DEAF = "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP INT QUIT; sleep 317' & done"


def _sleepers() -> list[str]:
    found = subprocess.run(["pgrep", "-f", "^sleep 317"], capture_output=True, text=True, check=False).stdout
    return found.split()


@pytest.mark.parametrize("end", ["exit 3", "kill -9 $$", "sleep 317"], ids=["exit", "killed", "deleted"])
def test_daemons_die_with_the_job(instance: Instance, end: str) -> None:
    """Daemons in sessions of their own, deaf to every signal that can be ignored."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\n{_DEAF}\necho ready\n{end}\n")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    if end.startswith("sleep"):
        trial.qdel()
    began = time.monotonic()
    trial.finish(trial.wait())

    assert time.monotonic() - began < 20
    assert instance.left() == []
    assert _sleepers() == []


def test_a_run_hook_that_is_killed(instance: Instance) -> None:
    """The user kills it to be rid of the agent: the epilogue ends the container all the same."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\n{_DEAF}\necho ready\nsleep 317\n")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    subprocess.run(["kill", "-9", str(trial.leader_pid)], user=trial.entry.pw_uid, check=True)
    trial.finish(trial.wait())

    assert instance.left() == []
    assert _sleepers() == []


def test_nothing_is_restarted(instance: Instance) -> None:
    """A container that kills its own first process is over; the engine does not start it again."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 1\nkill -9 1; kill -TERM 1; exit 4\n")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    found = instance.inspect(trial.job_id)["HostConfig"]
    done = trial.finish(trial.wait())

    assert (found["RestartPolicy"]["Name"], found["AutoRemove"]) == ("no", False)
    assert done.exit_status in (4, 137, 143)
    assert instance.left() == []


def test_a_start_after_the_end(instance: Instance) -> None:
    """A process left on the node asks for the job's container once more while and after the epilogue runs."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 0.1\n")
    trial.wait()
    trial.epilogue(0)
    trial.job_file.unlink()
    said = as_user(
        instance,
        f"""
        link = Link(sys.argv[1], 20.0)
        link.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/sleep", b"317"], directive=b"{IMAGE}"))
        print(link.recv()[0].op)
    """,
        trial.job_id,
        user=trial.entry.pw_name,
    )
    trial.finish(0)

    assert said == ["refused"]
    assert instance.left() == []


@pytest.mark.threat(22)
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.06])
def test_a_prologue_that_is_killed(instance: Instance, after_s: float) -> None:
    """mom's alarm kills it with the agent in mid-work: the epilogue, or the next prologue, finds all of it."""
    assert works(instance)
    assert instance.left() == []  # an epilogue of a job that is over is answered before the agent has tidied up
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n"))
    trial.prepare_files()
    arguments = [
        trial.job_id,
        trial.entry.pw_name,
        trial.job.group,
        "x",
        "nodes=1",
        "batch",
        "",
        str(trial.script_path),
    ]
    process = subprocess.Popen(
        [str(instance.mom_priv / "prologue"), *arguments],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(after_s)  # the moment is the attack, not a wait
    instance.kill_agent()
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        pass
    process.wait()
    trial.finish(-2)
    (instance.run_dir / "unhealthy").unlink(missing_ok=True)
    again = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho again\n", job_id=trial.job_id)

    assert again.stdout == b"again\n", again.stderr
    assert instance.left() == [], [one for one in instance.events(trial.job_id)]


@pytest.mark.threat(22)
def test_an_epilogue_without_a_prologue(instance: Instance) -> None:
    """It has nothing to do, says so with 0, and harms no other job."""
    other = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 60\n")
    wait_until("the script runs", lambda: b"ready" in other.out_path.read_bytes())
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n"))
    trial.prepare_files()
    assert trial.epilogue(-2) == 0
    (instance.run_dir / "jobs" / trial.job_id).touch()  # even where a marker is left
    assert trial.epilogue(-2) == 0
    (instance.run_dir / "jobs" / trial.job_id).unlink(missing_ok=True)
    trial.spool.remove()

    assert other.leader is not None
    assert other.leader.poll() is None
    other.qdel()
    other.finish(other.wait())
    assert is_healthy(instance)
    assert not Path(f"{instance.run_dir}/jobs/{trial.job_id}").exists()
