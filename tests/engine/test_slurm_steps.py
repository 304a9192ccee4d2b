"""Job steps in a real Slurm: what srun and salloc start runs in the container that the job has on its node."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS
from tests.support.slurm import NODE, SlurmSite, needs_slurm

pytestmark = needs_slurm
DIRECTIVE = f"#DOCKER {IMAGE}\n"
WHERE = "test -e /etc/debian_version || echo image"


def test_srun_in_an_allocation_of_its_own(slurm: SlurmSite) -> None:
    """Each task in the image, as its user, with Slurm's variables and its exit code."""
    done = slurm.cluster.launch("srun", "-n2", "-l", "sh", "-c", f"{WHERE}; echo $SLURM_PROCID; id -u", PBSDOCK=IMAGE)
    uid = pwd.getpwnam(USERS[0]).pw_uid
    assert sorted(done.stdout.split("\n")) == sorted(
        ["", *(f"{task}: {line}" for task in (0, 1) for line in ("image", task, uid))]
    ), done
    assert slurm.cluster.launch("srun", "sh", "-c", "exit 7", PBSDOCK=IMAGE).returncode == 7
