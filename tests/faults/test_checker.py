"""The checker finds what is planted: a matrix judged by one that finds nothing would always be green."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.checker import compare
from tests.faults.site import IMAGE, VICTIM, Site, mount_tmpfs

pytestmark = pytest.mark.engine


@contextmanager
def _container(site: Site) -> Iterator[str]:
    site.engine.docker("create", "--name", "planted", IMAGE, "true")
    yield "container "
    site.engine.docker("rm", "planted")


@contextmanager
def _volume(site: Site) -> Iterator[str]:
    site.engine.docker("volume", "create", "planted")
    yield "volume planted"
    site.engine.docker("volume", "rm", "planted")


@contextmanager
def _cgroup(site: Site) -> Iterator[str]:
    directory = Path("/sys/fs/cgroup/freezer") / site.instance.name / "planted"
    directory.mkdir(parents=True)
    yield f"cgroup {directory}"
    directory.rmdir()


@contextmanager
def _process(site: Site) -> Iterator[str]:
    uid = pwd.getpwnam(VICTIM).pw_uid
    with subprocess.Popen(["sleep", "1000"], user=uid) as process:
        yield f"process {process.pid}."
        process.kill()


@contextmanager
def _mount(site: Site) -> Iterator[str]:
    directory = site.instance.run_dir / "work/planted"
    directory.mkdir()
    mount_tmpfs(directory, 4096)
    yield f"mount {directory}"
    subprocess.run(["umount", str(directory)], check=True)
    directory.rmdir()


@contextmanager
def _file(site: Site) -> Iterator[str]:
    path = site.instance.state_dir / "jobs/planted.json"
    path.touch()
    yield f"file {path}"
    path.unlink()


@contextmanager
def _child(site: Site) -> Iterator[str]:
    directory = site.instance.state_dir / "children/planted"
    directory.mkdir(parents=True)
    yield f"file {directory}"
    directory.rmdir()


@contextmanager
def _network(site: Site) -> Iterator[str]:
    site.engine.docker("network", "create", "planted")
    yield "network planted"
    site.engine.docker("network", "rm", "planted")


@contextmanager
def _credential(site: Site) -> Iterator[str]:
    site.gateway.admin("role", "create", "--role-name=planted", '--assume-role-policy-doc={"Statement":[]}')
    yield "credential planted"
    with suppress(json.JSONDecodeError):  # it says a sentence
        site.gateway.admin("role", "delete", "--role-name=planted")


@contextmanager
def _agent(site: Site) -> Iterator[str]:
    words = ["pbsdock.agent.daemon", str(site.instance.root)]
    pids = [os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 1000; :", *words], {}) for _ in range(3)]
    yield "agents of "
    for pid in pids:
        subprocess.run(["pkill", "-P", str(pid)], check=False)
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "plant", [_container, _volume, _cgroup, _process, _mount, _file, _child, _network, _credential, _agent]
)
def test_planted_leak_is_found(site: Site, plant: object) -> None:
    """Of each kind one; and when it is gone, the two looks are alike again."""
    before = site.world.settled()
    with plant(site) as expected:  # type: ignore[operator]
        found = compare(before, site.world.look())
    after = site.world.settled()

    assert not (rest := compare(before, after)), str(rest)

    assert any(one.startswith(expected) for one in found.leaked), str(found)
    assert not found.touched


def test_what_is_missing_is_found(site: Site) -> None:
    """Somebody's container that is gone is as wrong as one too many."""
    with _container(site):
        before = site.world.look()

    assert [one.split()[0] for one in compare(before, site.world.look()).touched] == ["container"]
