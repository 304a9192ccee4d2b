"""Opens what jobs write to the owner of the bucket they write it to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from pbsdock.config.tables import StoreConfig
from pbsdock.core.plan import Grant
from pbsdock.s3.document import shared
from pbsdock.stores.errors import StoreError
from pbsdock.stores.rgw import Gateway
from pbsdock.stores.secret import Secret

_FRESH_S = 600.0


class Sharer:
    """Remembers for some minutes which buckets are well, so that not every job asks."""

    def __init__(self, gateway: Gateway, store: StoreConfig, failed: Callable[[str, str], None]) -> None:
        self.gateway = gateway
        self.enabled = store.share
        self._failed = failed
        self._well: dict[str, float] = {}
        self._lock = threading.Lock()  # two jobs that write one bucket's policy at once would lose a statement

    def due(self, grants: Iterable[Grant]) -> tuple[str, ...]:
        """The buckets that something may be written into and that have not been looked at lately."""
        now = time.monotonic()
        written = dict.fromkeys(one.bucket for one in grants if not one.read_only)
        return tuple(one for one in written if self.enabled and now - self._well.get(one, -_FRESH_S) >= _FRESH_S)

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
        owner = self.gateway.bucket_owner(session, bucket)
        changed = shared(self.gateway.bucket_policy(session, bucket), bucket, owner)
        if changed is not None:
            self.gateway.set_bucket_policy(session, bucket, changed)
