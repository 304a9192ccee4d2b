"""Download an object into a file: in parts if it is large, verified, and renamed to its name when it is complete.

A large download can be resumed: a second file holds a header that identifies the object, and a byte for each part that
has arrived.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pbsdock.staging.errors import StageError, TransientError
from pbsdock.staging.made import Made
from pbsdock.staging.names import PART, likely_part_sizes, parts_of
from pbsdock.staging.progress import Progress
from pbsdock.staging.retry import RetryPolicy
from pbsdock.staging.worker_pool import Task

# Small enough that what is hashed and written is still in a processor's cache; 256 KiB took 4 % more CPU time.
_CHUNK = 512 << 10
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]  # off_t of a 64-bit Linux
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Source:
    """An object as listed. *size* in bytes, *modified* in seconds since the epoch."""

    bucket: str
    key: str
    size: int
    etag: str
    modified: float

    @property
    def address(self) -> str:
        """For a sentence."""
        return f"s3://{self.bucket}/{self.key}"


class Download:
    """A download. *unfinished* is a directory on the same file system as *path*."""

    def __init__(
        self,
        client: Any,
        source: Source,
        path: str,
        unfinished: str,
        progress: Progress,
        retry: RetryPolicy,
        made: Made,
    ) -> None:
        self.client = client
        self.source = source
        self.path = path
        self.temporary = os.path.join(unfinished, hashlib.sha256(source.key.encode()).hexdigest()[:32])
        self.progress = progress
        self.retry = retry
        self.made = made

    def is_there(self) -> bool:
        """Whether *path* has the object's size and time: then an earlier run has downloaded it."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return found.st_size == self.source.size and abs(found.st_mtime - self.source.modified) < 0.001

    def __call__(self) -> Iterable[Task] | None:
        """Download it, or return a task for each part. Raises StageError, OSError."""
        if self.source.size > PART:
            return _Parts(self).tasks()
        fd = os.open(self.temporary, _FLAGS, 0o666)
        try:
            digest = self.retry.call(lambda: self.fetch(fd, 0, self.source.size), self.source.address)
            etag = self.source.etag.strip('"')
            parts = parts_of(etag)
            known = etag if parts != 1 else None
            if parts == 1:  # an upload in parts that had one
                known, digest = etag, hashlib.md5(bytes.fromhex(digest)).hexdigest() + "-1"  # noqa: S324 - S3's own
            self.settle(fd, verified=digest == known, comparable=parts <= 1 and _is_digest(etag))
        finally:
            os.close(fd)
        return None

    def fetch(self, fd: int, offset: int, size: int) -> str:
        """Fetch *size* bytes from *offset* on into the same place of *fd*; returns their MD5. Raises TransientError."""
        if size == 0:
            return hashlib.md5(b"").hexdigest()  # noqa: S324
        more = {} if size == self.source.size else {"Range": f"bytes={offset}-{offset + size - 1}"}
        answer = self.client.get_object(
            Bucket=self.source.bucket, Key=self.source.key, IfMatch=self.source.etag, **more
        )
        digest, done = hashlib.md5(), 0  # noqa: S324
        try:
            while data := answer["Body"].read(_CHUNK):
                if done + len(data) > size:
                    raise TransientError("the answer was longer than the object")
                digest.update(data)
                _write(fd, data, offset + done)
                done += len(data)
                self.retry.progressed()
                if self.retry.stopped.is_set():
                    raise StageError("stopped", "it was stopped")
        finally:
            answer["Body"].close()
        if done != size:
            raise TransientError("the answer came short")
        self.progress.add(done)
        return digest.hexdigest()

    def settle(self, fd: int, *, verified: bool, comparable: bool) -> None:
        """Rename the file to its name. Raises StageError if its checksum is not the store's."""
        if comparable and not verified:
            raise StageError("checksum", f"{self.source.address}: what arrived does not have the store's checksum")
        os.ftruncate(fd, self.source.size)
        self.made.directory(os.path.dirname(self.path))
        os.utime(fd, (self.source.modified, self.source.modified))
        os.rename(self.temporary, self.path)
        self.made.file(self.path)
        self.progress.add(files=1, unverified=int(not verified))


