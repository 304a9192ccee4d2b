"""Whether all nodes of a cluster see the same directory, by what the kernel says of its mounts."""

from __future__ import annotations

import pytest

from pbsdock.host.shared import is_nodes_own
from pbsdock.host.syscalls import MountedFileSystem

_MOUNTED = [
    MountedFileSystem(point, kind, (), False)
    for point, kind in (
        ("/", "ext4"),
        ("/home", "nfs4"),
        ("/home/alice/local", "xfs"),
        ("/scratch", "lustre"),
        ("/data", "fuse.glusterfs"),
        ("/mine", "fuse.encfs"),
        ("/tmp", "tmpfs"),
    )
]


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/var/x", True),
        ("/home/alice/in", False),
        ("/home/alice/local/in", True),
        ("/homework", True),
        ("/scratch/a", False),
        ("/data/a", False),
        ("/mine/a", True),
        ("/tmp/7.s/in", True),
    ],
)
def test_what_is_a_nodes_own(path: str, own: bool) -> None:
    """By the last mount that covers it, component by component."""
    assert is_nodes_own(path, _MOUNTED) is own
