"""The choice of backend, on fake trees: plain directories that look like /sys/fs/cgroup."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pbsdock.core.errors import NodeFault
from pbsdock.host.cgroup.detect import choose
from pbsdock.host.cgroup.systemd import SystemdCgroup
from pbsdock.host.cgroup.v1 import V1Cgroup
from pbsdock.host.cgroup.v2 import V2Cgroup


def fake_v1(top: Path, *controllers: str) -> Path:
    for one in controllers or ("memory", "cpu", "cpuacct", "cpuset", "pids", "freezer"):
        (top / one).mkdir()
    return top


def fake_v2(top: Path) -> Path:
    (top / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return top


def test_v1_cgroupfs_fake_tree(tmp_path: Path) -> None:
    """The hybrid or legacy hierarchy, with cgroupfs."""
    assert isinstance(choose("cgroupfs", 1, root="pbsdock", sysfs=fake_v1(tmp_path)), V1Cgroup)


@pytest.mark.parametrize(("driver", "kind"), [("cgroupfs", V2Cgroup), ("systemd", SystemdCgroup)])
def test_v2_follows_the_engines_driver_fake_tree(tmp_path: Path, driver: str, kind: type) -> None:
    """The driver decides who makes the cgroup."""
    assert type(choose(driver, 2, root="pbsdock", sysfs=fake_v2(tmp_path))) is kind


def test_engine_and_host_disagree_fake_tree(tmp_path: Path) -> None:
    """An engine of another machine, or a stale answer, is no ground to guess."""
    with pytest.raises(NodeFault) as caught:
        choose("cgroupfs", 2, root="pbsdock", sysfs=fake_v1(tmp_path))

    assert str(caught.value) == f"the engine says cgroup version 2, but {tmp_path} is version 1"


@pytest.mark.parametrize(("driver", "shown"), [("systemd", "'systemd'"), ("none", "'none'"), ("", "''")])
def test_a_driver_without_backend_is_refused_fake_tree(tmp_path: Path, driver: str, shown: str) -> None:
    """Version 1 under systemd, no cgroups at all (rootless), or a driver yet to be written."""
    with pytest.raises(NodeFault) as caught:
        choose(driver, 1, root="pbsdock", sysfs=fake_v1(tmp_path))

    assert str(caught.value) == (
        f"the engine's cgroup driver {shown} on cgroup version 1 is not supported; "
        "use cgroupfs, or systemd on version 2"
    )


def test_a_host_without_a_controller_is_refused_fake_tree(tmp_path: Path) -> None:
    """A job that could not be limited is not run."""
    with pytest.raises(NodeFault) as caught:
        choose("cgroupfs", 1, root="pbsdock", sysfs=fake_v1(tmp_path, "cpu", "pids", "freezer"))

    assert str(caught.value) == f"cgroup controller memory is not mounted below {tmp_path}"


def test_a_delegated_parent_is_taken_with_cgroupfs_on_version_2_fake_tree(tmp_path: Path) -> None:
    """The one case in which a directory of ours can be below a unit's cgroup."""
    found = choose("cgroupfs", 2, root="pbsdock", parent="/system.slice/mom.service", sysfs=fake_v2(tmp_path))
    assert found.cgroup_parent("1.vm") == "/system.slice/mom.service/pbsdock/1.vm"


@pytest.mark.parametrize(("driver", "version", "fake"), [("systemd", 2, fake_v2), ("cgroupfs", 1, fake_v1)])
def test_a_delegated_parent_elsewhere_is_refused_fake_tree(
    tmp_path: Path, driver: str, version: int, fake: Callable[[Path], Path]
) -> None:
    """The site's wish is not quietly passed over: jobs would be where nobody looks for them."""
    with pytest.raises(NodeFault) as caught:
        choose(driver, version, root="pbsdock", parent="/a", sysfs=fake(tmp_path))

    assert str(caught.value) == (
        "[cgroup] parent = '/a' needs cgroup version 2 and the engine's driver cgroupfs; here it is version"
        f" {version} with {driver}"
    )
