"""Whether a directory is the same on all nodes of a cluster, as far as its file system's type tells."""

from __future__ import annotations

from collections.abc import Iterable

from pbsdock.core.pathrules import below
from pbsdock.host.syscalls import MountedFileSystem

# Types in /proc/self/mountinfo of file systems that are one for many hosts: the kernel's and the vendors'.
_SHARED = frozenset(
    "nfs nfs4 cifs smb3 ceph lustre gpfs beegfs panfs wekafs pvfs2 orangefs afs 9p virtiofs ocfs2 gfs2".split()
)
_SHARED_FUSE = ("fuse.glusterfs", "fuse.ceph", "fuse.sshfs", "fuse.juicefs", "fuse.moosefs", "fuse.mfs", "fuse.beegfs")


def is_nodes_own(path: str, mounted: Iterable[MountedFileSystem]) -> bool:
    """Whether *path* is on a file system of this node alone; *mounted* as the kernel lists them. Pure."""
    kind = ""
    for system in mounted:
        if below(path, system.point):
            kind = system.kind
    return kind not in _SHARED and not kind.startswith(_SHARED_FUSE)
