"""A job's object-store credentials in the agent: minted beside its other preparations, delivered, refreshed, revoked.

The record keeps when sessions end and nothing else; what they are called at the gateway follows from its name. So a
crash at any moment leaves nothing that release would not find.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbsdock.agent.locks import Locks
from pbsdock.agent.sessions import Sessions
from pbsdock.config.tables import Config, StoreConfig
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.facts import Credentials
from pbsdock.core.plan import Plan, Store
from pbsdock.core.record import Record
from pbsdock.core.redact import known
from pbsdock.s3.environment import TOKEN

if TYPE_CHECKING:  # botocore and urllib3 are loaded only where a store is configured
    from pbsdock.stores.secret import Minter, Secret

_LEAST_MARGIN_S = 5.0
_TRY_AGAIN_S = 15.0
_LIST_USERS_S, _LIST_IDLE_S = 3600.0, 900.0  # between two lists: of all users; of roles, where none can be expected
_RENEWED_S = 120.0  # how long a revocation waits for what is just being minted anew

Emit = Callable[..., None]


class _Over(Exception):
    """The job's credentials have been revoked."""


class Stores:
    """All stores of this node.

    Many methods because a credential's whole life is here, from minting to revoking, under the same locks and futures.
    """

    def __init__(self, config: Config, owner: str, emit: Emit) -> None:
        self.config = config
        self.owner = owner
        self.emit = emit
        self.sessions = Sessions()
        self._minters: dict[str, Minter] = {}
        self._minting: dict[str, Future[list[tuple[Store, Secret]]]] = {}
        self._next_list: dict[str, float] = {}
        self._mints: dict[str, int] = {}  # by store, begun so far
        self._quiet: set[str] = set()  # stores that had nothing of an idle node, and were asked for nothing since
        self._lock = threading.Lock()
        self._renewing = Locks()  # by incarnation

    # -- minting ------------------------------------------------------------------------------------------------------

    def begin(self, record: Record, plan: Plan) -> None:
        """Begin to mint what the plan asks for, in a thread of its own."""
        future: Future[list[tuple[Store, Secret]]] = Future()
        with self._lock:
            self._minting[record.incarnation] = future
        threading.Thread(target=self._mint_into, args=(future, record, plan), name="mint", daemon=True).start()

    def _mint_into(self, future: Future[list[tuple[Store, Secret]]], record: Record, plan: Plan) -> None:
        try:
            future.set_result(self._mint(record, plan, fresh=True))
        except BaseException as error:
            future.set_exception(error)

    def deliver(self, record: Record, plan: Plan, directory: Path) -> None:
        """Write the files of what was begun; it is minted now if the agent that began it is gone.

        Raises StoreError, OSError.
        """
        with self._lock:
            future = self._minting.pop(record.incarnation, None)
        minted = future.result() if future is not None else self._mint(record, plan, fresh=True)
        self._write(record, plan, minted, directory)

    def _mint(self, record: Record, plan: Plan, *, fresh: bool) -> list[tuple[Store, Secret]]:
        found = []
        for asked in plan.stores:
            began = time.monotonic()
            minter, name = self._minter(asked.name), self._name(record, asked.name)
            with self._lock:
                self._mints[asked.name] = self._mints.get(asked.name, 0) + 1
                self._quiet.discard(asked.name)
            act = minter.mint if fresh else minter.again
            try:
                secret = act(name, record.job_id, asked, self._seconds(plan, asked.name))
            except Refusal as error:
                self._failed(record, asked.name, error)
                raise
            self.emit(
                "credentials.minted" if fresh else "credentials.refreshed",
                record,
                store=asked.name,
                handle=name,
                kind=self.config.s3[asked.name].kind,
                buckets=_shown(asked),
                expires=int(secret.expires) if secret and secret.expires else None,
                ms=round((time.monotonic() - began) * 1000, 1),
            )
            if secret is not None:
                known.add(record.incarnation, secret.access_key, secret.secret_key, secret.token)
                found.append((asked, secret))
        return found

    def _write(self, record: Record, plan: Plan, minted: list[tuple[Store, Secret]], directory: Path) -> None:
        from pbsdock.stores import files

        record.note(credentials=Credentials())
        if not minted:
            return
        delivered = [files.Delivered(store, self._store(store.name).path_style, secret) for store, secret in minted]
        texts = files.texts(delivered)
        for store, _ in minted:
            if store.ca_file:
                texts[store.ca_file] = Path(self._store(store.name).ca_bundle).read_text(encoding="utf-8")
        if plan.credentials_port:
            texts[TOKEN] = self.sessions.token_for(record.incarnation, plan.uid, directory)
        files.deliver(directory, texts, plan.uid, plan.gid)
        self.sessions.keep(record.incarnation, {store.name: secret for store, secret in minted})
        now = time.time()
        ends = [secret.expires for _, secret in minted if secret.expires is not None]
        due = min((self._refresh_at(plan, now, end) for end in ends), default=None)
        record.note(credentials=Credentials(refresh_at=due))

    def _refresh_at(self, plan: Plan, now: float, end: float) -> float:
        """Well before the end by either clock, and not so early that a gateway is asked all the time."""
        skew = max(self._store(store.name).skew_s for store in plan.stores)
        margin = min(skew + 60.0, (end - now) / 2)
        return end - max(_LEAST_MARGIN_S, margin)

    def _seconds(self, plan: Plan, store: str) -> int:
        settings = self._store(store)
        if plan.walltime_s is None:
            return int(settings.lifetime_s)
        return int(min(settings.lifetime_s, plan.walltime_s + settings.grace_s))

    # -- refreshing ---------------------------------------------------------------------------------------------------

    def refresh(self, record: Record, directory: Path) -> bool:
        """Replace the files if it is time; returns whether it was. A failure is told and tried again soon."""
        due = (record.facts.credentials or Credentials()).refresh_at
        if due is None or time.time() < due or record.plan is None:
            return False
        plan = record.plan
        try:
            with self._renewed(record):
                self._write(record, plan, self._mint(record, plan, fresh=False), directory)
        except (_Over, TimeoutError):
            return False
        except (Refusal, OSError) as error:
            record.note(credentials=Credentials(refresh_at=time.time() + _TRY_AGAIN_S))
            if isinstance(error, OSError):
                reason = f"the files cannot be written: {error.strerror}"
                self.emit("store.failed", record, level="error", reason=reason)
        return True

    def recall(self, record: Record, directory: Path) -> None:
        """After a restart: what the container's token stands for; its sessions are minted anew when asked for."""
        plan = record.planned
        if plan.credentials_port and (directory / TOKEN).exists():
            self.sessions.token_for(record.incarnation, plan.uid, directory)

    def session(self, record: Record, store: str) -> Secret | None:
        """A session of the container's that lasts for a while; None if it has nothing at *store* ("": its first).

        Raises StoreError.
        """
        plan = record.planned
        asked = next((offer for offer in plan.stores if offer.container and store in ("", offer.name)), None)
        if asked is None:
            return None
        secret = self.sessions.kept(record.incarnation, asked.name)
        now = time.time()
        if secret is None or (secret.expires is not None and now >= self._refresh_at(plan, now, secret.expires)):
            only = replace(plan, stores=(asked,))
            try:
                with self._renewed(record):
                    secret = self._mint(record, only, fresh=False)[0][1]
                    self.sessions.keep(record.incarnation, {asked.name: secret})
            except _Over:
                return None
        return secret

    @contextmanager
    def _renewed(self, record: Record) -> Iterator[None]:
        """While something is minted anew, which makes a role or user again if it is gone. Raises _Over, TimeoutError.

        Not under the job's lock, for which mom's hooks wait: a gateway may be slow.
        """
        with self._renewing.hold(record.incarnation, _RENEWED_S):
            if record.facts.revoked:
                raise _Over
            yield

    # -- staging ------------------------------------------------------------------------------------------------------

    def staging(self, record: Record, plan: Plan) -> dict[str, Secret]:
        """Keys of the staging worker, by store. Raises StoreError."""
        with self._lock:
            future = self._minting.get(record.incarnation)
        if future is not None:
            future.result()  # the role must be there first
        elif record.facts.credentials is None:
            if record.facts.revoked:  # what is left of an upload is to be ended; and then this is
                record.note(revoked=False)
                record.set_gone("credentials", gone=False)
            self.begin(record, plan)
            return self.staging(record, plan)
        found = {}
        for asked in plan.stores:
            if asked.staging:
                name, seconds = self._name(record, asked.name), int(self._store(asked.name).lifetime_s)
                secret = self._minter(asked.name).staging(name, record.job_id, asked, seconds)
                known.add(record.incarnation, secret.access_key, secret.secret_key, secret.token)
                found[asked.name] = secret
        return found

    # -- revoking -----------------------------------------------------------------------------------------------------

    def revoke(self, record: Record) -> None:
        """End everything of the record's at every store. Raises NodeFault with what could not be ended."""
        with self._lock:
            future = self._minting.pop(record.incarnation, None)
        if future is not None:
            future.exception()  # what is still being made would outlive its own removal
        try:
            with self._renewing.hold(record.incarnation, _RENEWED_S):
                record.note(revoked=True)  # from here on nothing is made again
        except TimeoutError:
            raise NodeFault("credentials-stay", "they are being minted anew; the gateway is slow") from None
        left = []
        for store in (asked.name for asked in (record.plan.stores if record.plan else ())):
            name = self._name(record, store)
            try:
                self._minter(store).revoke(name)
                self.emit("credentials.revoked", record, store=store, handle=name)
                for other in self._names_elsewhere(record, store):
                    self._minter(store).revoke(other)
            except Refusal as error:
                left.append(error.sentence)
        known.forget(record.incarnation)
        self.sessions.forget(record.incarnation)
        if left:
            raise NodeFault("credentials-stay", "; ".join(left))

    def listed(self, *, is_idle: bool = False) -> list[tuple[str, str, str]]:
        """(store, name, incarnation) of everything the gateways have of this node.

        A gateway that does not answer is passed over, and told: it is asked again with the next pass. One that has to
        go through all its users for it is asked once an hour, and with *is_idle*, where no job has credentials, any
        four times an hour: nothing new can be there, and thousands of idle nodes ask.
        """
        from pbsdock.stores.secret import incarnation_of

        found = []
        for store, settings in self.config.s3.items():
            by_user = settings.kind == "key"
            with self._lock:
                mints, is_quiet = self._mints.get(store, 0), is_idle and store in self._quiet
            if (by_user or is_quiet) and time.monotonic() < self._next_list.get(store, 0.0):
                continue
            try:
                names = self._minter(store).mine(self.owner)
            except Refusal as error:
                self._failed(None, store, error)
                continue
            self._next_list[store] = time.monotonic() + (_LIST_USERS_S if by_user else _LIST_IDLE_S)
            ours = [(name, incarnation_of(name, self.owner, store)) for name in names]
            here = [(store, name, incarnation) for name, incarnation in ours if incarnation is not None]
            with self._lock:
                self._quiet.discard(store)
                if is_idle and not here and mints == self._mints.get(store, 0):
                    self._quiet.add(store)
            found += here
        return found

    def revoke_orphan(self, store: str, name: str) -> None:
        """End what :meth:`listed` has found. Raises StoreError."""
        self._minter(store).revoke(name)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _store(self, name: str) -> StoreConfig:
        found = self.config.s3.get(name)
        if found is None:
            raise Refusal("no-such-store", f"object store {name}: it is no longer in the site's configuration")
        return found

    def _minter(self, store: str) -> Minter:
        settings = self._store(store)
        with self._lock:
            if store not in self._minters:
                self._minters[store] = self._make(store, settings)
            return self._minters[store]

    def _name(self, record: Record, store: str) -> str:
        from pbsdock.stores.secret import name_of

        return name_of(self.owner, record.incarnation, store)

    def _names_elsewhere(self, record: Record, store: str) -> list[str]:
        """On the mother superior, what the job's sisters call theirs: one that was lost cannot revoke them itself."""
        from pbsdock.stores.secret import name_of

        instance, _, here = self.owner.partition("@")
        hosts = record.facts.hosts[1:] if record.facts.ticket and not record.facts.mother else ()
        return [name_of(f"{instance}@{host}", record.incarnation, store) for host in hosts if host != here]

    def _make(self, name: str, store: StoreConfig) -> Minter:
        from pbsdock.stores.make import minter_of
        from pbsdock.stores.rgw import Gateway

        def failed(bucket: str, reason: str) -> None:
            self.emit("store.failed", level="warning", store=name, reason=f"sharing bucket {bucket!r}: {reason}")

        return minter_of(Gateway(name, store), store, self.owner, failed)

    def _failed(self, record: Record | None, store: str, error: Refusal) -> None:
        reason: Any = getattr(error, "reason", error.sentence)
        self.emit("store.failed", record, level="error", store=store, code=error.code, reason=reason)


def _shown(asked: Store) -> str:
    """What is asked for, for the stream: names of buckets, never a key."""
    grants = (*asked.container, *asked.staging)
    return ",".join(dict.fromkeys(f"{grant.bucket}:{'ro' if grant.read_only else 'rw'}" for grant in grants))
