"""Upload a file into an object: in parts if it is large, each with its Content-MD5; it appears when it is complete.

The agent is told of a multipart upload when it begins, so that another worker can resume or abort it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable
from typing import Any

from botocore.exceptions import ClientError

from pbsdock.staging.errors import StageError, TransientError, code_of
from pbsdock.staging.names import PART, part_size
from pbsdock.staging.progress import Progress
from pbsdock.staging.retry import RetryPolicy
from pbsdock.staging.worker_pool import Task


class Upload:
    """An upload of a file."""

    def __init__(
        self,
        client: Any,
        path: str,
        bucket: str,
        key: str,
        progress: Progress,
        retry: RetryPolicy,
        begun: Callable[[str], None],
        upload_id: str = "",
    ) -> None:
        self.client = client
        self.path = path
        self.bucket = bucket
        self.key = key
        self.progress = progress
        self.retry = retry
        self.begun = begun
        self.upload_id = upload_id

    @property
    def address(self) -> str:
        """For a sentence."""
        return f"s3://{self.bucket}/{self.key}"

    def __call__(self) -> Iterable[Task] | None:
        """Upload it, or return a task for each part. Raises StageError, OSError."""
        fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise StageError("not-a-file", f"{self.path} is no regular file any more")
        if found.st_size > PART:
            return _Parts(self, fd, found).tasks()
        try:
            data = _read(fd, 0, found.st_size, self.path)
            digest = hashlib.md5(data)  # noqa: S324 - S3's own
            answer = self.retry.call(
                lambda: self.client.put_object(
                    Bucket=self.bucket, Key=self.key, Body=data, ContentMD5=base64.b64encode(digest.digest()).decode()
                ),
                self.address,
            )
            self.finish(fd, found, str(answer.get("ETag", "")), digest.hexdigest())
        finally:
            os.close(fd)
        self.progress.add(found.st_size)
        return None

    def finish(self, fd: int, before: os.stat_result, etag: str, digest: str) -> None:
        """Compare checksums, and the file with what it was. Raises StageError."""
        if etag.strip('"') != digest:
            raise StageError("checksum", f"{self.address}: the store has another checksum than {self.path}")
        after = os.fstat(fd)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise StageError("changed", f"{self.path} was changed while it was copied to {self.address}")
        self.progress.add(files=1)


class _Parts:
    """The multipart upload of a large file. The last part to be sent completes it."""

    def __init__(self, whole: Upload, fd: int, found: os.stat_result) -> None:
        self.whole = whole
        self.fd = fd
        self.found = found
        self.size = part_size(found.st_size)
        self.count = -(-found.st_size // self.size)
        self.digests: dict[int, bytes] = {}
        self.lock = threading.Lock()

    def tasks(self) -> list[Task]:
        whole = self.whole
        there = self._there() if whole.upload_id else {}
        if not whole.upload_id:
            answer = whole.retry.call(
                lambda: whole.client.create_multipart_upload(Bucket=whole.bucket, Key=whole.key), whole.address
            )
            whole.upload_id = str(answer["UploadId"])
            whole.begun(whole.upload_id)
        return [self._task(index, there.get(index + 1, "")) for index in range(self.count)]

    def _there(self) -> dict[int, str]:
        """Number -> ETag of the parts an earlier worker has sent; the upload is begun anew if it is gone."""
        whole, found, marker = self.whole, dict[int, str](), 0
        while True:
            try:
                page = whole.retry.call(
                    lambda marker=marker: whole.client.list_parts(  # type: ignore[misc]
                        Bucket=whole.bucket, Key=whole.key, UploadId=whole.upload_id, PartNumberMarker=marker
                    ),
                    whole.address,
                )
            except StageError:
                whole.upload_id = ""
                return {}
            found |= {int(part["PartNumber"]): str(part["ETag"]).strip('"') for part in page.get("Parts", ())}
            if not page.get("IsTruncated"):
                return found
            marker = int(page["NextPartNumberMarker"])

    def _task(self, index: int, there: str) -> Task:
        def send() -> None:
            whole, offset = self.whole, index * self.size
            data = _read(self.fd, offset, min(self.size, self.found.st_size - offset), whole.path)
            digest = hashlib.md5(data)  # noqa: S324
            if there != digest.hexdigest():
                whole.retry.call(lambda: self._send(index, data, digest.digest()), whole.address)
            whole.progress.add(len(data))
            with self.lock:
                self.digests[index] = digest.digest()
                last = len(self.digests) == self.count
            if last:
                self._finish()

        return send

    def _send(self, index: int, data: bytes, digest: bytes) -> None:
        whole = self.whole
        answer = whole.client.upload_part(
            Bucket=whole.bucket,
            Key=whole.key,
            UploadId=whole.upload_id,
            PartNumber=index + 1,
            Body=data,
            ContentMD5=base64.b64encode(digest).decode(),
        )
        if str(answer.get("ETag", "")).strip('"') != digest.hex():
            raise TransientError("the store has another checksum for a part")

    def _finish(self) -> None:
        whole = self.whole
        parts = [{"PartNumber": index + 1, "ETag": self.digests[index].hex()} for index in range(self.count)]
        joined = hashlib.md5(b"".join(self.digests[index] for index in range(self.count))).hexdigest()  # noqa: S324
        try:
            whole.retry.call(lambda: self._complete(parts), whole.address)
            # Asked for: Ceph 16 answers the completion with an empty ETag (observed).
            answer = whole.retry.call(
                lambda: whole.client.head_object(Bucket=whole.bucket, Key=whole.key), whole.address
            )
            whole.finish(self.fd, self.found, str(answer.get("ETag", "")), f"{joined}-{self.count}")
        finally:
            os.close(self.fd)
        whole.begun("")

    def _complete(self, parts: list[dict[str, Any]]) -> None:
        whole = self.whole
        try:
            whole.client.complete_multipart_upload(
                Bucket=whole.bucket, Key=whole.key, UploadId=whole.upload_id, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise
            # Completed by a try whose answer was lost, or ended by somebody: what the object is then tells.


def abort(client: Any, bucket: str, key: str, upload_id: str, retry: RetryPolicy) -> None:
    """Abort a multipart upload; no error if there is none. Raises StageError."""

    def act() -> None:
        try:
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
        except ClientError as error:
            if code_of(error) not in ("NoSuchUpload", "NoSuchKey", "404"):
                raise

    retry.call(act, f"s3://{bucket}/{key}")


def _read(fd: int, offset: int, size: int, path: str) -> bytes:
    parts = []
    while size:
        data = os.pread(fd, min(size, 1 << 24), offset)
        if not data:
            raise StageError("changed", f"{path} became shorter while it was copied")
        parts.append(data)
        size, offset = size - len(data), offset + len(data)
    return b"".join(parts)
