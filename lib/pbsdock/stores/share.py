"""Opens what jobs write to the owner of the bucket they write it to."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable

from pbsdock.config.tables import StoreConfig
from pbsdock.core.plan import BucketGrant
from pbsdock.s3.document import shared
from pbsdock.stores.errors import StoreError
from pbsdock.stores.rgw import Gateway
from pbsdock.stores.secret import Secret

_FRESH_S = 600.0
_TRIES, _JITTER_S = 5, 0.05


class Sharer:
    """Remembers for some minutes which buckets are well, so that not every job asks."""

    def __init__(self, gateway: Gateway, store: StoreConfig, failed: Callable[[str, str], None]) -> None:
        self.gateway = gateway
        self.enabled = store.share
        self._failed = failed
        self._well: dict[str, float] = {}
        self._lock = threading.Lock()  # this node's jobs, one after another

    def due(self, grants: Iterable[BucketGrant]) -> tuple[str, ...]:
        """The buckets that something may be written into and that have not been looked at lately."""
        now = time.monotonic()
        written = dict.fromkeys(grant.bucket for grant in grants if not grant.read_only)
        return tuple(
            bucket for bucket in written if self.enabled and now - self._well.get(bucket, -_FRESH_S) >= _FRESH_S
        )

    def share(self, session: Secret, buckets: Iterable[str]) -> None:
        """See to it that each bucket's policy has the statement. A failure is told; the job can run without."""
        for bucket in buckets:
            try:
                with self._lock:
                    self._share(session, bucket)
                self._well[bucket] = time.monotonic()
            except (StoreError, ValueError) as error:
                self._failed(bucket, error.reason if isinstance(error, StoreError) else str(error))

    def _share(self, session: Secret, bucket: str) -> None:
        """Read, write, and look: another node, or the bucket's owner, may write at the same time.

        A gateway takes no condition with a policy (Ceph 16), so the last one to write wins. Whoever finds their
        statement gone tries again from what is there now. Raises StoreError when that is in vain.
        """
        owner = self.gateway.bucket_owner(session, bucket)
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(random.uniform(0, _JITTER_S * 2**attempt))  # noqa: S311 - so that two do not go on in step
            changed = shared(self.gateway.bucket_policy(session, bucket), bucket, owner)
            if changed is None:
                return
            self.gateway.set_bucket_policy(session, bucket, changed)
            if shared(self.gateway.bucket_policy(session, bucket), bucket, owner) is None:
                return
        raise StoreError(
            "store-failed", f"its policy was overwritten by others {_TRIES} times in a row", self.gateway.name
        )
