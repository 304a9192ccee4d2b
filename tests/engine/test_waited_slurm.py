"""Jobs of Slurm's that take a minute and more: begun with the others, in test_slurm_jobs.py, and waited for by the time that
the files between have been run."""

from __future__ import annotations

from tests.conftest import wait_until
from tests.support.slurm import SlurmSite, needs_slurm

pytestmark = needs_slurm


def test_a_job_that_is_out_of_time(slurm_installed: SlurmSite, beside: tuple[str, str]) -> None:
    """Told once, then killed, container and all."""
    done = slurm_installed.cluster.wait(beside[0], seconds=150)
    assert done.state == "TIMEOUT"
    assert "told" in done.output
    slurm_installed.beside.discard(beside[0])
    wait_until("nothing is left", lambda: not slurm_installed.left())


def test_a_requeued_job_begins_anew(slurm_installed: SlurmSite, beside: tuple[str, str]) -> None:
    """With the same number, in another container."""
    done = slurm_installed.cluster.wait(beside[1], seconds=170)
    assert (done.state, done.restarts) == ("COMPLETED", 1), done
    assert done.output.endswith("run 1\n")
    started = [event for event in slurm_installed.instance.trail(done.id) if event["event"] == "job.started"]
    assert len({event["incarnation"] for event in started}) == 2
    slurm_installed.beside.discard(beside[1])
    wait_until("nothing is left", lambda: not slurm_installed.left())