class _Parts:
    """The download of a large object. The last part to arrive renames the file."""

    def __init__(self, whole: Download) -> None:
        self.whole = whole
        source = whole.source
        self.guesses = likely_part_sizes(source.size, source.etag)
        self.size = self.guesses[0] if self.guesses else PART
        self.count = -(-source.size // self.size)
        head = {"etag": source.etag, "size": source.size, "part": self.size}
        self.head = json.dumps(head).encode() + b"\n"
        self.fd = self.marks = -1
        self.digests: dict[int, str] = {}
        self.lock = threading.Lock()
        self.whole_digest = hashlib.md5()  # noqa: S324
        self.hashed = 0
        self.hashing = threading.Lock()

    def tasks(self) -> list[Task]:
        self.fd = os.open(self.whole.temporary, _FLAGS, 0o666)
        _allocate(self.fd, self.whole.source.size)
        self.marks = os.open(f"{self.whole.temporary}.parts", _FLAGS, 0o600)
        marks = os.pread(self.marks, len(self.head) + self.count, 0)
        if not marks.startswith(self.head):
            os.ftruncate(self.marks, 0)
            os.pwrite(self.marks, self.head + bytes(self.count), 0)
            marks = b""
        there = marks[len(self.head) :].ljust(self.count, b"\0")
        return [self._task(index, there=bool(there[index])) for index in range(self.count)]

    def _task(self, index: int, *, there: bool) -> Task:
        def fetch() -> None:
            offset = index * self.size
            size = min(self.size, self.whole.source.size - offset)
            if there:
                digest = _digest_of(self.fd, offset, size)
                self.whole.progress.add(size)
            else:
                digest = self.whole.retry.call(
                    lambda: self.whole.fetch(self.fd, offset, size), self.whole.source.address
                )
                os.pwrite(self.marks, b"1", len(self.head) + index)
            self._arrived(index, digest)

        return fetch

    def _arrived(self, index: int, digest: str) -> None:
        with self.lock:
            self.digests[index] = digest
            last = len(self.digests) == self.count
        if not self.guesses and _is_digest(self.whole.source.etag.strip('"')):
            self._hash_on(wait=last)
        if last:
            self._finish()

    def _hash_on(self, *, wait: bool) -> None:
        """Extend the MD5 of an object with a single checksum over the parts that have arrived without a gap."""
        if not self.hashing.acquire(blocking=wait):
            return
        try:
            while self.hashed in self.digests:
                offset = self.hashed * self.size
                end = min(offset + self.size, self.whole.source.size)
                for at in range(offset, end, _CHUNK):
                    self.whole_digest.update(os.pread(self.fd, min(_CHUNK, end - at), at))
                self.hashed += 1
        finally:
            self.hashing.release()

    def _finish(self) -> None:
        source = self.whole.source
        etag = source.etag.strip('"')
        try:
            if self.guesses:
                verified = any(etag == self._of_parts(size) for size in self.guesses)
                self.whole.settle(self.fd, verified=verified, comparable=False)
            else:
                self.whole.settle(self.fd, verified=etag == self.whole_digest.hexdigest(), comparable=_is_digest(etag))
        finally:
            os.close(self.fd)
            os.close(self.marks)
        os.unlink(f"{self.whole.temporary}.parts")

    def _of_parts(self, size: int) -> str:
        """The ETag the object would have with parts of *size*."""
        if size == self.size:
            digests = [self.digests[index] for index in range(self.count)]
        else:
            whole = self.whole.source.size
            digests = [_digest_of(self.fd, at, min(size, whole - at)) for at in range(0, whole, size)]
        joined = hashlib.md5(b"".join(bytes.fromhex(digest) for digest in digests))  # noqa: S324
        return f"{joined.hexdigest()}-{len(digests)}"


def _allocate(fd: int, size: int) -> None:
    """Have the file system set *size* bytes aside, so that writing them costs it less, and tells
    at once where a quota has no room. Raises OSError.

    Not ``os.posix_fallocate``: where a file system cannot do it, the C library writes to every block.
    """
    if _LIBC.fallocate(fd, 0, 0, size) != 0 and (number := ctypes.get_errno()) in (errno.ENOSPC, errno.EDQUOT):
        raise OSError(number, os.strerror(number))


def _is_digest(etag: str) -> bool:
    return len(etag) == 32 and all(character in "0123456789abcdef" for character in etag)


def _digest_of(fd: int, offset: int, size: int) -> str:
    digest = hashlib.md5()  # noqa: S324
    for at in range(offset, offset + size, _CHUNK):
        digest.update(os.pread(fd, min(_CHUNK, offset + size - at), at))
    return digest.hexdigest()


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
