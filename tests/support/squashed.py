"""A file system on which root is nobody, as on an NFS mount with root_squash: ``python -m tests.support.squashed BACKING
MOUNTPOINT [UID]`` mounts it and serves it until it is unmounted. It passes everything on to BACKING, as whoever asks, and as
nobody for root; only the attributes of what is open or mounted already can root ask for, as with NFS.

The kernel's own protocol (linux/fuse.h, version 7.31), as far as jobs need it: no library of it is on every machine.
"""

from __future__ import annotations

import errno
import os
import pwd
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pbsdock.host import syscalls

_NOBODY = 65534
_HEADER = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_ATTRIBUTES = struct.Struct("<6Q10I")
_ENTRY = struct.Struct("<4Q2I")
_READ_OR_WRITE = struct.Struct("<QQII")
_SETATTR = struct.Struct("<II7Q8I")
_WRITE_HEADER = 40
_SILENT = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET


class Squashed:
    """Node number -> path, and what answers each request."""

    def __init__(self, backing: bytes) -> None:
        self.paths = {1: backing}
        self.numbers = {backing: 1}
        self.answers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self.lookup,
            3: self.attributes,
            4: self.change,
            5: lambda node, _: os.readlink(self.paths[node]),
            9: self.make_directory,
            10: lambda node, data: self.take(os.unlink, node, data),
            11: lambda node, data: self.take(os.rmdir, node, data),
            14: self.open,
            15: self.read,
            16: self.write,
            17: self.room,
            18: self.close,
            20: lambda *_: b"",
            25: lambda *_: b"",
            26: self.begin,
            27: self.open,
            28: self.list,
            29: self.close,
            34: self.access,
            35: self.create,
        }

    def begin(self, _node: int, data: bytes) -> bytes:
        _major, _minor, readahead, _flags = struct.unpack_from("<4I", data)
        return struct.pack("<4I2H2I2H8I", 7, 31, readahead, 0, 16, 12, 65536, 1, 0, 0, *[0] * 8)

    def child(self, node: int, data: bytes) -> bytes:
        return self.paths[node] + b"/" + data.split(b"\0")[0]

    def entry(self, path: bytes) -> bytes:
        number = self.numbers.setdefault(path, len(self.numbers) + 1)
        self.paths[number] = path
        return _ENTRY.pack(number, 0, 0, 0, 0, 0) + _packed(os.lstat(path))

    def lookup(self, node: int, data: bytes) -> bytes:
        return self.entry(self.child(node, data))

    def attributes(self, node: int, _data: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + _packed(os.lstat(self.paths[node]))

    def change(self, node: int, data: bytes) -> bytes:
        valid, _, _fh, size, _owner, atime, mtime, *_, mode, _unused, uid, gid, _last = _SETATTR.unpack_from(data)
        path = self.paths[node]
        if valid & 1:
            os.chmod(path, mode & 0o7777)
        if valid & 6:
            os.lchown(path, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(path, size)
        if valid & 0x30:
            os.utime(path, None if valid & 0x180 else (atime, mtime))
        return self.attributes(node, b"")

    def make_directory(self, node: int, data: bytes) -> bytes:
        mode, umask = struct.unpack_from("<II", data)
        path = self.child(node, data[8:])
        os.mkdir(path, mode & ~umask)
        return self.entry(path)

    def take(self, act: Callable[[bytes], None], node: int, data: bytes) -> bytes:
        act(self.child(node, data))
        return b""

    def open(self, node: int, data: bytes) -> bytes:
        flags = struct.unpack_from("<I", data)[0] & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        return struct.pack("<QII", os.open(self.paths[node], flags | os.O_CLOEXEC), 0, 0)

    def create(self, node: int, data: bytes) -> bytes:
        flags, mode, umask, _ = struct.unpack_from("<4I", data)
        path = self.child(node, data[16:])
        fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, mode & 0o7777 & ~umask)
        return self.entry(path) + struct.pack("<QII", fd, 0, 0)

    def close(self, _node: int, data: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", data)[0])
        return b""

    def read(self, _node: int, data: bytes) -> bytes:
        fd, offset, size, _ = _READ_OR_WRITE.unpack_from(data)
        return os.pread(fd, size, offset)

    def write(self, _node: int, data: bytes) -> bytes:
        fd, offset, size, _ = _READ_OR_WRITE.unpack_from(data)
        return struct.pack("<II", os.pwrite(fd, data[_WRITE_HEADER : _WRITE_HEADER + size], offset), 0)

    def list(self, node: int, data: bytes) -> bytes:
        _fd, offset, size, _ = _READ_OR_WRITE.unpack_from(data)
        found = b""
        for number, name in enumerate(sorted(os.listdir(self.paths[node])), 1):
            record = struct.pack("<QQII", number, number, len(name), 0) + name
            record += b"\0" * (-len(record) % 8)
            if number > offset and len(found) + len(record) <= size:
                found += record
        return found

    def access(self, node: int, data: bytes) -> bytes:
        # Not access(2), which asks for the real user.
        wanted = struct.unpack_from("<I", data)[0]
        if not os.access(self.paths[node], wanted, effective_ids=True):
            raise PermissionError(errno.EACCES, "")
        return b""

    def room(self, _node: int, _data: bytes) -> bytes:
        one = os.statvfs(self.paths[1])
        return struct.pack(
            "<5Q4I6I",
            one.f_blocks,
            one.f_bfree,
            one.f_bavail,
            one.f_files,
            one.f_ffree,
            one.f_bsize,
            255,
            one.f_frsize,
            0,
            *[0] * 6,
        )

    def answer(self, request: bytes) -> tuple[int, bytes]:
        """(error, data) for one request."""
        _length, opcode, _unique, node, uid, gid, _pid, _ = _HEADER.unpack_from(request)
        act = self.answers.get(opcode)
        if act is None:
            return -errno.ENOSYS, b""
        try:
            with _as(uid, gid, opcode):
                return 0, act(node, request[_HEADER.size :])
        except OSError as error:
            return -(error.errno or errno.EIO), b""


@contextmanager
def _as(uid: int, gid: int, opcode: int) -> Iterator[None]:
    if opcode in (3, 17, 26):
        yield
        return
    who = (uid, gid) if uid else (_NOBODY, _NOBODY)
    with syscalls.filesystem_user(*who, []):
        yield


def _packed(one: os.stat_result) -> bytes:
    times = [int(one.st_atime), int(one.st_mtime), int(one.st_ctime)]
    return _ATTRIBUTES.pack(
        one.st_ino,
        one.st_size,
        one.st_blocks,
        *times,
        0,
        0,
        0,
        one.st_mode,
        one.st_nlink,
        one.st_uid,
        one.st_gid,
        0,
        4096,
        0,
    )


def main(backing: str, mount_point: str, owner: str = "") -> int:
    """Mount, say so, and serve; with *owner*, a user id, for nobody but that user."""
    device = os.open("/dev/fuse", os.O_RDWR)
    whose = (
        f"user_id={owner},group_id={pwd.getpwuid(int(owner)).pw_gid}" if owner else "user_id=0,group_id=0,allow_other"
    )
    syscalls.mount("squashed", mount_point, "fuse", 6, f"fd={device},rootmode=40000,{whose}")
    print("mounted", flush=True)
    served = Squashed(os.fsencode(backing))
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError as error:
            return 0 if error.errno == errno.ENODEV else 1  # unmounted
        opcode, unique = _HEADER.unpack_from(request)[1:3]
        if opcode in _SILENT:
            continue
        code, data = served.answer(request)
        os.write(device, struct.pack("<IiQ", 16 + len(data), code, unique) + data)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
