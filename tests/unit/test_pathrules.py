"""Which paths are given to containers: below, containing, the narrowest right, and nothing of an instance's own."""

from __future__ import annotations

import pytest

from pbsdock.core.pathrules import Closed, PathRules, ReadOnly, is_state
from pbsdock.core.plan import MountOrigin

RULES = PathRules(
    guarded=("/srv/torque",),
    sealed=("/srv/torque/mom_priv", "/srv/docker"),
    deny=("/scratch/admin",),
    allow=("/scratch", "/ref:ro", "/ref/incoming", "/data", "/data/ref:ro", "/twice", "/twice:ro"),
)
ORIGINS: tuple[MountOrigin, ...] = ("home", "workdir", "tmpdir", "nodefile", "volume", "site")


def _told(path: str, origin: MountOrigin, rules: PathRules = RULES, below: tuple[str, ...] = ()) -> str:
    try:
        rules.check(path, origin, below)
    except Closed as error:
        return str(error)
    return ""


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/proc",
        "/proc/1/root",
        "/sys/fs",
        "/var/lib/docker/overlay2",
        "/var/lib",
        "/var",
        "/srv",
        "/srv/torque",
        "/srv/docker/x",
        "/srv/torque/mom_priv/jobs",
        "/run",
        "/dev",
        "/run/pbsdock/pins",
        "/x/run/pbsdock/work/7",
        "/x/var/lib/pbsdock",
    ],
)
def test_never_whatever_the_origin(path: str, origin: MountOrigin) -> None:
    """The root, what is sealed, what contains what is closed, and what any instance keeps."""
    assert _told(path, origin) != ""


@pytest.mark.parametrize(
    ("path", "open_to"),
    [
        ("/dev/infiniband", {"site", "tmpdir", "nodefile"}),
        ("/run/munge", {"site", "tmpdir", "nodefile"}),
        ("/srv/torque/aux/7.vm", {"site", "tmpdir", "nodefile"}),
        ("/scratch/admin", {"site", "tmpdir", "nodefile"}),
        ("/scratch/admin/alice", {"site", "tmpdir", "nodefile", "home"}),
        ("/scratch", {"site", "tmpdir", "nodefile"}),
        ("/scratch/alice", set(ORIGINS)),
    ],
)
def test_what_a_site_or_mom_may_name_and_a_user_may_not(path: str, open_to: set[str]) -> None:
    """The site's own mounts and mom's files lie where no user may choose to look."""
    assert {one for one in ORIGINS if _told(path, one) == ""} == open_to


def test_a_tmpdir_that_a_users_process_named() -> None:
    """It is judged as a volume is."""
    rules = PathRules(deny=RULES.deny, tmpdir_by_user=True)

    assert _told("/scratch/admin/7.vm", "tmpdir", rules) == "this site keeps /scratch/admin closed"
    assert _told("/dev/shm/7.vm", "tmpdir", rules) == "system paths are never given to a container"
    assert _told("/dev/shm/7.vm", "tmpdir") == ""


def test_mounts_below_of_another_instance() -> None:
    """A recursive bind mount would show them too."""
    assert _told("/scratch/x", "volume", below=("/scratch/x/data",)) == ""
    assert _told("/scratch/x", "volume", below=("/scratch/x/run/pbsdock/pins/7.vm.aa/0",)) == (
        "it contains /scratch/x/run/pbsdock/pins/7.vm.aa/0"
    )


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/scratch/x", "rw"),
        ("/scratch2/x", "none"),
        ("/ref", "ro"),
        ("/ref/x", "ro"),
        ("/ref/incoming/x", "rw"),
        ("/data/x", "rw"),
        ("/data/ref/x", "ro"),
        ("/data", "it contains /data/ref, which is open for reading only"),
        ("/twice", "ro"),
        ("/", "none"),
    ],
)
def test_the_narrowest_right(path: str, right: str) -> None:
    """The longest prefix decides, and what is open for reading only below counts as well."""
    try:
        RULES.check_allowed(path)
        found = "rw"
    except ReadOnly as error:
        found = str(error) or "ro"
    except Closed as error:
        assert str(error).startswith("this site allows paths below /scratch, /ref, ")
        found = "none"
    assert found == right


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("/run/pbsdock", True),
        ("/run/pbsdock2", False),
        ("/home/a/pbsdock", False),
        ("/x/var/lib/pbsdock/jobs/7", True),
        ("/home/a/var/lib", False),
    ],
)
def test_state_of_an_instance(path: str, state: bool) -> None:
    """By the names every instance's directories have below its root."""
    assert is_state(path) is state
