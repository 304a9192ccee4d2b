"""Credentials and staging in a job of a real Slurm, which ends them as Torque's epilogue does."""

from __future__ import annotations

import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import USERS, wait_until
from tests.s3.conftest import Store
from tests.s3.site import Site, config
from tests.s3.test_jobs import BOTO
from tests.support.slurm import SlurmSite, needs_slurm

pytestmark = [pytest.mark.engine, needs_slurm]


@pytest.fixture
def site(slurm: SlurmSite, store: Store) -> Iterator[Site]:
    """Slurm's instance, configured for the gateway; the fixture of Slurm's puts the configuration back."""
    slurm.instance.configure(config(store))
    found = Site(slurm.instance, store)
    yield found
    wait_until("nothing is left", lambda: not slurm.left() and not store.roles() and not store.users(), 60)


@pytest.fixture
def desk() -> Iterator[Path]:
    """An empty directory below the user's home."""
    path = Path(pwd.getpwnam(USERS[0]).pw_dir) / "desk"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    shutil.chown(path, USERS[0])
    yield path
    shutil.rmtree(path)


def test_credentials(slurm: SlurmSite, site: Site) -> None:
    """A role of the job's own, with which its client reads and writes what was asked for and nothing else."""
    done = slurm.cluster.run(
        site.script("--s3 ceph:alice-in:ro --s3 ceph:alice-out:rw", f"/usr/bin/python3 -c '{BOTO}'")
    )
    assert (done.exit, done.output) == ("0:0", "alice-in x/1\nAccessDenied\n")


def test_credentials_end_with_a_job_that_is_cancelled(slurm: SlurmSite, site: Site) -> None:
    """They are there while it runs, and gone by its Epilog."""
    job = slurm.cluster.submit(site.script("--s3 ceph:alice-in:ro", "echo begun\nsleep 300"))
    slurm.cluster.await_running(job, says="begun")
    assert len(site.store.roles()) == 1
    slurm.cluster.call("scancel", job)
    assert slurm.cluster.wait(job).state == "CANCELLED"
    wait_until("its role is gone", lambda: not site.store.roles())


def test_staging(slurm: SlurmSite, site: Site, desk: Path) -> None:
    """An object comes in before the script, and its result goes out behind it."""
    script = site.script(
        "--stage-in s3://alice-in/x/1 $HOME/desk/in.txt --stage-out $HOME/desk/out.txt s3://alice-out/results/slurm",
        "tr a-z A-Z <$HOME/desk/in.txt >$HOME/desk/out.txt; echo ran",
    )
    done = slurm.cluster.run(script)
    told = done.output.splitlines()
    assert (done.exit, told[1]) == ("0:0", "ran"), done
    assert len(told) == 3, done
    assert told[0].startswith("pbsdock: staged in 1 file, 13 B in ")
    assert told[2].startswith("pbsdock: staged out 1 file, 13 B in ")
    assert site.store.alice.get_object(Bucket="alice-out", Key="results/slurm")["Body"].read() == b"ALICE-IN X/1\n"
