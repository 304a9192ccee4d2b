"""An automounter of one directory: ``python -m tests.support.automount DIRECTORY UID`` mounts a tmpfs of that user's there
as soon as somebody walks into it.

The kernel's own protocol, version 5 with a direct map (linux/auto_fs.h): whoever is in this process group sees the place
itself, all others wait until the file system is there.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys

from pbsdock.host import syscalls

_READY = 0x9360  # AUTOFS_IOC_READY
_PACKET = struct.Struct("<iiI")  # version, type, token; the rest says who asks for what


def main(directory: str, uid: str) -> int:
    """Mount the trap, say so, and serve."""
    read, write = os.pipe()
    options = f"fd={write},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    syscalls.mount("automount", directory, "autofs", 0, options)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    print("ready", flush=True)
    while packet := os.read(read, 512):
        _version, _type, token = _PACKET.unpack_from(packet)
        syscalls.mount("none", directory, "tmpfs", 0, f"mode=700,uid={uid}")
        os.close(os.open(f"{directory}/mounted", os.O_WRONLY | os.O_CREAT, 0o644))
        fcntl.ioctl(place, _READY, token)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
