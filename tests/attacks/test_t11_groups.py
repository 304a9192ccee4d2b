"""T11: a job has its owner's groups, all of them and no others, as the host knows them."""

from __future__ import annotations

import pytest

from tests.attacks.test_t10_setuid import HOSTILE, hostile  # noqa: F401 - the fixture
from tests.conftest import USERS, Instance

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("user", USERS)
def test_groups_are_the_hosts(instance: Instance, user: str) -> None:
    """An image whose /etc/group puts everybody into disk and root adds nothing (CVE-2022-36109); none is missing."""
    bare = instance.run("#!/bin/sh\nid -u; id -g; id -G | tr ' ' '\\n' | sort -n\n", user=user)
    done = instance.run(f"#!/bin/sh\n#DOCKER {HOSTILE}\nid -u; id -g; id -G | tr ' ' '\\n' | sort -n\n", user=user)

    assert done.stdout == bare.stdout


def test_a_task_has_them_too(instance: Instance) -> None:
    """What TM starts later inside the container is not looked up in the image either."""
    import os
    import subprocess

    trial = instance.begin(f"#!/bin/sh\n#DOCKER {HOSTILE}\nsleep 60\n")
    read, write = os.pipe()
    with os.fdopen(read, "rb") as said:
        task = trial.tm_spawn(["/bin/sh", "-c", "id -G"], stdout=write)
        os.close(write)
        text = said.read()
    assert task.wait(30) == 0
    trial.qdel()
    trial.finish(trial.wait())

    held = subprocess.run(["id", "-G", USERS[0]], capture_output=True, text=True, check=True).stdout.split()
    assert set(text.decode().split()) == set(held)
